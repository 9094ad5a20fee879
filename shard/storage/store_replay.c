#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "shard/storage/store_state.h"
#include "shard/storage/wal_reader.h"
#include "shard/storage/write_record.h"

/* Reading the log back at open, before there are any threads.
 *
 * Files are read from the manifest's first_wal on, without a gap. A file's end is where its
 * successor says it is; the last file's is its last good record, if nothing proves that there was
 * more (a record behind it, or the manifest). The one special case is a turn to a new file that
 * failed: the old file went on, and the new one is empty and older than the old one's last records.
 * It is ignored, and replaced at the next turn. */

struct replay {
    struct store *store;
    struct kith_diag *diag;
    uint64_t files[2]; /* lowest and highest number found at or above first_wal */
    bool any;
    /* Of the file read last. */
    struct wal_header header;
    uint64_t end;
    uint32_t last_crc;
    bool opened;
};

static void on_name(void *ctx, const char *name)
{
    struct replay *replay = ctx;
    char *rest = NULL;
    if (strncmp(name, "wal-", 4) != 0 || strlen(name) != 20)
        return;
    uint64_t number = strtoull(name + 4, &rest, 16);
    if (*rest != '\0' || number < replay->store->first_wal)
        return;
    if (!replay->any || number < replay->files[0])
        replay->files[0] = number;
    if (!replay->any || number > replay->files[1])
        replay->files[1] = number;
    replay->any = true;
}

/* Replay needs room as writing does. Without threads and with the log at hand a head is frozen in
 * place: what follows it begins in the file at hand, where sealed_seq tells the records apart. */
static enum kith_err turn(struct replay *replay)
{
    struct store *store = replay->store;
    bool did = false;
    enum kith_err err = KITH_OK;
    if (store->n_heads == VIEW_HEADS_MAX)
        err = store_seal_here(store, &did, replay->diag);
    struct head *fresh = NULL;
    uint32_t rows = store->head_full ? store->head_want : store_turn_head_cap(store);
    if (err == KITH_OK)
        err = head_new(&fresh, store->row_bytes, rows, &store->sketch, replay->diag);
    if (err != KITH_OK)
        return err;
    store->head_full = false;
    uint32_t frozen = store->n_heads - 1;
    store->head_last_seq[frozen] = store->seq;
    store->head_next_wal[frozen] = replay->header.number;
    store->heads[store->n_heads++] = fresh;
    store->n_frozen++;
    return KITH_OK;
}

static enum kith_err malformed(const struct replay *replay, const struct wal_record *record)
{
    return kith_fail(replay->diag, KITH_CORRUPT,
                     "log file %" PRIu64 ": the record at offset %" PRIu64 " makes no sense",
                     replay->header.number, record->offset);
}

static enum kith_err apply_op(struct store *store, const struct write_record_op *op,
                              struct kith_diag *diag)
{
    bool was;
    return op->kind == WRITE_RECORD_PUT
               ? store_apply_put(store, &op->id, op->row, op->payload, diag)
               : store_apply_delete(store, &op->id, &was, diag);
}

static enum kith_err apply_ops(struct replay *replay, const struct wal_record *record,
                               struct write_record_head *head)
{
    struct store *store = replay->store;
    struct write_record_reader reader;
    struct write_record_op op;
    if (!write_record_read(&reader, record->body, record->body_bytes, store->row_bytes, head))
        return malformed(replay, record);
    uint64_t end = record->seq + head->n_ops - 1;
    if (end <= store->sealed_seq)
        return KITH_OK;
    /* A head is sealed between two writes, so a record lies above sealed_seq or below, never both.
     */
    if (record->seq != store->seq + 1)
        return kith_fail(replay->diag, KITH_CORRUPT,
                         "log file %" PRIu64 ": writes %" PRIu64 " to %" PRIu64 " are missing",
                         replay->header.number, store->seq + 1, record->seq - 1);
    for (uint32_t i = 0; write_record_next(&reader, &op); i++) {
        enum kith_err err = apply_op(store, &op, replay->diag);
        if (err != KITH_OK)
            return err;
        store->seq = record->seq + i; /* also for a delete of something gone already */
    }
    store->n_undo = 0;
    return reader.failed || store->seq != end ? malformed(replay, record) : KITH_OK;
}

