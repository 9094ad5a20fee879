#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/kith_buf.h"
#include "common/kith_inbox.h"
#include "common/kith_json.h"
#include "common/kith_mem.h"
#include "common/kith_registry_impl.h"
#include "proto/kith_crc32c.h"
#include "proto/kith_limits.h"

/* The registry of one process: a file.
 *
 * Format: one line "kith-registry 1 <crc32c of the rest, hex>\n", then one JSON object
 * {"revision": n, "keys": [{"k": key, "v": value, "r": revision}, ...]}. It is written whole to
 * FILE.tmp, synced, renamed over FILE, and the folder is synced; so FILE is always one complete
 * state, and damage to it is seen by the checksum and refused. FILE.lock is locked while open: two
 * processes on one folder would each believe in their own mirror.
 *
 * Transactions run one at a time, in order. A change is prepared in a copy of the mirror, and the
 * copy becomes the mirror only when its file is safe; so readers never see what a crash could take
 * back, and a failed write leaves nothing behind. The disk work is done by a thread, because a sync
 * can take as long as the disk likes and the loop answers queries meanwhile. Leased keys are not in
 * the file; a transaction with nothing else does not wait for the disk.
 *
 * Lost: a log of changes. It would be faster, and this registry changes a few times a day. */

#define FILE_HEAD      "kith-registry 1 "
#define FILE_BYTES_MAX ((size_t)1 << 30) /* refuse to read more: it cannot be ours */

struct registry_file {
    struct kith_registry base;
    char *path;
    char *tmp;
    char *dir;
    int lock_fd;
    struct kith_timer *step; /* runs the queue in the next turn */
    struct kith_registry_txn *first, **tail;

    /* The write under way: the loop's, but while busy the thread's. */
    bool busy;
    struct kith_registry_mirror next;
    struct kith_buf content;
    enum kith_err write_err;
    struct kith_diag write_diag;
    struct kith_inbox *inbox;
    struct kith_inbox_item written;

    pthread_t thread;
    bool thread_started;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool job;  /* guarded by lock */
    bool stop; /* guarded by lock */
};

static struct registry_file *file_of(struct kith_registry *registry)
{
    return (struct registry_file *)registry; /* base is first */
}

/* ---- the file -------------------------------------------------------------------------------- */

static enum kith_err io_error(struct kith_diag *diag, const char *what, const char *path)
{
    const enum kith_err err = errno == ENOSPC || errno == EDQUOT ? KITH_DISK_FULL : KITH_IO;
    return kith_fail(diag, err, "registry: %s %s: %s", what, path, strerror(errno));
}

static enum kith_err write_all(int fd, const uint8_t *data, size_t len, const char *path,
                               struct kith_diag *diag)
{
    while (len > 0) {
        const ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return io_error(diag, "write", path);
        }
        data += n;
        len -= (size_t)n;
    }
    return KITH_OK;
}

static enum kith_err sync_dir(const char *dir, struct kith_diag *diag)
{
    const int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return io_error(diag, "open", dir);
    }
    const enum kith_err err = fsync(fd) ? io_error(diag, "sync", dir) : KITH_OK;
    close(fd);
    return err;
}

static enum kith_err save(const struct registry_file *file, const struct kith_buf *content,
                          struct kith_diag *diag)
{
    enum kith_err err = KITH_OK;
    const int fd = open(file->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return io_error(diag, "create", file->tmp);
    }
    err = write_all(fd, content->data, content->len, file->tmp, diag);
    if (!err && fsync(fd)) {
        err = io_error(diag, "sync", file->tmp);
    }
    if (close(fd) && !err) {
        err = io_error(diag, "close", file->tmp);
    }
    if (!err && rename(file->tmp, file->path)) {
        err = io_error(diag, "rename to", file->path);
    }
    return err ? err : sync_dir(file->dir, diag);
}

/* False when memory is out. */
static bool serialise(const struct kith_registry_mirror *mirror, uint64_t revision,
                      struct kith_buf *out)
{
    struct kith_buf json = {0};
    struct kith_json_writer w = {.buf = &json};
    kith_jw_begin_object(&w);
    kith_jw_key(&w, "revision");
    kith_jw_u64(&w, revision);
    kith_jw_key(&w, "keys");
    kith_jw_begin_array(&w);
    for (size_t i = 0; i < mirror->n; i++) {
        const struct kith_registry_entry *entry = &mirror->entries[i];
        if (entry->lease) {
            continue;
        }
        kith_jw_begin_object(&w);
        kith_jw_key(&w, "k");
        kith_jw_cstr(&w, entry->key);
        kith_jw_key(&w, "v");
        kith_jw_str(&w, entry->text, entry->len);
        kith_jw_key(&w, "r");
        kith_jw_u64(&w, entry->revision);
        kith_jw_end_object(&w);
    }
    kith_jw_end_array(&w);
    kith_jw_end_object(&w);
    kith_buf_byte(&json, '\n');
    kith_buf_reset(out);
    if (!json.failed) {
        kith_buf_printf(out, FILE_HEAD "%08" PRIx32 "\n", kith_crc32c(0, json.data, json.len));
        kith_buf_append(out, json.data, json.len);
    }
    const bool ok = !json.failed && !out->failed;
    kith_buf_fini(&json);
    return ok;
}

