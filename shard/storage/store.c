#include "shard/storage/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "shard/storage/manifest.h"
#include "shard/storage/row_codec.h"
#include "shard/storage/store_state.h"

#define WAL_STEP_BYTES (4u << 20) /* also what an empty slice costs */

/* ---- create and destroy -----------------------------------------------------------------------
 */

static void parent_of(const char *path, char parent[STORE_PATH_BYTES])
{
    const char *slash = strrchr(path, '/');
    size_t len = slash != NULL ? (size_t)(slash - path) : 0;
    memcpy(parent, path, len);
    parent[len] = '\0';
}

static enum kith_err check_dir(const char *dir, struct kith_diag *diag)
{
    size_t len = dir != NULL ? strlen(dir) : 0;
    if (len == 0 || len >= STORE_PATH_BYTES - 64)
        return kith_fail(diag, KITH_BAD_REQUEST, "folder of a slice: 1 to %u bytes",
                         STORE_PATH_BYTES - 65);
    return KITH_OK;
}

/* Every folder on the way, each durable in its parent. */
static enum kith_err make_dirs(struct io *io, const char *dir, struct kith_diag *diag)
{
    char path[STORE_PATH_BYTES], parent[STORE_PATH_BYTES];
    enum kith_err err = KITH_OK;
    for (size_t i = 1; err == KITH_OK && i <= strlen(dir); i++) {
        if (dir[i] != '/' && dir[i] != '\0')
            continue;
        memcpy(path, dir, i);
        path[i] = '\0';
        parent_of(path, parent);
        err = io->make_dir(io->self, path, diag);
        if (err == KITH_OK)
            err = io->sync_dir(io->self, parent, diag);
    }
    return err;
}

struct names {
    struct io *io;
    const char *dir;
    bool (*wanted)(void *ctx, const char *kind, uint64_t number);
    void *ctx;
    char (*list)[64];
    size_t n, cap;
    bool failed;
};

static void on_name(void *ctx, const char *name)
{
    struct names *names = ctx;
    void *list = names->list;
    if (strlen(name) >= sizeof names->list[0])
        return; /* none of ours */
    if (!kith_grow(&list, &names->cap, names->n + 1, sizeof names->list[0])) {
        names->failed = true;
        return;
    }
    names->list = list;
    (void)snprintf(names->list[names->n++], sizeof names->list[0], "%s", name);
}

/* "seg-00000000000000ff" to "seg" and 255; anything else has the kind "". */
static uint64_t parse_name(const char *name, char kind[4])
{
    char *rest = NULL;
    kind[0] = '\0';
    if (strlen(name) != 20 || name[3] != '-')
        return 0;
    uint64_t number = strtoull(name + 4, &rest, 16);
    if (*rest != '\0')
        return 0;
    memcpy(kind, name, 3);
    kind[3] = '\0';
    return number;
}

/* Removes every file of the folder that is not wanted. */
static enum kith_err sweep(struct names *names, struct kith_diag *diag)
{
    struct io *io = names->io;
    enum kith_err err = io->list(io->self, names->dir, on_name, names, diag);
    if (err == KITH_OK && names->failed)
        err = kith_fail(diag, KITH_NOMEM, "names in %s", names->dir);
    for (size_t i = 0; i < names->n && err == KITH_OK; i++) {
        char kind[4], path[STORE_PATH_BYTES + 64];
        uint64_t number = parse_name(names->list[i], kind);
        if (strcmp(names->list[i], "MANIFEST") == 0 ||
            (names->wanted != NULL && names->wanted(names->ctx, kind, number)))
            continue;
        (void)snprintf(path, sizeof path, "%s/%s", names->dir, names->list[i]);
        err = io->unlink(io->self, path, diag);
    }
    kith_free(names->list);
    return err;
}

static enum kith_err check_config(const struct slice_config *config, struct kith_diag *diag)
{
    if (config->dim == 0 || config->dim > KITH_DIM_MAX)
        return kith_fail(diag, KITH_BAD_REQUEST, "dimension: 1 to %u", KITH_DIM_MAX);
    if (config->metric < KITH_COSINE || config->metric > KITH_MANHATTAN ||
        config->rows < KITH_ROWS_F32 || config->rows > KITH_ROWS_F16 ||
        config->index > KITH_INDEX_FAISS ||
        (config->index == KITH_INDEX_FAISS) != (config->factory[0] != '\0'))
        return kith_fail(diag, KITH_BAD_REQUEST, "metric, row type or index: unknown");
    return KITH_OK;
}