static enum kith_err apply(struct replay *replay, const struct wal_record *record)
{
    struct store *store = replay->store;
    struct write_record_head head = {0};
    enum kith_err err = KITH_OK;
    if (head_rows(store->heads[store->n_heads - 1]) >= store->head_rows_max ||
        head_bytes(store->heads[store->n_heads - 1]) >= store->head_bytes_max)
        err = turn(replay);
    while (err == KITH_OK) {
        struct store_savepoint before = store_apply_savepoint(store);
        err = apply_ops(replay, record, &head);
        if (err != KITH_BUSY || !store->head_full)
            break;
        uint32_t rows_max = head_rows_max(store->heads[store->n_heads - 1]);
        store->head_want = before.rows == 0 ? rows_max * 2 : store_turn_head_cap(store);
        store_apply_undo(store, &before);
        err = turn(replay);
    }
    if (err == KITH_OK && head.op_id != 0 && op_window_find(&store->ops, head.op_id) == NULL)
        op_window_add(&store->ops,
                      &(struct op_entry){head.op_id, record->seq + head.n_ops - 1, head.affected});
    return err;
}

/* Applies the records of one file, to the last good one. */
static enum kith_err read_file(struct replay *replay, struct wal_reader *reader)
{
    struct wal_record record;
    bool got = true;
    enum kith_err err = KITH_OK;
    while (err == KITH_OK) {
        err = wal_reader_next(reader, &record, &got, replay->diag);
        if (err != KITH_OK || !got)
            break;
        err = apply(replay, &record);
    }
    replay->end = wal_reader_end(reader);
    replay->last_crc = wal_reader_last_crc(reader);
    return err;
}

/* The file before ended at replay->end with last_crc. Does this one follow it? */
static enum kith_err check_link(struct replay *replay, const struct wal_header *next, bool *ignore)
{
    *ignore = false;
    if (!replay->opened || (next->prev_end == replay->end && next->prev_crc == replay->last_crc))
        return KITH_OK;
    if (next->prev_end < replay->end) {
        *ignore = true; /* a turn that failed; it must be empty, which the caller checks */
        return KITH_OK;
    }
    return kith_fail(replay->diag, KITH_CORRUPT,
                     "log file %" PRIu64 " is damaged at offset %" PRIu64
                     ": the next file says that it went on to %" PRIu64,
                     replay->header.number, replay->end, next->prev_end);
}

static enum kith_err next_file(struct replay *replay, uint64_t number, bool last)
{
    struct store *store = replay->store;
    struct wal_reader *reader = NULL;
    bool unfinished = false, ignore = false;
    enum kith_err err =
        wal_reader_open(&reader, &store->wal_options, number, &unfinished, replay->diag);
    if (err == KITH_NOT_FOUND)
        err = kith_fail(replay->diag, KITH_CORRUPT, "log file %" PRIu64 " is missing", number);
    if (err == KITH_OK && unfinished)
        return last && replay->opened
                   ? KITH_OK
                   : kith_fail(replay->diag, KITH_CORRUPT,
                               "log file %" PRIu64 " has no header, though it was in use", number);
    if (err == KITH_OK)
        err = check_link(replay, wal_reader_header(reader), &ignore);
    if (err == KITH_OK && ignore) {
        struct wal_record record;
        bool got = false;
        err = wal_reader_next(reader, &record, &got, replay->diag);
        if (err == KITH_OK && !got)
            err = wal_reader_check_tail(reader, replay->diag);
        if (err == KITH_OK && (got || !last))
            err = kith_fail(replay->diag, KITH_CORRUPT,
                            "log file %" PRIu64 " does not follow the one before it", number);
    } else if (err == KITH_OK) {
        replay->header = *wal_reader_header(reader);
        replay->opened = true;
        err = read_file(replay, reader);
        if (err == KITH_OK)
            err = wal_reader_check_tail(reader, replay->diag);
        if (err == KITH_OK && number == store->synced_wal && replay->end < store->synced_end)
            err = kith_fail(replay->diag, KITH_CORRUPT,
                            "log file %" PRIu64 " is damaged at offset %" PRIu64
                            ": the manifest knows it up to %" PRIu64,
                            number, replay->end, store->synced_end);
    }
    wal_reader_close(reader);
    return err;
}

enum kith_err store_replay_run(struct store *store, struct kith_diag *diag)
{
    struct replay replay = {.store = store, .diag = diag};
    enum kith_err err = store->io->list(store->io->self, store->dir, on_name, &replay, diag);
    if (err != KITH_OK)
        return err;
    if (!replay.any || replay.files[0] != store->first_wal)
        return kith_fail(diag, KITH_CORRUPT, "%s: log file %" PRIu64 " is missing", store->dir,
                         store->first_wal);
    for (uint64_t n = replay.files[0]; n <= replay.files[1] && err == KITH_OK; n++)
        err = next_file(&replay, n, n == replay.files[1]);
    if (err == KITH_OK && replay.header.number < store->synced_wal)
        err = kith_fail(diag, KITH_CORRUPT, "log file %" PRIu64 " is missing", store->synced_wal);
    if (err == KITH_OK)
        err = wal_resume(&store->wal, &store->wal_options, &replay.header, replay.end,
                         replay.last_crc, diag);
    else
        kith_diag_prefix(diag, "%s", store->dir);
    return err;
}