static enum kith_err read_whole(const char *path, struct kith_buf *out, bool *missing,
                                struct kith_diag *diag)
{
    enum kith_err err = KITH_OK;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        *missing = errno == ENOENT;
        return *missing ? KITH_OK : io_error(diag, "open", path);
    }
    out->limit = FILE_BYTES_MAX;
    while (!err) {
        uint8_t *at = kith_buf_reserve(out, 65536);
        const ssize_t n = at ? read(fd, at, 65536) : 0;
        if (!at) {
            err = kith_fail(diag, KITH_NOMEM, "registry: %s does not fit in memory", path);
        } else if (n < 0 && errno != EINTR) {
            err = io_error(diag, "read", path);
        } else if (n == 0) {
            break;
        } else if (n > 0) {
            out->len += (size_t)n;
        }
    }
    close(fd);
    return err;
}

static enum kith_err load_keys(struct registry_file *file, struct kith_json root,
                               struct kith_diag *diag)
{
    struct kith_json keys;
    if (!kith_json_get(root, "revision", &keys) || !kith_json_u64(keys, &file->base.revision) ||
        !kith_json_get(root, "keys", &keys)) {
        return kith_fail(diag, KITH_CORRUPT, "registry: %s: no revision or keys", file->path);
    }
    struct kith_json_iter iter = kith_json_iterate(keys);
    struct kith_json item;
    while (kith_json_next(&iter, &item)) {
        struct kith_registry_entry entry = {0};
        struct kith_json field;
        const char *key = NULL;
        const char *text = NULL;
        size_t key_len = 0;
        const bool ok = kith_json_get(item, "k", &field) && kith_json_str(field, &key, &key_len) &&
                        kith_json_get(item, "v", &field) &&
                        kith_json_str(field, &text, &entry.len) &&
                        kith_json_get(item, "r", &field) && kith_json_u64(field, &entry.revision);
        if (!ok || strlen(key) != key_len || !kith_registry_key_ok(key) || entry.revision == 0 ||
            file->base.mirror.n >= KITH_REGISTRY_KEYS_MAX) {
            return kith_fail(diag, KITH_CORRUPT, "registry: %s: key %zu is malformed", file->path,
                             file->base.mirror.n);
        }
        entry.key = (char *)(uintptr_t)key; /* borrowed: put copies */
        entry.text = (char *)(uintptr_t)text;
        if (!kith_registry_mirror_put(&file->base.mirror, &entry)) {
            return kith_fail(diag, KITH_NOMEM, "registry: %s", file->path);
        }
    }
    return KITH_OK;
}

