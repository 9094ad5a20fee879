#include "shard/index/faiss_segment.h"

#include <inttypes.h>

#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "proto/kith_crc32c.h"

/* Faiss's reader believes every length in the bytes and would write wherever they lead. So it gets
 * a copy, which no cut of the file can change any more, and whose checksum was compared. */
static enum kith_err load(const struct segment *segment, const struct slice_config *config,
                          struct faiss_segment *out, struct kith_diag *diag)
{
    struct kith_bytes bytes = segment_index_section(segment, FAISS_SECTION_BYTES);
    if (bytes.len != out->meta.bytes)
        return kith_fail(diag, KITH_CORRUPT, "index by Faiss: %zu bytes, %" PRIu64 " were written",
                         bytes.len, out->meta.bytes);
    uint8_t *copy = kith_memdup(bytes.data, bytes.len);
    if (copy == NULL)
        return kith_fail(diag, KITH_NOMEM, "index by Faiss: %zu bytes", bytes.len);
    if (kith_crc32c(0, copy, bytes.len) != out->meta.crc) {
        kith_free(copy);
        return kith_fail(diag, KITH_CORRUPT, "index by Faiss: its bytes fail their checksum");
    }
    struct kith_diag why = {0};
    enum kith_err err =
        faiss_index_load(copy, bytes.len, config->dim, config->metric, &out->index, &why);
    kith_free(copy);
    if (err == KITH_OK && faiss_index_rows(out->index) != out->meta.n_rows)
        err = kith_fail(&why, KITH_CORRUPT, "of other rows");
    if (err != KITH_CORRUPT)
        return err == KITH_OK ? err : kith_fail(diag, err, "%s", why.text);
    kith_log(WARN, "index.faiss_refused", "segment=%016" PRIx64 " rows=%u text=\"%s\"",
             segment_number(segment), segment_rows(segment), why.text);
    faiss_index_free(out->index);
    out->index = NULL;
    return KITH_OK;
}

enum kith_err faiss_segment_open(const struct segment *segment, const struct slice_config *config,
                                 struct faiss_segment **out, struct kith_diag *diag)
{
    *out = NULL;
    struct kith_bytes meta = segment_index_section(segment, FAISS_SECTION_META);
    if (meta.len == 0)
        return KITH_OK;
    struct faiss_segment *index = kith_alloc(sizeof *index);
    if (index == NULL)
        return kith_fail(diag, KITH_NOMEM, "index by Faiss");
    enum kith_err err = faiss_format_load(&index->meta, meta, diag);
    if (err == KITH_OK && index->meta.n_rows != segment_rows(segment))
        err = kith_fail(diag, KITH_CORRUPT, "index by Faiss: of other rows");
    bool is_ours = err == KITH_OK && index->meta.bytes > 0 &&
                   index->meta.factory == faiss_format_hash(config->factory);
    if (is_ours)
        err = load(segment, config, index, diag);
    if (err == KITH_OK && index->index != NULL) {
        *out = index;
        return KITH_OK;
    }
    faiss_segment_close(index);
    return err;
}

void faiss_segment_close(struct faiss_segment *index)
{
    faiss_index_free(index->index);
    kith_free(index);
}
