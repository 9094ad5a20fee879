/* The bytes of a segment's index by Faiss: two sections of the segment file (segment_index.h).
 *
 *   FAISS_SECTION_META   who made it, and the calibration; below
 *   FAISS_SECTION_BYTES  what faiss_index_write gave, checksummed once more by META, because Faiss
 *                        trusts what it reads; missing when no index could be made
 *
 * META, little endian, without padding: magic u32, version u32, n_rows u32, n_targets u32, hash of
 * the factory string u64, bytes u64, their CRC32C u32, reserved u32; then for each target depth
 * u32, recall f32, cost_ns f32, nprobe u32, ef_search u32, k_factor u32. Never change without a new
 * FAISS_FORMAT_VERSION. Threads: no state. */
#ifndef FAISS_FORMAT_H
#define FAISS_FORMAT_H

#include <stdint.h>

#include "proto/kith_wire.h"
#include "shard/index/faiss.h"
#include "shard/index/recall_levels.h"
#include "shard/storage/segment_format.h"

/* Not the first: there an index of lists has its codebook, by which it is known. */
enum faiss_section {
    FAISS_SECTION_META = SEGMENT_INDEX_FIRST + 1,
    FAISS_SECTION_BYTES = SEGMENT_INDEX_FIRST + 2,
};

/* Settings are kept for the 10, 30, 100 and 300 nearest rows. */
#define FAISS_FORMAT_DEPTHS  4u
#define FAISS_FORMAT_TARGETS (FAISS_FORMAT_DEPTHS * RECALL_LEVELS)

/* The setting that finds, on average, at least the share `recall` of the `depth` nearest rows: with
 * it Faiss is asked for depth * k_factor rows, and the segment's own rows rank them. */
struct faiss_target {
    uint32_t depth;
    float recall;  /* a lower confidence bound (95 %) */
    float cost_ns; /* of a query's search by Faiss, one thread of the machine that built it */
    struct faiss_effort effort;
};

struct faiss_meta {
    uint32_t n_rows;
    uint64_t factory; /* faiss_format_hash of the string */
    uint64_t bytes;   /* of FAISS_SECTION_BYTES; 0: no index could be made of these rows */
    uint32_t crc;     /* of them */
    uint32_t n_targets;
    struct faiss_target targets[FAISS_FORMAT_TARGETS]; /* by depth, then recall, ascending */
};

#define FAISS_FORMAT_VERSION      1u
#define FAISS_FORMAT_MAGIC        0x4d534946u /* "FISM" */
#define FAISS_FORMAT_HEADER_BYTES 40u
#define FAISS_FORMAT_TARGET_BYTES 24u
#define FAISS_FORMAT_BYTES_MAX                                                                     \
    (FAISS_FORMAT_HEADER_BYTES + FAISS_FORMAT_TARGETS * FAISS_FORMAT_TARGET_BYTES)

uint64_t faiss_format_hash(const char *factory);
/* Returns how many bytes were written, at most FAISS_FORMAT_BYTES_MAX. */
size_t faiss_format_store(uint8_t *out, const struct faiss_meta *meta);
/* KITH_CORRUPT for whatever faiss_format_store would not have written. */
enum kith_err faiss_format_load(struct faiss_meta *out, struct kith_bytes bytes,
                                struct kith_diag *diag);

#endif
