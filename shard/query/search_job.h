/* A search in progress, shared by the files search_*.c; nobody else includes this.
 *
 * A job is the memory of one search: its plan, and the scratch of all workers. Jobs are taken from
 * the context and put back, so that a search allocates its plan and its answer only. Threads: what
 * the comments in the struct say. */
#ifndef SEARCH_JOB_H
#define SEARCH_JOB_H

#include <pthread.h>
#include <stdatomic.h>

#include "shard/index/flat.h"
#include "shard/query/filter_cache.h"
#include "shard/query/search.h"

#define SEARCH_PIECE_ROWS_MAX 16384u /* rows to be ranked in one piece, however narrow */
#define SEARCH_SPARSE_ONE_IN  16u    /* fewer matches than that: a list of rows, not words */
#define SEARCH_WORDS_MAX      (SEARCH_PIECE_ROWS_MAX * SEARCH_SPARSE_ONE_IN / 64u)
#define SEARCH_LIST_MAX       4096u

struct search_unit {
    const struct view *view;
    uint32_t index; /* of the segment or head in its view */
    bool in_head;
    uint32_t rows;
    uint64_t matched;                   /* live rows that match */
    const struct filter_answer *answer; /* a reference; NULL: nobody had to ask */
    const uint64_t *words;              /* its rows; NULL: all of them */
};

struct search_piece {
    const struct search_unit *unit;
    uint32_t first, n;
};

struct search_worker {
    bool ready; /* tops are set up for the group in hand */
    uint64_t seen;
    struct flat_scratch *flat;
    struct topk tops[FLAT_QUERIES_MAX];
    struct kith_hit *hits;
    size_t hits_cap;
    uint64_t words[SEARCH_WORDS_MAX];
    uint32_t list[SEARCH_LIST_MAX];
};

struct search_job {
    /* Immutable while pieces run. */
    struct search_job *next_spare;
    struct filter_cache *cache;
    const struct kith_filter *filter; /* of the part in hand; NULL: none */
    struct kith_buf filter_key;
    uint64_t deadline_ms;
    const struct slice_config *config;
    struct search_unit *units;
    struct search_unit **asking; /* those whose filter has to be evaluated */
    size_t units_cap, asking_cap, pieces_cap, queries_cap;
    uint32_t n_units, n_pieces;
    uint64_t bytes; /* of the rows to be ranked */
    struct search_piece *pieces;
    float *queries; /* of the part, normalised for cosine */
    const float *group;
    uint32_t n_group, k;
    float threshold;
    uint32_t n_workers;
    /* By worker number. */
    struct search_worker *workers;
    /* Any thread. The first to change err from KITH_OK writes diag; read after the pieces. */
    _Atomic int err;
    struct kith_diag diag;
    _Atomic float floors[FLAT_QUERIES_MAX];
};

struct search_context {
    struct kith_pool *pool;
    uint32_t n_workers;
    uint64_t share_bytes_min;
    struct filter_cache *cache;
    pthread_mutex_t lock;
    struct search_job *spare; /* guarded by lock */
    uint32_t n_spare;
};

struct search_job *search_job_take(struct search_context *context); /* NULL: out of memory */
void search_job_give(struct search_context *context, struct search_job *job);
void search_job_free(struct search_job *job); /* NULL allowed */
/* The first failure of a job stays; any thread. */
void search_job_fail(struct search_job *job, enum kith_err err, const struct kith_diag *diag);
/* True when the piece in hand should not be worked on: something failed, or time is up. */
bool search_job_is_over(struct search_job *job);

/* Units of all views, and which of their rows match. Failures of filters are in job->err. */
enum kith_err search_plan_choose_rows(struct search_context *context, struct search_job *job,
                                      const struct search_request *request,
                                      const struct search_part *part, struct kith_diag *diag);
void search_plan_drop_units(struct search_job *job);

/* The best job->k of the rows that match, for all queries of the part. */
enum kith_err search_exact_run(struct search_context *context, struct search_job *job,
                               const struct search_part *part, struct search_result *result,
                               struct kith_diag *diag);

#endif