enum kith_err store_create(const struct store_options *options, const struct slice_config *config,
                           struct kith_diag *diag)
{
    struct io *io = options->io;
    struct io_file *file = NULL;
    struct wal *wal = NULL;
    char path[STORE_PATH_BYTES + 16];
    enum kith_err err = check_dir(options->dir, diag);
    if (err == KITH_OK)
        err = check_config(config, diag);
    if (err != KITH_OK)
        return err;
    manifest_path(path, sizeof path, options->dir);
    err = io->open(io->self, path, IO_READ, &file, NULL);
    io->close(io->self, file);
    if (err == KITH_OK)
        return kith_fail(diag, KITH_EXISTS, "%s exists", options->dir);
    err = make_dirs(io, options->dir, diag);
    /* What an interrupted creation left: without a manifest it is nothing. */
    struct names names = {.io = io, .dir = options->dir};
    if (err == KITH_OK)
        err = sweep(&names, diag);
    names = (struct names){.io = io, .dir = options->dir};
    struct wal_options wal_options = {
        .io = io,
        .dir = options->dir,
        .config = config,
        .step_bytes = options->wal_step_bytes != 0 ? options->wal_step_bytes : WAL_STEP_BYTES,
    };
    if (err == KITH_OK)
        err = wal_create(&wal, &wal_options, 1, NULL, diag);
    wal_close(wal);
    struct manifest manifest = {.config = *config, .first_wal = 1, .wal = 1, .next_file = 1};
    if (err == KITH_OK)
        err = manifest_store(&manifest, io, options->dir, diag);
    if (err == KITH_DISK_FULL) { /* so no manifest got its name: nothing needs to stay */
        (void)sweep(&names, NULL);
        (void)io->remove_dir(io->self, options->dir, NULL);
    }
    return err;
}

enum kith_err store_peek(const struct store_options *options, struct slice_config *out,
                         struct kith_diag *diag)
{
    struct manifest manifest = {0};
    enum kith_err err = check_dir(options->dir, diag);
    if (err == KITH_OK)
        err = manifest_load(&manifest, options->io, options->dir, diag);
    if (err == KITH_OK)
        *out = manifest.config;
    manifest_fini(&manifest);
    return err;
}

enum kith_err store_destroy(const struct store_options *options, struct kith_diag *diag)
{
    struct io *io = options->io;
    char path[STORE_PATH_BYTES + 16], parent[STORE_PATH_BYTES];
    enum kith_err err = check_dir(options->dir, diag);
    if (err != KITH_OK)
        return err;
    manifest_path(path, sizeof path, options->dir);
    err = io->unlink(io->self, path, diag);
    if (err == KITH_OK)
        err = io->sync_dir(io->self, options->dir, diag); /* from here on there is no slice */
    struct names names = {.io = io, .dir = options->dir};
    if (err == KITH_OK)
        err = sweep(&names, diag);
    if (err == KITH_OK)
        err = io->remove_dir(io->self, options->dir, diag);
    parent_of(options->dir, parent);
    if (err == KITH_OK)
        err = io->sync_dir(io->self, parent, diag);
    return err;
}

/* ---- open -------------------------------------------------------------------------------------
 */

static enum kith_err init_locks(struct store *store, struct kith_diag *diag)
{
    pthread_condattr_t attr;
    int rc = pthread_condattr_init(&attr);
    if (rc == 0)
        rc = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    if (rc == 0)
        rc = pthread_mutex_init(&store->lock, NULL);
    if (rc == 0)
        rc = pthread_cond_init(&store->writer_wake, &attr);
    if (rc == 0)
        rc = pthread_cond_init(&store->changed, &attr);
    (void)pthread_condattr_destroy(&attr);
    return rc == 0 ? KITH_OK : kith_fail(diag, KITH_NOMEM, "locks");
}

static void free_store(struct store *store)
{
    view_unref(store->view);
    for (uint32_t i = 0; i < store->n_stored; i++) {
        segment_unref(store->stored[i].segment);
        deletes_unref(store->stored[i].deletes);
    }
    for (uint32_t i = 0; i < store->n_segments; i++) {
        segment_unref(store->segments[i].segment);
        deletes_unref(store->segments[i].deletes);
    }
    for (uint32_t i = 0; i < store->n_heads; i++)
        head_unref(store->heads[i]);
    wal_close(store->wal);
    segment_cache_fini(&store->cache);
    kith_buf_fini(&store->row);
    kith_buf_fini(&store->edit);
    kith_buf_fini(&store->edit2);
    kith_free(store->undo);
    kith_free(store->picked);
    (void)pthread_cond_destroy(&store->writer_wake);
    (void)pthread_cond_destroy(&store->changed);
    (void)pthread_mutex_destroy(&store->lock);
    kith_free(store);
}

