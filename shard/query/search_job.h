/* A search in progress, shared by the files search_*.c; nobody else includes this.
 *
 * A job is the memory of one search: its plan, and the scratch of all workers. Jobs are taken from
 * the context and put back, so that a search allocates its plan and its answer only. Threads: what
 * the comments in the struct say. */
#ifndef SEARCH_JOB_H
#define SEARCH_JOB_H

#include <pthread.h>
#include <stdatomic.h>

#include "shard/index/faiss_segment.h"
#include "shard/index/flat.h"
#include "shard/index/sketch.h"
#include "shard/query/filter_cache.h"
#include "shard/query/search.h"
#include "shard/query/search_cost.h"

#define SEARCH_PIECE_ROWS_MAX 16384u /* rows to be ranked in one piece, however narrow */
#define SEARCH_SPARSE_ONE_IN  16u    /* fewer matches than that: a list of rows, not words */
#define SEARCH_WORDS_MAX      (SEARCH_PIECE_ROWS_MAX * SEARCH_SPARSE_ONE_IN / 64u)
#define SEARCH_LIST_MAX       4096u

struct search_unit {
    const struct view *view;
    uint32_t view_index, index; /* of the view; of the segment or head in it */
    bool in_head;
    uint32_t rows;
    uint64_t matched;                   /* live rows that match */
    const struct filter_answer *answer; /* a reference; NULL: nobody had to ask */
    const uint64_t *words;              /* its rows; NULL: all of them */
    /* The index to search by; both NULL: exactly. */
    const struct ivf *lists;
    const struct faiss_segment *faiss;
};

static inline bool search_unit_is_exact(const struct search_unit *unit)
{
    return unit->lists == NULL && unit->faiss == NULL;
}

struct search_piece {
    const struct search_unit *unit;
    uint32_t first, n;
};

struct search_job;
struct search_worker;
struct search_group;

/* Asked now and then; true: give up. */
struct search_stop {
    bool (*fn)(void *ctx);
    void *ctx;
};

/* Query q of those in hand, in one group. False: it has to be done again, exactly (or the job has
 * failed). */
typedef bool (*search_group_fn)(struct search_job *job, struct search_worker *worker, uint32_t q,
                                const struct search_group *group, const struct search_stop *stop);

/* Segments that are searched together: those that share a codebook, or one by Faiss. */
struct search_group {
    search_group_fn search;
    uint64_t hash; /* of what they share: what is learnt of costs is kept under it */
    const struct codebook *codebook;
    bool by_bytes;     /* the rows that match are ranked by their bytes, not the lists */
    uint32_t first, n; /* in job->parts */
    /* By Faiss. */
    const struct search_unit *unit;
    const struct faiss_target *setting;
    uint32_t fetch; /* rows to ask for */
    struct ivf_target target;
    double share;        /* of their rows that match */
    double estimated_ns; /* of one query */
    double expected_ns;  /* with what was learnt */
    double exact_ns;     /* if scanned instead */
};

/* What costs are learnt under: lists and bytes differ, and neighbours do not share a place. */
static inline uint64_t search_group_learner(uint64_t hash, bool by_bytes)
{
    return by_bytes ? hash + 1 : hash;
}

#define SEARCH_SCRATCHES 4u /* codebooks whose tables a worker keeps at a time */
struct search_tables {
    uint64_t hash; /* of the codebook */
    struct ivf_scratch *scratch;
};

/* What Faiss found for a query in a segment, and those of it that match. */
struct search_found {
    int64_t *rows;
    float *ranks;
    uint32_t *list;
    size_t rows_cap, ranks_cap, list_cap;
};

struct search_worker {
    bool ready; /* tops are set up for the queries in hand */
    uint64_t seen;
    struct flat_scratch *flat;
    struct search_tables tables[SEARCH_SCRATCHES];
    uint32_t next_tables; /* to be replaced */
    struct search_found found;
    /* The lists of the group in hand have been ranked for queries [first_ranked, .. + IVF_BATCH).
     */
    bool ranked;
    uint32_t first_ranked;
    struct ivf_stats stats;
    struct topk tops[FLAT_QUERIES_MAX];
    struct kith_hit *hits;
    size_t hits_cap;
    uint64_t words[SEARCH_WORDS_MAX];
    uint32_t list[SEARCH_LIST_MAX];
    struct sketch_query sketch;
};