static enum kith_err load(struct registry_file *file, struct kith_diag *diag)
{
    const size_t head_len = sizeof FILE_HEAD - 1 + 8 + 1;
    struct kith_buf text = {0};
    struct kith_json_doc *doc = NULL;
    bool missing = false;
    enum kith_err err = read_whole(file->path, &text, &missing, diag);
    if (err || missing) {
        goto out;
    }
    char *end = NULL;
    if (text.len < head_len || memcmp(text.data, FILE_HEAD, sizeof FILE_HEAD - 1) != 0 ||
        text.data[head_len - 1] != '\n' ||
        strtoul((const char *)text.data + sizeof FILE_HEAD - 1, &end, 16) !=
            kith_crc32c(0, text.data + head_len, text.len - head_len)) {
        err =
            kith_fail(diag, KITH_CORRUPT,
                      "registry: %s is damaged (checksum); put a backup in its place", file->path);
        goto out;
    }
    if (!kith_buf_reserve(&text, KITH_JSON_PADDING)) {
        err = kith_fail(diag, KITH_NOMEM, "registry: %s", file->path);
        goto out;
    }
    err = kith_json_open(&doc, (const char *)text.data + head_len, text.len - head_len, diag);
    if (err) {
        err = err == KITH_NOMEM ? err : KITH_CORRUPT;
        kith_diag_prefix(diag, "registry: %s", file->path);
        goto out;
    }
    err = load_keys(file, kith_json_root(doc), diag);
out:
    kith_json_close(doc);
    kith_buf_fini(&text);
    return err;
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void *write_thread(void *ctx)
{
    struct registry_file *file = ctx;
    pthread_mutex_lock(&file->lock);
    for (;;) {
        while (!file->job && !file->stop) {
            pthread_cond_wait(&file->wake, &file->lock);
        }
        if (!file->job) {
            break;
        }
        file->job = false;
        pthread_mutex_unlock(&file->lock);
        file->write_err = save(file, &file->content, &file->write_diag);
        kith_inbox_put(file->inbox, &file->written);
        pthread_mutex_lock(&file->lock);
    }
    pthread_mutex_unlock(&file->lock);
    return NULL;
}

/* ---- transactions ---------------------------------------------------------------------------- */

static bool is_durable(const struct kith_registry_mirror *mirror,
                       const struct kith_registry_txn *txn)
{
    for (size_t i = 0; i < txn->n_changes; i++) {
        const struct kith_registry_entry *old =
            kith_registry_mirror_get(mirror, txn->changes[i].key);
        const bool was_stored = old && old->lease == 0;
        const bool is_stored = txn->changes[i].value && !txn->changes[i].leased;
        if (was_stored || is_stored) {
            return true;
        }
    }
    return false;
}

static bool apply(struct kith_registry_mirror *mirror, const struct kith_registry_txn *txn,
                  uint64_t revision)
{
    for (size_t i = 0; i < txn->n_changes; i++) {
        const struct kith_registry_change *change = &txn->changes[i];
        if (!change->value) {
            (void)kith_registry_mirror_drop(mirror, change->key);
            continue;
        }
        const struct kith_registry_entry entry = {
            .key = (char *)(uintptr_t)change->key,
            .text = (char *)(uintptr_t)change->value,
            .len = strlen(change->value),
            .revision = revision,
            .lease = change->leased,
        };
        if (!kith_registry_mirror_put(mirror, &entry)) {
            return false;
        }
    }
    return true;
}

static void adopt(struct registry_file *file)
{
    kith_registry_mirror_fini(&file->base.mirror);
    file->base.mirror = file->next;
    file->next = (struct kith_registry_mirror){0};
    file->base.revision++;
    kith_registry_changed(&file->base);
}

/* One transaction up to the point where it is done or its file is being written. */
static enum kith_err begin(struct registry_file *file, const struct kith_registry_txn *txn,
                           struct kith_diag *diag)
{
    if (txn->err) {
        *diag = txn->diag;
        return txn->err;
    }
    const enum kith_err err = kith_registry_compare_all(&file->base.mirror, txn, diag);
    if (err) {
        return err;
    }
    const uint64_t revision = file->base.revision + 1;
    const bool durable = is_durable(&file->base.mirror, txn);
    if (!kith_registry_mirror_copy(&file->base.mirror, &file->next) ||
        !apply(&file->next, txn, revision) ||
        (durable && !serialise(&file->next, revision, &file->content))) {
        kith_registry_mirror_fini(&file->next);
        return kith_fail(diag, KITH_NOMEM, "registry");
    }
    if (file->next.n > KITH_REGISTRY_KEYS_MAX) {
        kith_registry_mirror_fini(&file->next);
        return kith_fail(diag, KITH_TOO_BIG, "registry: more than %u keys", KITH_REGISTRY_KEYS_MAX);
    }
    if (!durable) {
        adopt(file);
        return KITH_OK;
    }
    file->busy = true;
    pthread_mutex_lock(&file->lock);
    file->job = true;
    pthread_cond_signal(&file->wake);
    pthread_mutex_unlock(&file->lock);
    return KITH_OK;
}

static struct kith_registry_txn *pop(struct registry_file *file)
{
    struct kith_registry_txn *txn = file->first;
    if (txn) {
        file->first = txn->next;
        if (!file->first) {
            file->tail = &file->first;
        }
    }
    return txn;
}

static void on_step(void *ctx)
{
    struct registry_file *file = ctx;
    while (!file->busy && file->first) {
        struct kith_diag diag = {0};
        const enum kith_err err = begin(file, file->first, &diag);
        if (!file->busy) {
            kith_registry_finish(pop(file), err, &diag);
        }
    }
}

static void on_written(void *ctx, struct kith_inbox_item *item)
{
    struct registry_file *file = ctx;
    (void)item;
    file->busy = false;
    const enum kith_err err = file->write_err;
    const struct kith_diag diag = file->write_diag;
    file->write_err = KITH_OK;
    file->write_diag = (struct kith_diag){0};
    if (err) {
        kith_registry_mirror_fini(&file->next);
    } else {
        adopt(file);
    }
    kith_registry_finish(pop(file), err, &diag);
    kith_timer_start(file->step, 0, 0);
}

static void file_commit(struct kith_registry *registry, struct kith_registry_txn *txn)
{
    struct registry_file *file = file_of(registry);
    *file->tail = txn;
    file->tail = &txn->next;
    kith_timer_start(file->step, 0, 0);
}

static enum kith_err file_announce(struct kith_registry *registry, const char *key,
                                   const char *value)
{
    const struct kith_registry_change change = {.key = key, .value = value, .leased = true};
    kith_registry_commit(registry, NULL, 0, &change, 1, NULL, NULL);
    return KITH_OK;
}

/* ---- opening --------------------------------------------------------------------------------- */

static void file_close(struct kith_registry *registry)
{
    struct registry_file *file = file_of(registry);
    if (file->thread_started) {
        pthread_mutex_lock(&file->lock);
        file->stop = true;
        pthread_cond_signal(&file->wake);
        pthread_mutex_unlock(&file->lock);
        pthread_join(file->thread, NULL);
    }
    kith_inbox_close(file->inbox); /* a write that ended meanwhile is still answered */
    for (struct kith_registry_txn *txn = pop(file); txn; txn = pop(file)) {
        kith_registry_finish(txn, KITH_CANCELLED, NULL);
    }
    kith_timer_free(file->step);
    kith_registry_fini(&file->base);
    kith_registry_mirror_fini(&file->next);
    kith_buf_fini(&file->content);
    if (file->lock_fd >= 0) {
        close(file->lock_fd);
    }
    pthread_cond_destroy(&file->wake);
    pthread_mutex_destroy(&file->lock);
    kith_free(file->path);
    kith_free(file->tmp);
    kith_free(file->dir);
    kith_free(file);
}

static const struct kith_registry_ops file_ops = {
    .close = file_close, .commit = file_commit, .announce = file_announce};

static char *joined(const char *path, size_t len, const char *tail)
{
    const size_t tail_len = strlen(tail) + 1;
    char *text = kith_alloc(len + tail_len);
    if (text) {
        memcpy(text, path, len);
        memcpy(text + len, tail, tail_len);
    }
    return text;
}

static enum kith_err lock_file(struct registry_file *file, struct kith_diag *diag)
{
    char *path = joined(file->path, strlen(file->path), ".lock");
    if (!path) {
        return kith_fail(diag, KITH_NOMEM, "registry");
    }
    enum kith_err err = KITH_OK;
    file->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file->lock_fd < 0) {
        err = io_error(diag, "create", path);
    } else if (flock(file->lock_fd, LOCK_EX | LOCK_NB)) {
        err = errno == EWOULDBLOCK
                  ? kith_fail(diag, KITH_EXISTS, "registry: %s is in use by another process",
                              file->path)
                  : io_error(diag, "lock", path);
    }
    kith_free(path);
    return err;
}