static enum kith_err init(struct store *store, const struct store_options *options,
                          const struct manifest *manifest, struct kith_diag *diag)
{
    (void)snprintf(store->dir, sizeof store->dir, "%s", options->dir);
    store->io = options->io;
    store->config = manifest->config;
    store->select = options->select;
    store->index = options->index;
    if (options->sketch != NULL)
        options->sketch(&store->config, &store->sketch);
    store->background = options->background;
    store->opened_ns = kith_now_ns();
    store->row_bytes = row_codec_bytes(&store->config);
    store->head_rows_max =
        options->head_rows_max != 0 ? options->head_rows_max : KITH_HEAD_ROWS_MAX;
    store->head_bytes_max =
        options->head_bytes_max != 0 ? options->head_bytes_max : KITH_HEAD_BYTES_MAX;
    store->wal_file_bytes_max =
        options->wal_file_bytes_max != 0 ? options->wal_file_bytes_max : KITH_WAL_FILE_MAX;
    store->rest_after_ns =
        UINT64_C(1000000) * (options->rest_ms != 0 ? options->rest_ms : KITH_HEAD_REST_MS);
    atomic_init(&store->rest_ns, kith_now_ns() + store->rest_after_ns); /* of what is replayed */
    store->wal_options = (struct wal_options){
        .io = store->io,
        .dir = store->dir,
        .config = &store->config,
        .step_bytes = options->wal_step_bytes != 0 ? options->wal_step_bytes : WAL_STEP_BYTES,
    };
    store->queue_end = &store->queue_first;
    store->merge_nudges = 1; /* nobody has looked yet */
    store->seq = store->sealed_seq = manifest->sealed_seq;
    store->first_wal = store->oldest_wal = manifest->first_wal;
    store->synced_wal = manifest->wal;
    store->synced_end = manifest->wal_end;
    atomic_init(&store->next_file, manifest->next_file);
    op_window_init(&store->ops);
    for (uint32_t i = 0; i < manifest->n_ops; i++)
        if (op_window_find(&store->ops, manifest->ops[i].op_id) == NULL)
            op_window_add(&store->ops, &manifest->ops[i]);
    if (kith_buf_reserve(&store->row, store->row_bytes) == NULL)
        return kith_fail(diag, KITH_NOMEM, "store");
    enum kith_err err = head_new(&store->heads[0], store->row_bytes, store_turn_head_cap(store),
                                 &store->sketch, diag);
    if (err == KITH_OK)
        store->n_heads = 1;
    return err;
}

enum kith_err store_segment_open(const struct store *store, uint64_t number, struct segment **out,
                                 struct kith_diag *diag)
{
    struct segment *segment = NULL;
    enum kith_err err = segment_open(&segment, store->io, store->dir, number, &store->config, diag);
    if (err == KITH_OK)
        err = segment_index_open(segment, store->index, diag);
    if (err == KITH_OK)
        *out = segment;
    else
        segment_unref(segment);
    return err;
}

struct segment_writer_options store_segment_options(const struct store *store, uint64_t number,
                                                    uint32_t n_rows)
{
    return (struct segment_writer_options){
        .io = store->io,
        .dir = store->dir,
        .config = &store->config,
        .number = number,
        .n_rows = n_rows,
    };
}

static enum kith_err open_segments(struct store *store, const struct manifest *manifest,
                                   struct kith_diag *diag)
{
    for (uint32_t i = 0; i < manifest->n_segments; i++) {
        const struct manifest_segment *entry = &manifest->segments[i];
        struct view_part part = {0};
        enum kith_err err = store_segment_open(store, entry->number, &part.segment, diag);
        if (err == KITH_OK && entry->deletes != 0) {
            char path[STORE_PATH_BYTES + 32];
            store_checkpoint_path(store, "del", entry->deletes, path);
            err = deletes_load(&part.deletes, store->io, path, entry->number,
                               segment_rows(part.segment), diag);
        }
        if (err != KITH_OK) {
            segment_unref(part.segment);
            /* The manifest names it: that it is not there is damage, too. */
            return err == KITH_NOT_FOUND
                       ? kith_fail(diag, KITH_CORRUPT, "%s: segment %" PRIu64 " is missing a file",
                                   store->dir, entry->number)
                       : err;
        }
        store_seal_insert(store, &part);
        segment_ref(part.segment);
        deletes_ref(part.deletes);
        store->stored[store->n_stored++] =
            (struct store_stored){part.segment, part.deletes, entry->deletes};
    }
    return KITH_OK;
}

