#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "shard/storage/manifest.h"
#include "shard/storage/store_state.h"
#include "shard/storage/wal_reader.h"

/* One round over the files of a store that is open, read from the disk where the file system can
 * do that, while writes, seals and merges go on.
 *
 * Files come and go meanwhile: one that is not there any more when its turn comes is no damage.
 * Segments are checked against the checksums of the map that is in use, so a stale file fails, too.
 * The log in use is checked up to where it was synced when the round began.
 *
 * What a damaged file holds is in memory as well, but for segments. So a manifest and delete
 * bitmaps are written anew, and a damaged log is made needless: its head is sealed. A damaged
 * segment is quarantined. */

struct round {
    struct store *store;
    const struct store_scrub_options *options;
    struct store_scrub_result *result;
    struct view *view; /* segments of this moment */
    uint64_t wal, wal_end;
    bool stopped, renew, turn;
};

static bool go_on(struct round *round, uint64_t bytes)
{
    const struct store_scrub_options *options = round->options;
    round->result->bytes += bytes;
    if (!round->stopped)
        round->stopped = atomic_load_explicit(&round->store->hurry, memory_order_relaxed) ||
                         (options->pace != NULL && !options->pace(options->ctx, bytes));
    return !round->stopped;
}

static void found(struct round *round, const char *name, const struct kith_diag *diag)
{
    round->result->damaged++;
    kith_log(ERROR, "scrub.damage", "dir=%s file=%s text=\"%s\"", round->store->dir, name,
             diag->text);
    if (round->options->on_damage != NULL)
        round->options->on_damage(round->options->ctx, round->store->dir, name, diag->text);
}

/* ---- kinds of files --------------------------------------------------------------------------
 */

static struct segment *segment_of(const struct round *round, uint64_t number)
{
    for (uint32_t i = 0; i < round->view->n_segments; i++)
        if (segment_number(round->view->segments[i].segment) == number)
            return round->view->segments[i].segment;
    return NULL; /* merged away, or being written */
}

static bool segment_pace(void *ctx, uint64_t bytes)
{
    return go_on(ctx, bytes);
}

static enum kith_err scrub_deletes(struct round *round, const char *path, struct kith_diag *diag)
{
    uint64_t bytes = 0;
    enum kith_err err = deletes_check(round->store->io, path, &bytes, diag);
    (void)go_on(round, bytes);
    round->renew |= err == KITH_CORRUPT;
    return err;
}

static enum kith_err scrub_manifest(struct round *round, struct kith_diag *diag)
{
    struct manifest manifest = {0};
    enum kith_err err = manifest_load(&manifest, round->store->io, round->store->dir, diag);
    manifest_fini(&manifest);
    round->renew |= err == KITH_CORRUPT;
    return err;
}

/* Where a file that is not in use any more must end: the next one says. 0: no telling. */
static uint64_t end_of_log(const struct round *round, uint64_t number)
{
    if (number == round->wal)
        return round->wal_end;
    struct wal_reader *next = NULL;
    bool unfinished = false;
    uint64_t end = 0;
    if (wal_reader_open(&next, &round->store->wal_options, number + 1, &unfinished, NULL) ==
            KITH_OK &&
        !unfinished)
        end = wal_reader_header(next)->prev_end;
    wal_reader_close(next);
    return end;
}

static enum kith_err scrub_log(struct round *round, uint64_t number, struct kith_diag *diag)
{
    struct wal_reader *reader = NULL;
    struct wal_record record;
    bool unfinished = false, got = true;
    if (number > round->wal) /* begun since */
        return KITH_OK;
    uint64_t end = end_of_log(round, number), at = 0;
    enum kith_err err =
        wal_reader_open(&reader, &round->store->wal_options, number, &unfinished, diag);
    if (err == KITH_OK && unfinished)
        err = kith_fail(diag, KITH_CORRUPT, "has no header");
    while (err == KITH_OK && got && wal_reader_end(reader) < end) {
        err = wal_reader_next(reader, &record, &got, diag);
        if (err == KITH_OK && !go_on(round, wal_reader_end(reader) - at))
            break;
        if (err == KITH_OK)
            at = wal_reader_end(reader);
    }
    if (err == KITH_OK && !got)
        err = kith_fail(diag, KITH_CORRUPT, "damaged at offset %" PRIu64 " of %" PRIu64,
                        wal_reader_end(reader), end);
    wal_reader_close(reader);
    round->turn |= err == KITH_CORRUPT;
    return err;
}

