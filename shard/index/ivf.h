/* The approximate index of a segment (IVF: inverted lists), and search in it.
 *
 * Rows of the segment lie in the order of their lists. Per row: a code (codebook.h), a correction,
 * and a row of bytes to rank the best candidates again; the rows themselves rank the last few.
 * Sections of the segment file, rows numbered as everywhere in it:
 *
 *   IVF_SECTION_CODEBOOK  codebook_bytes
 *   IVF_SECTION_META      struct ivf_meta: shape, scales, and the calibration (ivf_format.h, as are
 *                         all details of the others)
 *   IVF_SECTION_LISTS     u32[n_lists + 1]: rows of list c are [lists[c], lists[c + 1])
 *   IVF_SECTION_CODES     PQ4: [(n_rows + 31) / 32][n_subs / 2][32]: a byte has the codes of two
 *                         sub-quantizers (2p in the low four bits) of one row, rows 0-15 in the
 *                         even bytes. A list may begin inside a block.
 *   IVF_SECTION_TERMS     PQ4: i16 a row, padded to blocks of 32, times meta.term_scale
 *   IVF_SECTION_ROWS8     a row of bytes each, stride meta.row8_bytes; INT8 and PQ4
 *
 * One layout serves every kernel. Threads: an ivf is immutable; one ivf_scratch per thread. */
#ifndef IVF_H
#define IVF_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "shard/index/codebook.h"
#include "shard/index/topk.h"
#include "shard/storage/segment.h"
#include "shard/storage/segment_format.h"

enum ivf_section {
    IVF_SECTION_CODEBOOK = SEGMENT_INDEX_FIRST,
    IVF_SECTION_META,
    IVF_SECTION_LISTS,
    IVF_SECTION_CODES,
    IVF_SECTION_TERMS,
    IVF_SECTION_ROWS8,
};

/* ---- effort ----------------------------------------------------------------------------------
 * How hard a search looks. `reach`: after the first lists, every list whose squared distance from
 * the query is at most reach times a unit is scanned: the mean of the squared distances of the k-th
 * best hit so far and of the last of the first lists. `margin`: how far
 * below the k-th best an estimate may be, in standard errors, to be ranked again. The mapping from
 * a recall target is measured when a segment is built and stored with it. */
/* The same where a filter leaves out what is nearest: margin is what it is elsewhere, rest the part
 * of the expected hits that may be left in lists that are not scanned (ivf_far.h). Measured for two
 * shares of hits that may be missed. */
struct ivf_far_effort {
    float margin, rest; /* 0: not measured */
};
#define IVF_FAR_EFFORTS 2u
#define IVF_FAR_MISSES                                                                             \
    {                                                                                              \
        0.05f, 0.01f                                                                               \
    }

#define IVF_FIRST_LISTS 16u /* in a calibration, and when an effort does not say */
struct ivf_effort {
    float reach;
    float margin;
    uint32_t first_lists;
    uint32_t lists_max;  /* 0: no limit */
    float growth;        /* of reach, where a filter leaves a tenth; not stored */
    uint32_t least_rows; /* lists are in reach until so many rows are visited; not stored */
    float misses; /* a share of hits that may be missed, where lists are chosen by that; 0: they are
                     not. Not stored */
    struct ivf_far_effort far; /* for that; zero: the usual one */
};

/* Rows whose mean squared distance from their centroids is so many times that of others fit the
 * codebook worse than those: what was measured with the others does not hold for them. */
#define IVF_DRIFT 1.15f

#define IVF_TARGETS     12u
#define IVF_TARGET_HITS 10u /* the k of their recall; for fewer hits a search looks as far */
/* Standard errors, for ten times as many hits. Codes lose three times as many of 1,000 as of 10:
 * sentence vectors. */
#define IVF_MARGIN_GROWTH 0.25f
#define IVF_GROWTH_USUAL  0.05f /* of word and sentence vectors 0.02 to 0.05 was measured */
struct ivf_target {
    float recall;     /* reached on the calibration's queries, a lower confidence bound */
    float rows_share; /* of the segment's rows, looked at on average: the planner's estimate */
    struct ivf_effort effort;
};

struct ivf {
    const struct codebook *codebook; /* counted */
    /* Whose bytes rows, codes, terms and rows8 are, to be verified before they are first used.
     * NULL: they are no file's. */
    const struct segment *segment;
    _Atomic uint64_t *verified; /* a bit per list. Relaxed: the bytes it vouches for never change */
    uint32_t n_rows;
    const void *rows; /* as stored */
    /* Not NULL: rows is not used, this gives row i. Only while a segment is being built. */
    const void *(*row)(const void *ctx, uint32_t i);
    const void *row_ctx;
    enum kith_row_type row_type;
    const uint32_t *lists; /* of a parsed index: its own copy */
    const uint8_t *codes;
    const int16_t *terms;
    const uint8_t *rows8;
    uint32_t row8_bytes;
    float term_scale;
    float error, error8;   /* standard deviation of what codes and bytes leave of a score, see
                              ivf_format.h */
    float residual_energy; /* mean |x - centroid|^2 */
    uint32_t n_targets;
    struct ivf_target targets[IVF_TARGETS]; /* recall ascending */
    struct ivf_far_effort far[IVF_FAR_EFFORTS];
    uint32_t measured_rows; /* of the segment they were measured in: this one, or one before it */
    float growth;           /* of reach, for ten times as many hits */
};

