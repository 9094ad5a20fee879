#include "shard/storage/segment.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/storage/residency.h"
#include "shard/storage/row_codec.h"
#include "shard/storage/segment_state.h"
#include "shard/storage/segment_writer.h"

/* Opening checks the header by its own CRC, every section against the file, and the table of
 * checksums by its own. Blocks are verified before their first use (segment_blocks.h; their CRC
 * holds the segment's number and the block's place, so a stale or misplaced block fails). Numbers
 * that lead elsewhere - slots of the id table, the id order, payload offsets - are checked where
 * they are used: a lookup touches few of them, and a file that is cut turns into zeros meanwhile.
 *
 * Rows are used in place: row_codec.c refuses big-endian machines. */

static atomic_uint_fast64_t next_serial; /* relaxed: only that numbers differ matters */

static enum kith_err bad(struct kith_diag *diag, const char *what)
{
    return kith_fail(diag, KITH_CORRUPT, "%s", what);
}

static enum kith_err check_sections(struct segment *segment, uint64_t body, struct kith_diag *diag)
{
    for (unsigned i = 0; i < SEGMENT_SECTIONS; i++) {
        const uint8_t *entry = segment->map + SEGMENT_TABLE + (size_t)i * SEGMENT_ENTRY_BYTES;
        uint64_t offset = kith_load_u64(entry + 8);
        uint64_t bytes = kith_load_u64(entry + 16);
        if (kith_load_u32(entry) != i || offset % KITH_SECTION_ALIGN != 0 ||
            offset < SEGMENT_HEADER_BYTES || offset > body || bytes > body - offset)
            return bad(diag, "a section lies outside the file");
        segment->parts[i] = segment->map + offset;
        segment->part_bytes[i] = bytes;
    }
    uint64_t n = segment->n_rows;
    const uint64_t *bytes = segment->part_bytes;
    uint64_t slots = bytes[SEGMENT_ID_TABLE] / 4;
    if (bytes[SEGMENT_ROWS] != n * segment->row_bytes ||
        !segment_names_fit(&segment->names, n, bytes[SEGMENT_IDS], bytes[SEGMENT_SEQS]) ||
        bytes[SEGMENT_ID_ORDER] != n * 4 ||
        (bytes[SEGMENT_PAYLOAD_INDEX] != n * 8 && bytes[SEGMENT_PAYLOAD_INDEX] != 0) ||
        bytes[SEGMENT_ID_TABLE] % 4 != 0 || (slots & (slots - 1)) != 0 || slots <= n ||
        slots > UINT32_MAX || bytes[SEGMENT_BLOCKS] % SEGMENT_BLOCK_ENTRY != 0 ||
        bytes[SEGMENT_BLOCKS] / SEGMENT_BLOCK_ENTRY > n)
        return bad(diag, "a section's size does not fit the number of rows");
    segment->n_slots = (uint32_t)slots;
    segment->n_blocks = (uint32_t)(bytes[SEGMENT_BLOCKS] / SEGMENT_BLOCK_ENTRY);
    segment->names.ids = segment->parts[SEGMENT_IDS];
    segment->names.seqs = segment->parts[SEGMENT_SEQS];
    segment->names.min_seq = kith_load_u64(segment->map + SEGMENT_MIN_SEQ);
    return KITH_OK;
}

static enum kith_err check_header(struct segment *segment, const struct slice_config *config,
                                  struct kith_diag *diag)
{
    const uint8_t *page = segment->map;
    if (segment->bytes < SEGMENT_HEADER_BYTES ||
        kith_load_u32(page + SEGMENT_HEADER_CRC) != kith_crc32c(0, page, SEGMENT_HEADER_CRC) ||
        kith_load_u64(page) != SEGMENT_MAGIC)
        return bad(diag, "the header fails its checksum");
    uint32_t version = kith_load_u32(page + 8);
    if (version < SEGMENT_VERSION_READ || version > SEGMENT_VERSION ||
        kith_load_u32(page + 12) != SEGMENT_SECTIONS)
        return kith_fail(diag, KITH_CORRUPT, "version %u of the segment is not known here",
                         version);
    if (kith_load_u64(page + 16) != segment->number ||
        kith_load_u64(page + 24) != config->collection ||
        kith_load_u32(page + 32) != config->slice || kith_load_u32(page + 36) != config->dim ||
        kith_load_u32(page + 40) != (uint32_t)config->metric ||
        kith_load_u32(page + 44) != (uint32_t)config->rows)
        return bad(diag, "belongs to another slice, or is another segment");
    segment->n_rows = kith_load_u32(page + 48);
    uint64_t body = kith_load_u64(page + 56);
    if (segment->n_rows == 0 || segment->n_rows > SEGMENT_ROWS_MAX || body < SEGMENT_HEADER_BYTES ||
        body > segment->bytes)
        return bad(diag, "the header's numbers are out of range");
    enum kith_err err =
        segment_blocks_init(segment->blocks, body, segment->bytes, segment->number, diag);
    return err == KITH_OK ? check_sections(segment, body, diag) : err;
}