static bool is_wanted(void *ctx, const char *kind, uint64_t number)
{
    struct store *store = ctx;
    if (strcmp(kind, "wal") == 0)
        return number >= store->first_wal && number <= wal_number(store->wal);
    for (uint32_t i = 0; i < store->n_stored; i++) {
        if (strcmp(kind, "seg") == 0 && segment_number(store->stored[i].segment) == number)
            return true;
        if (strcmp(kind, "del") == 0 && store->stored[i].deletes_file == number)
            return true;
    }
    for (uint32_t i = 0; i < store->n_segments; i++) /* sealed during replay */
        if (strcmp(kind, "seg") == 0 && segment_number(store->segments[i].segment) == number)
            return true;
    if (kind[0] != '\0' && number >= atomic_load(&store->next_file))
        atomic_store(&store->next_file, number + 1); /* a leftover may come back after a crash */
    return false;
}

static enum kith_err start(struct store *store, struct kith_diag *diag)
{
    if (pthread_create(&store->writer, NULL, store_write_thread, store) != 0)
        return kith_fail(diag, KITH_NOMEM, "writer thread");
    pthread_mutex_lock(&store->lock);
    store->writer_runs = true;
    pthread_mutex_unlock(&store->lock);
    enum kith_err err = store_maintain_start(store, diag);
    return err;
}

static void stop(struct store *store)
{
    store_maintain_stop(store);
    pthread_mutex_lock(&store->lock);
    bool runs = store->writer_runs;
    store->stopping = true;
    pthread_cond_broadcast(&store->writer_wake);
    pthread_mutex_unlock(&store->lock);
    if (runs)
        (void)pthread_join(store->writer, NULL);
    store->writer_runs = false;
}

enum kith_err store_open(struct store **out, const struct store_options *options,
                         struct kith_diag *diag)
{
    struct manifest manifest = {0};
    struct view *view = NULL;
    enum kith_err err = check_dir(options->dir, diag);
    if (err == KITH_OK)
        err = manifest_load(&manifest, options->io, options->dir, diag);
    if (err != KITH_OK)
        return err;
    struct store *store = kith_alloc(sizeof *store);
    if (store == NULL || init_locks(store, diag) != KITH_OK) {
        manifest_fini(&manifest);
        kith_free(store);
        return kith_fail(diag, KITH_NOMEM, "store");
    }
    err = init(store, options, &manifest, diag);
    if (err == KITH_OK)
        err = open_segments(store, &manifest, diag);
    if (err == KITH_OK)
        err = store_replay_run(store, diag);
    if (err == KITH_OK) /* replay looked ids up in the segments */
        err = store_write_verdict(store, diag);
    struct names names = {.io = store->io, .dir = store->dir, .wanted = is_wanted, .ctx = store};
    if (err == KITH_OK)
        err = sweep(&names, diag);
    if (err == KITH_OK)
        err = store_write_view(store, &view, diag);
    if (err == KITH_OK) {
        store_write_publish(store, view);
        err = start(store, diag);
    }
    manifest_fini(&manifest);
    if (err == KITH_OK) {
        *out = store;
        return KITH_OK;
    }
    stop(store);
    free_store(store);
    return err;
}

void store_close(struct store *store)
{
    if (store == NULL)
        return;
    stop(store);
    if (!atomic_load(&store->failed))
        (void)store_checkpoint_run(store, NULL); /* only news for the next open */
    store_checkpoint_reap(store);
    for (uint32_t i = 0; i < store->n_graveyard; i++) /* swept at the next open */
        segment_unref(store->graveyard[i]);
    free_store(store);
}

/* ---- facts ------------------------------------------------------------------------------------
 */

const struct slice_config *store_config(const struct store *store)
{
    return &store->config;
}

struct view *store_view(struct store *store)
{
    pthread_mutex_lock(&store->lock);
    struct view *view = store->view;
    view_ref(view);
    pthread_mutex_unlock(&store->lock);
    return view;
}

const char *store_cause_name(enum store_cause cause)
{
    static const char *const names[] = {"log", "seal", "merge", "index", "rest"};
    _Static_assert(sizeof names / sizeof *names == STORE_CAUSES, "a name each");
    return names[cause];
}

void store_stats(struct store *store, struct store_stats *out)
{
    pthread_mutex_lock(&store->lock);
    *out = store->stats;
    out->busy = store->n_frozen > 0 || store->seal_busy || store->merge_busy ||
                store->merge_waits || store->merge_settled != store->merge_nudges;
    struct view *view = store->view;
    view_ref(view);
    pthread_mutex_unlock(&store->lock);
    for (uint32_t i = 0; i < view->n_segments; i++)
        out->quarantined += segment_check(view->segments[i].segment, NULL) != KITH_OK;
    view_unref(view);
}

void store_hold_merges(struct store *store, bool held)
{
    atomic_store_explicit(&store->merges_held, held, memory_order_relaxed);
    store_nudge(store);
}

void store_nudge(struct store *store)
{
    pthread_mutex_lock(&store->lock);
    store->merge_nudges++;
    store_rest_look_locked(store);
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
}
