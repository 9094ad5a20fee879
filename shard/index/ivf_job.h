/* A search under way, shared by the files of ivf_search.c. Not for others.
 *
 *   ivf_rerank.c  bounds, bytes, exact ranks
 *   ivf_codes.c   codes, and the opening
 *   ivf_rows.c    rows without codes
 *   ivf_front.c   the first lists
 *   ivf_far.c     lists by hits that are expected in them
 *   ivf_far_scan.c  their codes
 *   ivf_search.c  lists, the query, scratch
 *
 * Scores are those of ivf_format.h: larger is nearer, and a rank can be turned into one. */
#ifndef IVF_JOB_H
#define IVF_JOB_H

#include <float.h>
#include <math.h>

#include "shard/index/ivf.h"
#include "shard/index/ivf_ahead.h"
#include "shard/index/ivf_best.h"
#include "shard/index/ivf_far.h"
#include "shard/index/ivf_kernels.h"
#include "shard/index/ivf_lists.h"
#include "shard/index/ivf_tables.h"

#define IVF_ESTIMATE_MAX 1e9f  /* fits an int32_t, with room for what a list adds */
#define IVF_RUN_ROWS     1024u /* of a list at once: bounds the candidates between two checks */

/* A row good enough by its bytes to be ranked exactly in the end. */
struct ivf_finalist {
    float score;
    uint32_t part, row;
};

/* What the rows of an index are held against by their codes, as long as the bound is the same. */
struct ivf_sieve {
    const struct ivf *index;
    float bound;
    float wanted; /* the score an estimate has to reach */
    int16_t factor;
    uint16_t shift; /* of terms, see ivf_kernels_scan */
};

struct ivf_scratch {
    uint64_t codebook_hash;
    uint32_t k;
    struct ivf_lists lists;
    struct ivf_tables tables;
    struct ivf_far far;
    float *asked; /* stretched queries: of a search, or of a batch */
    uint8_t *query8;
    /* Candidates: those that wait for their bytes, or, in the opening, all with their estimates. */
    uint32_t *rows, *parts;
    int32_t *estimates;
    float *scores;
    uint32_t *run_rows;
    int16_t *run_estimates;
    float *best;                    /* k scores */
    struct ivf_finalist *finalists; /* ivf_rerank_finalists(k) */
};

struct ivf_job {
    const struct ivf_query *query;
    const struct ivf_part *parts;
    uint32_t n_parts;
    struct ivf_scratch *scratch;
    const struct codebook *codebook;
    const struct ivf_kernels *kernels;
    struct ivf_stats stats;
    struct ivf_best best;
    struct ivf_kernels_rows8 rows8; /* the query as bytes; rows are set for each part */
    const float *vector;            /* the query, stretched (ivf_format.h) */
    float stretch;
    float length2, length; /* of vector */
    float reach;           /* the effort's, or more: ivf_front.c */
    float margin;          /* the effort's, or more: ivf_far.h */
    float bound;           /* the k-th best score found here; -INFINITY: none */
    float least;           /* of a hit: the bound, or more, by others and a threshold */
    float keep;            /* by bytes a row has to have as much: the least less their error */
    float front;           /* how far the first lists go, see ivf_lists_unit */
    bool filtered;         /* no list nearer than the k-th best hit is out of reach */
    bool far;              /* little is left near the query: ivf_far.h chooses */
    float reach_key;       /* lists with a lower key are out of reach */
    bool opening;
    uint32_t n, n_pending; /* candidates; the first n_pending have been fetched */
    uint32_t n_finalists;
    uint32_t n_visited; /* lists with rows that may be found */
    struct ivf_ahead ahead;
    struct ivf_sieve sieve;
};

static inline bool ivf_job_is_stopped(const struct ivf_job *job)
{
    return job->query->stop != NULL && job->query->stop(job->query->stop_ctx);
}

/* ---- ivf_rerank.c ---- */

float ivf_rerank_score(const struct ivf_job *job, float rank);
/* Squared distance of the query from a row of this score; manhattan: the distance. */
float ivf_rerank_distance(const struct ivf_job *job, float score);
/* Raises the bound, and what follows from it, to what is known by now. */
void ivf_rerank_refresh(struct ivf_job *job);
void ivf_rerank_share(const struct ivf_query *query);
bool ivf_rerank_allowed(const struct ivf_part *part, uint32_t row);
/* Ranks a row exactly, for the top-k; returns its rank. */
float ivf_rerank_exact(struct ivf_job *job, const struct ivf_part *part, uint32_t row);
/* Scores rows by their bytes. */
void ivf_rerank_bytes(struct ivf_job *job, uint32_t part, const uint32_t *rows, uint32_t n);
/* Begins to load the bytes of a row; */
void ivf_rerank_fetch_row(const struct ivf *index, uint32_t row);
/* of the candidates from number `from` on. */
void ivf_rerank_fetch(struct ivf_job *job, uint32_t from);
/* Scores the first n candidates and drops them. */
void ivf_rerank_candidates(struct ivf_job *job, uint32_t n);
/* How many finalists the scratch holds for k hits. */
size_t ivf_rerank_finalists(uint32_t k);
/* All that wait, then the ranks of the finalists. */
void ivf_rerank_finish(struct ivf_job *job);

/* ---- ivf_rows.c ---- */

/* All rows of a list, by bytes if it has them. */
void ivf_rows_scan(struct ivf_job *job, uint32_t part, uint32_t list);
/* All rows of all parts. False: stopped. */
bool ivf_rows_search(struct ivf_job *job);

/* ---- ivf_far_scan.c ---- */

/* Lists that ivf_far.h chooses, when there is a bound. False: stopped. */
bool ivf_far_scan(struct ivf_job *job);

/* ---- ivf_front.c ---- */

/* Takes the first lists, at least so many, and sets front; or far, where a filter leaves too little
 * in them. */
void ivf_front_take(struct ivf_job *job, uint32_t n);
/* Whether a list of the part has rows that may be found. */
bool ivf_front_has_rows(const struct ivf_part *part, uint32_t list);

/* ---- ivf_codes.c ---- */

/* How many of the opening's candidates are scored by their bytes, for k hits. */
static inline uint32_t ivf_codes_chosen(uint32_t k)
{
    return k + k / 2 + 1;
}

/* How many rows the opening collects for k hits. */
uint32_t ivf_codes_opening(uint32_t k);
/* How many candidates the scratch holds for k hits. */
size_t ivf_codes_candidates(uint32_t k);
void ivf_codes_scan(struct ivf_job *job, uint32_t part, uint32_t list);
/* For kernels; its rows, which are filtered, and its bound are still to be set. */
struct ivf_kernels_scan ivf_codes_kernel_scan(struct ivf_job *job, const struct ivf *index);
/* Standard deviation of what codes leave of the score of a row at the bound. */
float ivf_codes_error(const struct ivf_job *job, const struct ivf *index);
/* What an estimate has to be above, with the base of its list, each cut off: IVF_ESTIMATE_MAX at
 * most, and rather too little. */
int32_t ivf_codes_wanted(struct ivf_job *job, const struct ivf *index);
void ivf_codes_end_opening(struct ivf_job *job);
/* By how much the estimates of rows [first, end), of one list, are above the score of its center.
 */
void ivf_codes_spread(struct ivf_job *job, const struct ivf *index, uint32_t first, uint32_t end,
                      float *scores);

#endif