enum kith_err segment_open(struct segment **out, struct io *io, const char *dir, uint64_t number,
                           const struct slice_config *config, struct kith_diag *diag)
{
    char path[512];
    segment_writer_path(path, sizeof path, dir, number);
    struct segment *segment = kith_alloc(sizeof *segment);
    if (segment == NULL || (segment->blocks = kith_alloc(sizeof *segment->blocks)) == NULL) {
        kith_free(segment);
        return kith_fail(diag, KITH_NOMEM, "segment");
    }
    atomic_init(&segment->refs, 1);
    segment->serial = atomic_fetch_add_explicit(&next_serial, 1, memory_order_relaxed);
    segment->io = io;
    segment->number = number;
    segment->row_bytes = row_codec_bytes(config);
    enum kith_err err = io->open(io->self, path, IO_READ, &segment->file, diag);
    if (err == KITH_OK)
        err = io->size(io->self, segment->file, &segment->bytes, diag);
    if (err == KITH_OK && segment->bytes < SEGMENT_HEADER_BYTES)
        err = bad(diag, "the file is shorter than its header");
    if (err == KITH_OK)
        err = io->map(io->self, segment->file, segment->bytes, &segment->map, diag);
    if (err == KITH_OK)
        err = segment_blocks_guard(segment->blocks, path, segment->map, segment->bytes, diag);
    if (err == KITH_OK)
        err = check_header(segment, config, diag);
    if (err == KITH_OK)
        err = columns_new(&segment->columns, segment->parts[SEGMENT_COLUMNS],
                          segment->part_bytes[SEGMENT_COLUMNS], segment->n_rows, diag);
    if (err == KITH_OK)
        columns_watch(segment->columns, &segment->blocks->guard.lost);
    if (err != KITH_OK) {
        kith_diag_prefix(diag, "%s", path);
        segment_unref(segment);
        return err;
    }
    *out = segment;
    return KITH_OK;
}

void segment_ref(struct segment *segment)
{
    atomic_fetch_add_explicit(&segment->refs, 1, memory_order_relaxed);
}