static enum kith_err make_paths(struct registry_file *file, const char *path,
                                struct kith_diag *diag)
{
    const char *slash = strrchr(path, '/');
    file->path = kith_strdup(path);
    file->tmp = joined(path, strlen(path), ".tmp");
    file->dir = slash ? joined(path, (size_t)(slash - path) + 1, "") : kith_strdup(".");
    return file->path && file->tmp && file->dir ? KITH_OK : kith_fail(diag, KITH_NOMEM, "registry");
}

enum kith_err kith_registry_open_file(struct kith_registry **out, struct kith_loop *loop,
                                      const char *path, struct kith_diag *diag)
{
    struct registry_file *file = kith_alloc(sizeof *file);
    if (!file) {
        return kith_fail(diag, KITH_NOMEM, "registry");
    }
    file->lock_fd = -1;
    file->tail = &file->first;
    pthread_mutex_init(&file->lock, NULL);
    pthread_cond_init(&file->wake, NULL);
    enum kith_err err = kith_registry_init(&file->base, &file_ops, loop, diag);
    if (err) {
        goto out;
    }
    err = make_paths(file, path, diag);
    if (err) {
        goto out;
    }
    err = lock_file(file, diag);
    if (err) {
        goto out;
    }
    err = load(file, diag);
    if (err) {
        goto out;
    }
    err = kith_timer_new(&file->step, loop, on_step, file);
    if (err) {
        kith_fail(diag, err, "registry timer");
        goto out;
    }
    err = kith_inbox_open(&file->inbox, loop, on_written, file, diag);
    if (err) {
        goto out;
    }
    if (pthread_create(&file->thread, NULL, write_thread, file)) {
        err = kith_fail(diag, KITH_NOMEM, "registry: cannot start a thread");
        goto out;
    }
    file->thread_started = true;
    file->base.synced = true;
    file->base.connected = true;
    *out = &file->base;
    return KITH_OK;
out:
    file_close(&file->base);
    return err;
}