static void scrub_file(struct round *round, const char *name)
{
    struct store *store = round->store;
    struct kith_diag diag = {0};
    char path[STORE_PATH_BYTES + 64];
    enum kith_err err = KITH_OK;
    uint64_t number = strlen(name) == 20 ? strtoull(name + 4, NULL, 16) : 0;
    (void)snprintf(path, sizeof path, "%s/%.63s", store->dir, name);
    if (strcmp(name, "MANIFEST") == 0) {
        err = scrub_manifest(round, &diag);
    } else if (number != 0 && strncmp(name, "seg-", 4) == 0) {
        const struct segment *segment = segment_of(round, number);
        if (segment == NULL)
            return;
        err = segment_scrub(segment, path, segment_pace, round, &diag);
    } else if (number != 0 && strncmp(name, "del-", 4) == 0) {
        err = scrub_deletes(round, path, &diag);
    } else if (number != 0 && strncmp(name, "wal-", 4) == 0) {
        err = scrub_log(round, number, &diag);
    }
    round->result->files++;
    if (err == KITH_CORRUPT)
        found(round, name, &diag);
    else if (err == KITH_IO) /* a read that fails names no culprit: it is looked at next time */
        kith_log(WARN, "scrub.unreadable", "dir=%s file=%s text=\"%s\"", store->dir, name,
                 diag.text);
}

/* ---- a round ---------------------------------------------------------------------------------
 */

struct names {
    char (*list)[64];
    size_t n, cap;
    bool failed;
};

static void on_name(void *ctx, const char *name)
{
    struct names *names = ctx;
    if (strlen(name) >= sizeof names->list[0])
        return; /* none of ours */
    if (!kith_grow((void **)&names->list, &names->cap, names->n + 1, sizeof names->list[0])) {
        names->failed = true;
        return;
    }
    (void)snprintf(names->list[names->n++], sizeof names->list[0], "%s", name);
}

static enum kith_err begin(struct store *store, void *arg, struct kith_diag *diag)
{
    struct round *round = arg;
    round->wal = wal_number(store->wal);
    round->wal_end = wal_bytes(store->wal);
    return store_write_view(store, &round->view, diag);
}

static enum kith_err turn(struct store *store, void *arg, struct kith_diag *diag)
{
    (void)arg;
    if (atomic_load(&store->failed) || wal_bytes(store->wal) == WAL_HEADER_BYTES)
        return KITH_OK; /* turned already */
    return store_turn_run(store, store_turn_head_cap(store), diag);
}

/* Writes anew from memory what was found damaged. */
static enum kith_err repair(struct round *round, struct kith_diag *diag)
{
    struct store *store = round->store;
    enum kith_err err = KITH_OK;
    if (round->renew)
        atomic_store(&store->renew_deletes, true);
    if (round->turn)
        err = store_write_on_writer(store, turn, NULL, diag); /* the sealer does the rest */
    if (err == KITH_OK && round->renew && !atomic_load(&store->failed))
        err = store_checkpoint_run(store, diag);
    if (err != KITH_OK)
        kith_log(WARN, "scrub.not_repaired", "dir=%s text=\"%s\"", store->dir, diag->text);
    else if (round->renew || round->turn)
        kith_log(INFO, "scrub.repaired", "dir=%s", store->dir);
    return err;
}

enum kith_err store_scrub(struct store *store, const struct store_scrub_options *options,
                          struct store_scrub_result *result, struct kith_diag *diag)
{
    struct round round = {.store = store, .options = options, .result = result};
    struct names names = {0};
    enum kith_err err = store_write_on_writer(store, begin, &round, diag);
    if (err == KITH_OK)
        err = store->io->list(store->io->self, store->dir, on_name, &names, diag);
    if (err == KITH_OK && names.failed)
        err = kith_fail(diag, KITH_NOMEM, "names in %s", store->dir);
    for (size_t i = 0; err == KITH_OK && i < names.n && go_on(&round, 0); i++)
        scrub_file(&round, names.list[i]);
    if (err == KITH_OK)
        err = repair(&round, diag);
    view_unref(round.view);
    kith_free(names.list);
    return err;
}

enum kith_err store_verify(struct store *store, const struct store_scrub_options *options,
                           struct kith_diag *diag)
{
    struct store_scrub_result ignored = {0};
    struct round round = {.store = store, .options = options, .result = &ignored};
    struct view *view = store_view(store);
    for (uint32_t i = 0; i < view->n_segments && go_on(&round, 0); i++)
        (void)segment_verify(view->segments[i].segment, segment_pace, &round, NULL);
    enum kith_err err = view_verdict(&view, 1, KITH_OK, diag);
    view_unref(view);
    return err;
}

void store_hurry(struct store *store)
{
    atomic_store_explicit(&store->hurry, true, memory_order_relaxed);
}