void segment_unref(struct segment *segment)
{
    if (segment == NULL || atomic_fetch_sub_explicit(&segment->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (segment->index != NULL)
        segment->close_index(segment->index);
    columns_close(segment->columns);
    segment_blocks_fini(segment->blocks);
    kith_free(segment->blocks);
    segment->io->unmap(segment->io->self, segment->map, segment->bytes);
    segment->io->close(segment->io->self, segment->file);
    kith_free(segment);
}

enum kith_err segment_index_open(struct segment *segment, const struct segment_index_hooks *hooks,
                                 struct kith_diag *diag)
{
    kith_assert(segment->index == NULL);
    if (hooks == NULL)
        return KITH_OK;
    enum kith_err err = hooks->open(hooks->self, segment, &segment->index, diag);
    if (segment_check(segment, diag) != KITH_OK)
        err = KITH_CORRUPT; /* what was parsed is not to be believed */
    if (err != KITH_OK)
        kith_diag_prefix(diag, "the index of segment %016" PRIx64, segment->number);
    segment->close_index = hooks->close;
    /* Lists, then a few rows and ids here and there. All of the file: what is read around a page of
     * one section would be of the next ones, too, and some disks read megabytes around it. */
    if (err == KITH_OK && segment->index != NULL)
        residency_advise((struct kith_bytes){segment->map, (size_t)segment->bytes},
                         RESIDENCY_RANDOM);
    return err;
}

void *segment_index(const struct segment *segment)
{
    return segment->index;
}

bool segment_is_last_ref(struct segment *segment)
{
    return atomic_load_explicit(&segment->refs, memory_order_acquire) == 1;
}

uint64_t segment_number(const struct segment *segment)
{
    return segment->number;
}

uint64_t segment_serial(const struct segment *segment)
{
    return segment->serial;
}

uint32_t segment_rows(const struct segment *segment)
{
    return segment->n_rows;
}

/* Verified as far as [offset, offset + bytes) of a section goes. */
bool segment_need(const struct segment *segment, unsigned kind, uint64_t offset, uint64_t bytes)
{
    kith_assert(kind < SEGMENT_SECTIONS && offset <= segment->part_bytes[kind] &&
                bytes <= segment->part_bytes[kind] - offset);
    uint64_t at = (uint64_t)(segment->parts[kind] - segment->map) + offset;
    return segment_blocks_need(segment->blocks, at, bytes);
}

static void condemn(const struct segment *segment, const uint8_t *at)
{
    segment_blocks_condemn(segment->blocks, (uint64_t)(at - segment->map));
}

const void *segment_row_data(const struct segment *segment, uint32_t first, uint32_t n)
{
    uint64_t at = (uint64_t)first * segment->row_bytes;
    kith_assert(first <= segment->n_rows && n <= segment->n_rows - first);
    (void)segment_need(segment, SEGMENT_ROWS, at, (uint64_t)n * segment->row_bytes);
    return segment->parts[SEGMENT_ROWS] + at;
}

uint32_t segment_row_bytes(const struct segment *segment)
{
    return segment->row_bytes;
}

static bool need_id(const struct segment *segment, uint32_t row)
{
    uint32_t bytes = segment->names.id_bytes;
    return segment_need(segment, SEGMENT_IDS, (uint64_t)row * bytes, bytes);
}

struct kith_id segment_id(const struct segment *segment, uint32_t row)
{
    (void)need_id(segment, row);
    return segment_names_id(&segment->names, row);
}

uint64_t segment_seq(const struct segment *segment, uint32_t row)
{
    uint32_t bytes = segment->names.seq_bytes;
    (void)segment_need(segment, SEGMENT_SEQS, (uint64_t)row * bytes, bytes);
    return segment_names_seq(&segment->names, row);
}

void segment_fetch_name(const struct segment *segment, uint32_t row)
{
    const struct segment_names *names = &segment->names;
    __builtin_prefetch(names->ids + (size_t)row * names->id_bytes);
    __builtin_prefetch(names->seqs + (size_t)row * names->seq_bytes);
}

/* Sections begin at multiples of 4 KiB of a page-aligned map, so the casts below are aligned. */

uint32_t segment_by_id(const struct segment *segment, uint32_t index)
{
    const uint32_t *order = (const void *)segment->parts[SEGMENT_ID_ORDER];
    kith_assert(index < segment->n_rows);
    (void)segment_need(segment, SEGMENT_ID_ORDER, (uint64_t)index * 4, 4);
    uint32_t row = order[index];
    if (row < segment->n_rows)
        return row;
    condemn(segment, segment->parts[SEGMENT_ID_ORDER] + (uint64_t)index * 4);
    return 0;
}

const struct columns *segment_columns(const struct segment *segment)
{
    if (!columns_are_open(segment->columns)) {
        struct kith_diag diag = {0};
        (void)segment_need(segment, SEGMENT_COLUMNS, 0, segment->part_bytes[SEGMENT_COLUMNS]);
        if (segment_check(segment, &diag) != KITH_OK ||
            columns_begin(segment->columns, &diag) != KITH_OK)
            condemn(segment, segment->parts[SEGMENT_COLUMNS]);
    }
    return segment->columns;
}

struct kith_bytes segment_index_section(const struct segment *segment, unsigned kind)
{
    kith_assert(kind >= SEGMENT_INDEX_FIRST && kind < SEGMENT_SECTIONS);
    (void)segment_need(segment, kind, 0, segment->part_bytes[kind]);
    return (struct kith_bytes){segment->parts[kind], (size_t)segment->part_bytes[kind]};
}

struct kith_bytes segment_place(const struct segment *segment, unsigned kind)
{
    kith_assert(kind < SEGMENT_SECTIONS);
    return (struct kith_bytes){segment->parts[kind], (size_t)segment->part_bytes[kind]};
}

uint64_t segment_file_bytes(const struct segment *segment)
{
    return segment->bytes;
}

bool segment_find(const struct segment *segment, const struct kith_id *id, uint32_t *row)
{
    const uint32_t *slots = (const void *)segment->parts[SEGMENT_ID_TABLE];
    uint32_t mask = segment->n_slots - 1;
    uint32_t at = (uint32_t)(kith_id_hash(id) >> 32) & mask;
    /* Bounded by the table: a file with no empty slot must not turn this for ever. */
    for (uint32_t probes = 0; probes <= mask; probes++, at = (at + 1) & mask) {
        if (!segment_need(segment, SEGMENT_ID_TABLE, (uint64_t)at * 4, 4))
            return false;
        uint32_t found = slots[at] - 1; /* an empty slot gives UINT32_MAX */
        if (found == UINT32_MAX)
            return false;
        if (found >= segment->n_rows || !need_id(segment, found))
            continue;
        struct kith_id its = segment_names_id(&segment->names, found);
        if (kith_id_equal(&its, id)) {
            *row = found;
            return true;
        }
    }
    return false;
}

/* ---- damage -----------------------------------------------------------------------------------
 */

enum kith_err segment_check(const struct segment *segment, struct kith_diag *diag)
{
    if (columns_damaged(segment->columns))
        condemn(segment, segment->parts[SEGMENT_COLUMNS]);
    return segment_blocks_verdict(segment->blocks, diag);
}

/* False: stopped, or damaged. map: the file once more, read in by huge pages; or NULL. */
static bool verify_range(const struct segment *segment, struct kith_bytes place, const uint8_t *map,
                         segment_go_on_fn go_on, void *ctx)
{
    const uint64_t step = 64 * KITH_SEGMENT_BLOCK; /* 0.5 ms: between two looks at go_on */
    uint64_t at = (uint64_t)(place.data - segment->map);
    for (uint64_t end = at + place.len, bytes; at < end; at += bytes) {
        bytes = end - at < step ? end - at : step;
        if (go_on != NULL && !go_on(ctx, bytes))
            return false;
        if (map != NULL)
            residency_advise((struct kith_bytes){map + at, (size_t)bytes}, RESIDENCY_HUGE);
        if (!segment_blocks_need(segment->blocks, at, bytes))
            return false;
    }
    return true;
}

enum kith_err segment_verify(const struct segment *segment, segment_go_on_fn go_on, void *ctx,
                             struct kith_diag *diag)
{
    struct kith_bytes all = {segment->map, (size_t)segment->blocks->body};
    (void)verify_range(segment, all, NULL, go_on, ctx);
    return segment_check(segment, diag);
}

enum kith_err segment_index_verify(const struct segment *segment, segment_go_on_fn go_on, void *ctx,
                                   struct kith_diag *diag)
{
    struct io *io = segment->io;
    const uint8_t *map = NULL;
    if (segment_index_bytes(segment) > 0) /* else, and when it fails, by small pages */
        (void)io->map(io->self, segment->file, segment->bytes, &map, NULL);
    for (unsigned kind = SEGMENT_INDEX_FIRST; kind < SEGMENT_SECTIONS; kind++)
        if (!verify_range(segment, segment_place(segment, kind), map, go_on, ctx))
            break;
    if (map != NULL)
        io->unmap(io->self, map, segment->bytes);
    return segment_check(segment, diag);
}

uint64_t segment_index_bytes(const struct segment *segment)
{
    uint64_t bytes = 0;
    for (unsigned kind = SEGMENT_INDEX_FIRST; kind < SEGMENT_SECTIONS; kind++)
        bytes += segment->part_bytes[kind];
    return bytes;
}

static enum kith_err scrub_chunk(const struct segment *segment, uint64_t at, const uint8_t *chunk,
                                 uint64_t bytes)
{
    struct segment_blocks *blocks = segment->blocks;
    uint64_t end = at + bytes < blocks->body ? at + bytes : blocks->body;
    for (uint64_t block = at; block < end; block += KITH_SEGMENT_BLOCK)
        if (!segment_blocks_check(blocks, block / KITH_SEGMENT_BLOCK, chunk + (block - at)))
            return KITH_CORRUPT;
    /* The table was checked when it was opened. */
    uint64_t from = end > at ? end - at : 0;
    if (from < bytes && memcmp(segment->map + at + from, chunk + from, bytes - from) != 0) {
        segment_blocks_condemn(blocks, at + from);
        return KITH_CORRUPT;
    }
    return KITH_OK;
}

enum kith_err segment_scrub(const struct segment *segment, const char *path, segment_go_on_fn go_on,
                            void *ctx, struct kith_diag *diag)
{
    const uint64_t step = 16 * KITH_SEGMENT_BLOCK; /* 1 MiB */
    struct io *io = segment->io;
    struct io_file *file = NULL;
    uint8_t *chunk = kith_alloc_aligned(4096, step);
    enum kith_err err = chunk != NULL ? io->open(io->self, path, IO_READ_DISK, &file, diag)
                                      : kith_fail(diag, KITH_NOMEM, "scrub");
    for (uint64_t at = 0; err == KITH_OK && at < segment->bytes; at += step) {
        uint64_t bytes = segment->bytes - at < step ? segment->bytes - at : step;
        if (!go_on(ctx, bytes))
            break;
        err = io->read(io->self, file, at, chunk, bytes, diag);
        if (err == KITH_OK)
            err = scrub_chunk(segment, at, chunk, bytes);
    }
    io->close(io->self, file);
    kith_free(chunk);
    enum kith_err verdict = segment_check(segment, diag);
    return verdict != KITH_OK ? verdict : err;
}