struct search_job {
    /* Immutable while tasks run. */
    struct search_job *next_spare;
    struct search_context *context;
    const struct search_request *request;
    const struct search_part *part;   /* in hand */
    const struct kith_filter *filter; /* the part's; NULL: none */
    struct kith_buf filter_key;
    const struct slice_config *config;
    struct search_unit *units;
    struct search_unit **asking; /* those whose filter has to be evaluated */
    struct search_piece *pieces; /* of units searched exactly, then of the others, once needed */
    struct search_group *groups;
    struct ivf_part *parts;
    float *queries; /* of the part, normalised for cosine */
    size_t units_cap, asking_cap, pieces_cap, groups_cap, parts_cap, queries_cap;
    uint32_t n_units, n_pieces, n_exact_pieces, n_groups, n_parts;
    double expected_ns, exact_ns; /* one query, over all units */
    uint64_t rows;                /* ranked exactly, for each query */
    uint64_t bytes;               /* of the rows of the pieces that match */
    const float *vectors;         /* of the queries in hand */
    uint32_t n_queries, k;
    uint32_t queries_per_task;
    float threshold;
    uint32_t n_workers;
    /* By worker number. */
    struct search_worker *workers;
    /* By query: whoever searches its lists. Those that have to be done again, exactly. */
    bool again[FLAT_QUERIES_MAX];
    /* Any thread. The first to change err from KITH_OK writes diag; read after the tasks. */
    _Atomic int err;
    struct kith_diag diag;
    atomic_bool view_failed; /* request->failures has a new one */
    _Atomic float floors[FLAT_QUERIES_MAX];
};

struct search_context {
    struct kith_pool *pool;
    uint32_t n_workers;
    uint64_t share_bytes_min;
    struct filter_cache *cache;
    struct search_cost cost;
    pthread_mutex_t lock;
    /* Guarded by lock. */
    struct search_job *spare;
    uint32_t n_spare;
    struct search_stats stats;
};

/* ---- search_job.c ---------------------------------------------------------------------------- */

struct search_job *search_job_take(struct search_context *context); /* NULL: out of memory */
void search_job_give(struct search_context *context, struct search_job *job);
void search_job_free(struct search_job *job); /* NULL allowed */
/* The first failure of a job stays; any thread. */
void search_job_fail(struct search_job *job, enum kith_err err, const struct kith_diag *diag);
/* What is wrong with one view only; the job fails if the caller does not want it by itself. */
void search_job_fail_view(struct search_job *job, uint32_t view, enum kith_err err,
                          const struct kith_diag *diag);
bool search_job_failed(const struct search_job *job);
/* True when the task in hand should not be worked on: something failed, or time is up. */
bool search_job_is_over(struct search_job *job);
/* The worker's top-k for the queries in hand; false: the job failed. */
bool search_job_begin_worker(struct search_job *job, struct search_worker *worker);

/* ---- search_plan.c --------------------------------------------------------------------------- */

/* Units of all views, and which of their rows match. Failures of filters are in the job. */
enum kith_err search_plan_choose_rows(struct search_job *job, struct search_explain *explain,
                                      struct kith_diag *diag);
/* Which units are searched by lists. */
enum kith_err search_plan_choose_lists(struct search_job *job, struct search_explain *explain,
                                       struct kith_diag *diag);
void search_plan_drop_units(struct search_job *job);
float search_plan_recall(const struct search_job *job); /* asked for */
/* What ranking the unit's matches for one query should take. */
double search_plan_exact_ns(const struct search_job *job, const struct search_unit *unit);

/* ---- search_faiss.c -------------------------------------------------------------------------- */

#define FAISS_MARGIN_MAX 1e6f /* above, codes are not to hide any row */

/* Which units are searched by Faiss: the groups of a collection that is indexed by it. */
enum kith_err search_faiss_choose(struct search_job *job, struct kith_diag *diag);
void search_faiss_explain(const struct search_job *job, struct search_explain *explain);
bool search_faiss_query(struct search_job *job, struct search_worker *worker, uint32_t q,
                        const struct search_group *group, const struct search_stop *stop);

/* ---- search_exact.c, search_lists.c ---------------------------------------------------------- */

/* Adds the pieces of units that are searched by lists, or of those that are not. */
enum kith_err search_exact_cut(struct search_job *job, bool by_lists, struct kith_diag *diag);
void search_exact_run_piece(void *job, uint32_t piece, uint32_t worker); /* a kith_piece_fn */
bool search_exact_name_segment_row(void *unit, uint32_t row, struct kith_id *id, uint64_t *seq);
void search_exact_fetch_segment_name(void *unit, uint32_t row);

/* Queries [task * queries_per_task, ...) over all groups. */
void search_lists_run_task(void *job, uint32_t task, uint32_t worker);
bool search_lists_query(struct search_job *job, struct search_worker *worker, uint32_t q,
                        const struct search_group *group, const struct search_stop *stop);

/* ---- search_queries.c ------------------------------------------------------------------------ */

/* The best job->k of the rows that match, for all queries of the part. */
enum kith_err search_queries_run(struct search_job *job, struct search_result *result,
                                 struct kith_diag *diag);

#endif