/* What an index is parsed from; borrowed as long as the index lives. */
struct ivf_source {
    const struct segment *segment;                      /* NULL: the bytes need not be verified */
    struct kith_bytes meta, lists, codes, terms, rows8; /* the sections */
    const void *rows;                                   /* the segment's, n_rows */
    uint32_t n_rows;
    enum kith_row_type row_type;
};
/* Meta and lists are verified, the rest is not looked at: the time does not depend on the rows. */
/* What segment_index is in a slice of this configuration; NULL: none, or one by Faiss. */
static inline const struct ivf *ivf_of(const struct segment *segment,
                                       const struct slice_config *config)
{
    return config->index != KITH_INDEX_FAISS ? segment_index(segment) : NULL;
}

struct ivf_source ivf_source_of(const struct segment *segment, const struct slice_config *config);
/* Checks everything a search relies on, in O(n_lists): KITH_CORRUPT. Copies the lists: KITH_NOMEM.
 * Takes no reference to the codebook: whoever keeps the index keeps one. */
enum kith_err ivf_parse(struct ivf *out, const struct ivf_source *source,
                        const struct codebook *codebook, struct kith_diag *diag);
void ivf_fini(struct ivf *ivf); /* of a parsed one */

/* Row i < n_rows, as stored. */
const void *ivf_row(const struct ivf *ivf, uint32_t i);

/* ---- verifying ---------------------------------------------------------------------------------
 * Before the first use of a list: its codes and bytes, or whatever all its rows are scored by. What
 * is damaged is searched all the same, safely and for nothing: segment_check tells it to whoever
 * asked for the search. */
void ivf_verify_list(const struct ivf *index, uint32_t list);
/* Of rows, before they are ranked exactly; where the rows are what is scanned, lists do. */
bool ivf_verify_rows(const struct ivf *index, uint32_t first, uint32_t n); /* false: damaged */

static inline void ivf_need_list(const struct ivf *index, uint32_t list)
{
    if (index->segment != NULL &&
        (atomic_load_explicit(&index->verified[list / 64], memory_order_relaxed) >> (list % 64) &
         1) == 0)
        ivf_verify_list(index, list);
}

/* Whether the calibration of the segment reached the recall: otherwise only an exact scan is sure
 * to. */
bool ivf_reaches(const struct ivf *segment, float recall);

/* The effort for a recall target in (0, 1] of the k nearest, over segments that share a codebook:
 * the mean of theirs by rows, since hits are spread over them like rows are, each raised for the
 * rows that the others add (their hits bring the k-th best nearer, and what is within reach of it
 * is less). Between two stored targets it is interpolated. A target above what was reached in one
 * of them: every list, widest margin, and of the recall only what was reached; 0 of no segments. */
struct ivf_target ivf_target_for(const struct ivf *const *segments, uint32_t n, float recall,
                                 uint32_t k);

/* ---- search ------------------------------------------------------------------------------------
 */

/* One segment as a query sees it. All parts of a search have the same codebook. */
struct ivf_part {
    const struct ivf *index;
    const uint64_t *allowed; /* bit r: row r may be found (live and matching); NULL: all */
    uint64_t n_allowed;      /* how many those are: where hits are rare, a search reaches farther */
    /* flat_name_fn. A row it refuses counts as found: what is deleted is to be missing in allowed.
     */
    bool (*name)(void *ctx, uint32_t row, struct kith_id *id, uint64_t *seq);
    void (*fetch_name)(void *ctx, uint32_t row); /* begins to load what name needs; NULL: nothing */
    void *name_ctx;
};

#define IVF_BATCH 4u
struct ivf_query {
    const float *vector; /* normalised under cosine */
    struct topk *top;    /* k, threshold; may hold hits of other parts already */
    /* What others know of the k-th best rank; read and raised while searching. NULL: alone. */
    _Atomic float *floor;
    struct ivf_effort effort;
    bool by_bytes; /* no lists: all rows by their bytes, the best of them exactly; not without bytes
                      (row8_bytes 0) */
    bool no_rescore;         /* ranks are those of the bytes, in an index that has some */
    bool (*stop)(void *ctx); /* deadline; asked now and then. NULL: never */
    void *stop_ctx;
    uint32_t ranked; /* number in ivf_rank_batch, counted from 1; 0: it ranks by itself */
    /* For calibration, or NULL: what it would have taken to find the hits. There is one part, and
     * ids are numbers of its rows. */
    struct ivf_far_seen *seen;
};

/* Of a search that chose lists by expected hits. */
struct ivf_far_seen {
    uint32_t n;                    /* hits; 0: it did not */
    float errors[IVF_TARGET_HITS]; /* of their estimates, in standard errors */
    float rests[IVF_TARGET_HITS];  /* what is expected in lists that are chosen after theirs */
};

struct ivf_stats {          /* added to */
    uint64_t lists, listed; /* visited, and the rows in them */
    uint64_t rows;          /* scored by codes: in whole blocks, of which a list may have a part */
    uint64_t reranked, exact;
};

struct ivf_scratch;
/* Makes *scratch (NULL at first) fit for searches with this codebook. */
enum kith_err ivf_scratch_fit(struct ivf_scratch **scratch, const struct codebook *codebook,
                              uint32_t k, struct kith_diag *diag);
void ivf_scratch_free(struct ivf_scratch *scratch); /* NULL allowed */

/* Ranks the lists for so many queries at once, each to be searched once with this scratch and no
 * other in between; what is found is the same. False: nothing was done. */
bool ivf_rank_batch(struct ivf_scratch *scratch, const struct codebook *codebook,
                    const float *const vectors[IVF_BATCH]);

/* Searches the lists of all parts together, nearest list first. Ranks pushed to the top-k are exact
 * and the same to the bit as flat_scan's. It finds min(k, allowed rows) hits, less those below a
 * threshold or a floor: these save exact ranks, but where it looks they have no part in. False:
 * stopped. Allocates nothing. */
bool ivf_search(const struct ivf_query *query, const struct ivf_part *parts, uint32_t n_parts,
                struct ivf_scratch *scratch, struct ivf_stats *stats);

#endif
