/* For tests of searches: views of fake segments and heads in memory, fake filters and indexes, and
 * an oracle that ranks every live, matching row with the scalar kernel and sorts.
 * Included by test files only, once in a program. Threads: making worlds: one. */
#ifndef SEARCH_TESTING_H
#define SEARCH_TESTING_H

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "common/kith_clock.h"
#include "common/kith_f16.h"
#include "common/kith_mem.h"
#include "common/kith_testing.h"
#include "shard/index/filter_set.h"
#include "shard/index/kernels.h"
#include "shard/index/sketch.h"
#include "shard/index/topk.h"
#include "shard/query/context_testing.h"
#include "shard/query/search.h"

struct segment {
    uint32_t n, row_bytes;
    uint64_t serial;
    struct ivf *index; /* NULL: none */
    uint8_t *data;
    struct kith_id *ids;
    uint64_t *seqs;
};

struct head {
    struct segment rows;
    struct head_sketch sketch;
    uint8_t *sketches; /* NULL: none */
    bool *dead;
};

#define HEAD_RUN 37u /* rows in one piece of a fake head */

uint64_t segment_serial(const struct segment *segment)
{
    return segment->serial;
}

uint64_t head_serial(const struct head *head)
{
    return head->rows.serial;
}

void *segment_index(const struct segment *segment)
{
    return segment->index;
}

uint32_t segment_rows(const struct segment *segment)
{
    return segment->n;
}

const void *segment_row_data(const struct segment *segment, uint32_t first, uint32_t n)
{
    assert_in_range(n, 1, segment->n - first);
    return segment->data + (size_t)first * segment->row_bytes;
}

enum kith_err segment_check(const struct segment *segment, struct kith_diag *diag)
{
    (void)segment;
    (void)diag;
    return KITH_OK;
}

uint32_t segment_row_bytes(const struct segment *segment)
{
    return segment->row_bytes;
}

struct kith_id segment_id(const struct segment *segment, uint32_t row)
{
    return segment->ids[row];
}

uint64_t segment_seq(const struct segment *segment, uint32_t row)
{
    return segment->seqs[row];
}

void segment_fetch_name(const struct segment *segment, uint32_t row)
{
    assert_in_range(row, 0, segment->n - 1);
}

const void *head_run(const struct head *head, uint32_t first, uint32_t *n_rows)
{
    *n_rows = HEAD_RUN - first % HEAD_RUN;
    return head->rows.data + (size_t)first * head->rows.row_bytes;
}

const uint8_t *head_sketches(const struct head *head, uint32_t first)
{
    return head->sketches == NULL ? NULL : head->sketches + (size_t)first * head->sketch.bytes;
}

bool head_row_at(const struct head *head, uint32_t row, uint64_t seq, struct head_row *out)
{
    (void)seq;
    if (head->dead[row])
        return false;
    *out = (struct head_row){.id = &head->rows.ids[row], .seq = head->rows.seqs[row]};
    return true;
}

static const struct segment *broken_segment; /* its payloads cannot be read */

/* A fake filter: node 0's min_count is the share of ids that match, in 1/1000. */
static inline bool id_matches(const struct kith_filter *filter, const struct kith_id *id)
{
    return filter == NULL || filter->n_nodes == 0 ||
           id->lo * 2654435761u % 1000 < filter->nodes[0].min_count;
}

static inline enum kith_err fake_filter(const struct kith_filter *filter, struct bitmap **out,
                                        struct kith_diag *diag)
{
    if (filter->nodes[0].kind == KITH_FILTER_IS_NULL)
        return kith_fail(diag, KITH_CORRUPT, "a bad block");
    *out = bitmap_new();
    return *out != NULL ? KITH_OK : kith_fail(diag, KITH_NOMEM, "filter");
}

enum kith_err filter_segment(const struct kith_filter *filter, const struct view *view,
                             uint32_t segment_index, uint64_t deadline_ms, struct bitmap **out,
                             struct kith_diag *diag)
{
    (void)deadline_ms;
    const struct view_segment *part = &view->segments[segment_index];
    if (part->segment == broken_segment)
        return kith_fail(diag, KITH_CORRUPT, "a bad block");
    enum kith_err err = fake_filter(filter, out, diag);
    for (uint32_t row = 0; err == KITH_OK && row < part->segment->n; row++)
        if (id_matches(filter, &part->segment->ids[row]) &&
            (part->deleted == NULL || !bitmap_contains(part->deleted, row)))
            bitmap_add(*out, row);
    return err;
}

enum kith_err filter_head(const struct kith_filter *filter, const struct view *view,
                          uint32_t head_index, uint64_t deadline_ms, struct bitmap **out,
                          struct kith_diag *diag)
{
    (void)deadline_ms;
    const struct view_head *part = &view->heads[head_index];
    enum kith_err err = fake_filter(filter, out, diag);
    for (uint32_t row = 0; err == KITH_OK && row < part->rows; row++)
        if (id_matches(filter, &part->head->rows.ids[row]) && !part->head->dead[row])
            bitmap_add(*out, row);
    return err;
}

/* ---- a fake index: finds every row, and stops where it is told to ---------------------------- */

enum fake_mode {
    FAKE_HONEST, /* every row that is allowed */
    FAKE_SHORT,  /* one of them, if any */
    FAKE_SLOW,   /* works until it is stopped */
};
static enum fake_mode fake_mode;
static const struct ivf *fake_unsure; /* does not reach any recall; NULL: all do */
static float fake_rows_share = 0.01f, fake_recall = 0.99f;
#define FAKE_MARGIN 3.0f
static _Atomic float seen_margin; /* of the search that ended last */

enum kith_err ivf_scratch_fit(struct ivf_scratch **scratch, const struct codebook *codebook,
                              uint32_t k, struct kith_diag *diag)
{
    (void)codebook;
    (void)k;
    if (*scratch == NULL)
        *scratch = kith_alloc(1);
    return *scratch != NULL ? KITH_OK : kith_fail(diag, KITH_NOMEM, "scratch");
}

void ivf_scratch_free(struct ivf_scratch *scratch)
{
    kith_free(scratch);
}

bool ivf_reaches(const struct ivf *segment, float recall)
{
    assert_non_null(segment);
    return segment != fake_unsure && fake_recall >= recall;
}

struct ivf_target ivf_target_for(const struct ivf *const *segments, uint32_t n, float recall,
                                 uint32_t k)
{
    assert_true(n > 0 && segments[0] != NULL && recall > 0 && k > 0);
    return (struct ivf_target){
        .recall = fake_recall, .rows_share = fake_rows_share, .effort = {.margin = FAKE_MARGIN}};
}

static inline void fake_search_part(const struct ivf_query *query, const struct ivf_part *part)
{
    const struct codebook *codebook = part->index->codebook;
    enum kernels_type type = kernels_type_of(part->index->row_type);
    uint32_t row_bytes = kernels_row_bytes(type, codebook->dim), pushed = 0;
    for (uint32_t row = 0; row < part->index->n_rows; row++) {
        struct kernels_rows one = {(const uint8_t *)part->index->rows + (size_t)row * row_bytes,
                                   codebook->dim};
        struct kith_hit hit = {0};
        if (part->allowed != NULL && (part->allowed[row / 64] >> row % 64 & 1) == 0)
            continue;
        kernels_scalar.scan[kernels_form_of(codebook->metric)][type](query->vector, one, 1,
                                                                     &hit.rank);
        if ((fake_mode == FAKE_HONEST || pushed == 0) &&
            part->name(part->name_ctx, row, &hit.id, &hit.seq))
            pushed += topk_push(query->top, &hit);
    }
}

/* What the thread was last told to rank; each is searched once. */
static _Thread_local const float *fake_ranked[IVF_BATCH];

bool ivf_rank_batch(struct ivf_scratch *scratch, const struct codebook *codebook,
                    const float *const vectors[IVF_BATCH])
{
    assert_non_null(scratch);
    assert_non_null(codebook);
    for (uint32_t i = 0; i < IVF_BATCH; i++)
        fake_ranked[i] = vectors[i];
    return true;
}

bool ivf_search(const struct ivf_query *query, const struct ivf_part *parts, uint32_t n_parts,
                struct ivf_scratch *scratch, struct ivf_stats *stats)
{
    assert_non_null(scratch);
    if (query->ranked > 0) {
        assert_true(query->ranked <= IVF_BATCH);
        assert_ptr_equal(fake_ranked[query->ranked - 1], query->vector);
        fake_ranked[query->ranked - 1] = NULL;
    }
    atomic_store(&seen_margin, query->effort.margin);
    for (uint32_t i = 0; i < n_parts; i++) {
        assert_ptr_equal(parts[i].index->codebook, parts[0].index->codebook);
        stats->rows += parts[i].index->n_rows;
        fake_search_part(query, &parts[i]);
    }
    while (fake_mode == FAKE_SLOW && !query->stop(query->stop_ctx))
        ;
    return fake_mode != FAKE_SLOW;
}

/* ---- worlds ---------------------------------------------------------------------------------- */

#define VIEWS_MAX 3u
#define PARTS_MAX 3u
#define Q_MAX     20u
#define DIM_MAX   70u

struct world {
    struct slice_config config;
    struct codebook codebooks[2];
    struct ivf_effort effort;
    struct view views[VIEWS_MAX];
    struct view *pointers[VIEWS_MAX];
    struct search_part parts[PARTS_MAX];
    struct kith_filter filters[PARTS_MAX];
    float vectors[PARTS_MAX][Q_MAX * DIM_MAX];
    struct search_request request;
    uint64_t next_id;
};

static inline void fill_rows(struct world *w, struct segment *s, uint32_t n)
{
    enum kernels_type type = kernels_type_of(w->config.rows);
    static uint64_t serial;
    s->serial = ++serial;
    s->n = n;
    s->row_bytes = kernels_row_bytes(type, w->config.dim);
    s->data = kith_alloc_aligned(64, (size_t)n * s->row_bytes);
    s->ids = kith_alloc(n * sizeof *s->ids);
    s->seqs = kith_alloc(n * sizeof *s->seqs);
    for (size_t i = 0; i < (size_t)n * w->config.dim; i++) {
        float value = (float)random_below(5) - 2.0f; /* few values: many ties */
        uint16_t half = kith_f16_from_f32(value);
        memcpy(s->data + i * (type == KERNELS_F16 ? 2 : 4),
               type == KERNELS_F16 ? (const void *)&half : (const void *)&value,
               type == KERNELS_F16 ? 2 : 4);
    }
    for (uint32_t i = 0; i < n; i++) {
        s->ids[i] = kith_id_number(w->next_id++ * 7919 % 1000003);
        s->seqs[i] = w->next_id;
    }
}

static inline void make_index(struct world *w, struct segment *s)
{
    s->index = kith_alloc(sizeof *s->index);
    *s->index = (struct ivf){.codebook = &w->codebooks[random_below(2)],
                             .n_rows = s->n,
                             .rows = s->data,
                             .row_type = w->config.rows};
}

/* Most heads have sketches, if such rows may have any. */
static inline void sketch_rows(const struct slice_config *config, struct head *head, uint32_t n)
{
    sketch_of(config, &head->sketch);
    if (head->sketch.bytes == 0 || random_below(4) == 0)
        return;
    head->sketches = kith_alloc_aligned(64, (size_t)n * head->sketch.bytes + 64);
    for (uint32_t i = 0; i < n; i++)
        head->sketch.make(head->rows.data + (size_t)i * head->rows.row_bytes, head->rows.row_bytes,
                          head->sketches + (size_t)i * head->sketch.bytes);
}

static inline void make_view(struct world *w, struct view *view)
{
    *view = (struct view){
        .config = w->config, .seq = 1, .n_segments = random_below(4), .n_heads = random_below(3)};
    view->segments = kith_alloc(view->n_segments * sizeof *view->segments);
    for (uint32_t i = 0; i < view->n_segments; i++) {
        struct view_segment *part = &view->segments[i];
        uint32_t n = random_below(20) == 0 ? 40000 : random_below(500);
        part->segment = kith_alloc(sizeof *part->segment);
        fill_rows(w, part->segment, n);
        if (random_below(2) == 0)
            make_index(w, part->segment);
        part->live = n;
        if (random_below(2) == 0) {
            struct bitmap *deleted = bitmap_new();
            uint32_t one_in = 1 + random_below(20);
            for (uint32_t row = 0; row < n; row++)
                if (random_below(one_in) == 0)
                    bitmap_add(deleted, row);
            part->live -= (uint32_t)bitmap_count(deleted);
            part->deleted = deleted;
        }
        view->live_points += part->live;
    }
    for (uint32_t i = 0; i < view->n_heads; i++) {
        struct head *head = kith_alloc(sizeof *head);
        uint32_t n = random_below(300);
        fill_rows(w, &head->rows, n);
        sketch_rows(&w->config, head, n);
        head->dead = kith_alloc(n * sizeof *head->dead);
        view->heads[i] = (struct view_head){.head = head, .rows = n - n / 10};
        for (uint32_t row = 0; row < n; row++)
            head->dead[row] = random_below(4) == 0;
        for (uint32_t row = 0; row < view->heads[i].rows; row++)
            view->heads[i].live += !head->dead[row];
        view->live_points += view->heads[i].live;
    }
}

static inline void make_world(struct world *w)
{
    memset(w, 0, sizeof *w);
    w->config.dim = 1 + random_below(random_below(3) == 0 ? DIM_MAX : 4);
    w->config.metric = (enum kith_metric)(KITH_COSINE + (int)random_below(4));
    w->config.rows = random_below(2) == 0 ? KITH_ROWS_F32 : KITH_ROWS_F16;
    for (uint32_t i = 0; i < 2; i++)
        w->codebooks[i] = (struct codebook){.metric = w->config.metric,
                                            .codes = CODEBOOK_PQ4,
                                            .dim = w->config.dim,
                                            .n_lists = 10,
                                            .n_subs = 2,
                                            .hash = i + 1};
    w->request = (struct search_request){.views = w->pointers,
                                         .n_views = random_below(VIEWS_MAX + 1),
                                         .parts = w->parts,
                                         .n_parts = 1 + random_below(PARTS_MAX)};
    for (uint32_t v = 0; v < w->request.n_views; v++) {
        make_view(w, &w->views[v]);
        w->pointers[v] = &w->views[v];
    }
    for (uint32_t p = 0; p < w->request.n_parts; p++) {
        static const uint32_t shares[] = {0, 1, 20, 200, 900, 1000};
        w->filters[p].n_nodes = random_below(3) == 0 ? 0 : 1;
        w->filters[p].nodes[0] = (struct kith_filter_node){.kind = KITH_FILTER_AT_LEAST,
                                                           .first_child = KITH_FILTER_NO_NODE,
                                                           .next_sibling = KITH_FILTER_NO_NODE,
                                                           .min_count = shares[random_below(6)]};
        for (uint32_t i = 0; i < Q_MAX * DIM_MAX; i++)
            w->vectors[p][i] = random_below(10) == 0 ? 0.0f : (float)random_below(7) - 3.0f;
        w->parts[p] = (struct search_part){.n_queries = random_below(Q_MAX + 1),
                                           .k = random_below(10) == 0 ? 3000 : 1 + random_below(30),
                                           .vectors = (const uint8_t *)w->vectors[p],
                                           .has_threshold = random_below(3) == 0,
                                           .threshold = (float)random_below(6) - 4.0f,
                                           .filter = random_below(5) == 0 ? NULL : &w->filters[p],
                                           .exact = random_below(3) == 0,
                                           .effort = random_below(2) == 0 ? &w->effort : NULL};
    }
}

static inline void free_rows(struct segment *s)
{
    kith_free(s->index);
    kith_free(s->data);
    kith_free(s->ids);
    kith_free(s->seqs);
}

static inline void free_world(struct world *w)
{
    for (uint32_t v = 0; v < w->request.n_views; v++) {
        struct view *view = &w->views[v];
        for (uint32_t i = 0; i < view->n_segments; i++) {
            free_rows(view->segments[i].segment);
            kith_free(view->segments[i].segment);
            bitmap_free((struct bitmap *)(uintptr_t)view->segments[i].deleted);
        }
        kith_free(view->segments);
        for (uint32_t i = 0; i < view->n_heads; i++) {
            struct head *head = (struct head *)(uintptr_t)view->heads[i].head;
            free_rows(&head->rows);
            kith_free(head->sketches);
            kith_free(head->dead);
            kith_free(head);
        }
    }
    w->request.n_views = 0;
}

/* ---- the oracle ------------------------------------------------------------------------------ */

#define HITS_MAX 600000u

struct candidates {
    uint32_t n;
    struct kith_hit *hits;
};

static inline void consider(const struct world *w, const struct segment *s, uint32_t row,
                            const float *query, struct candidates *found)
{
    struct kith_hit *hit = &found->hits[found->n++];
    struct kernels_rows one = {s->data + (size_t)row * s->row_bytes, w->config.dim};
    *hit = (struct kith_hit){.id = s->ids[row], .seq = s->seqs[row]};
    kernels_scalar.scan[kernels_form_of(w->config.metric)][kernels_type_of(w->config.rows)](
        query, one, 1, &hit->rank);
}

static inline void candidates_of(const struct world *w, const struct search_part *part,
                                 const float *query, struct candidates *found)
{
    found->n = 0;
    for (uint32_t v = 0; v < w->request.n_views; v++) {
        const struct view *view = &w->views[v];
        for (uint32_t i = 0; i < view->n_segments; i++) {
            const struct view_segment *s = &view->segments[i];
            for (uint32_t row = 0; row < s->segment->n; row++)
                if (id_matches(part->filter, &s->segment->ids[row]) &&
                    (s->deleted == NULL || !bitmap_contains(s->deleted, row)))
                    consider(w, s->segment, row, query, found);
        }
        for (uint32_t i = 0; i < view->n_heads; i++) {
            const struct head *head = view->heads[i].head;
            for (uint32_t row = 0; row < view->heads[i].rows; row++)
                if (id_matches(part->filter, &head->rows.ids[row]) && !head->dead[row])
                    consider(w, &head->rows, row, query, found);
        }
    }
}

static inline void unit_query(const struct world *w, const float *vector, float *out)
{
    double square = 0;
    for (uint32_t i = 0; i < w->config.dim; i++)
        square += (double)vector[i] * (double)vector[i];
    double scale = w->config.metric == KITH_COSINE && square > 0 ? 1 / sqrt(square) : 1;
    for (uint32_t i = 0; i < w->config.dim; i++)
        out[i] = (float)((double)vector[i] * scale);
}

static inline int by_order(const void *a, const void *b)
{
    return topk_compare(a, b);
}

/* Also checks min(k, matched): without a threshold the number of hits is exactly that. */
static inline void check_part(const struct world *w, uint32_t p, const struct search_result *result,
                              struct candidates *found)
{
    const struct search_part *part = &w->parts[p];
    assert_int_equal(result->n_queries, part->n_queries);
    for (uint32_t q = 0; q < part->n_queries; q++) {
        float query[DIM_MAX];
        unit_query(w, w->vectors[p] + (size_t)q * w->config.dim, query);
        candidates_of(w, part, query, found);
        assert_int_equal(result->matched, found->n);
        qsort(found->hits, found->n, sizeof *found->hits, by_order);
        uint32_t want = 0;
        while (want < found->n && want < part->k &&
               (!part->has_threshold || found->hits[want].rank >= part->threshold))
            want++;
        assert_int_equal(result->found[q].n, want);
        for (uint32_t i = 0; i < want; i++) {
            assert_true(result->found[q].hits[i].rank == found->hits[i].rank);
            assert_int_equal(result->found[q].hits[i].id.lo, found->hits[i].id.lo);
            assert_int_equal(result->found[q].hits[i].seq, found->hits[i].seq);
        }
    }
}

/* ---- fixture --------------------------------------------------------------------------------- */

static struct world world;

static inline int set_up(void **state)
{
    (void)state;
    if (context_open(3) != 0)
        return -1;
    search_context_share_from(context, 0);
    return 0;
}

static inline void next_world(void)
{
    static uint64_t next;
    if (next == 0)
        next = test_env("KITH_SEED", (uint64_t)time(NULL) * 1000);
    random_begin(next++);
    make_world(&world);
}

/* A world with several pieces, for the tests below. */
static inline void large_world(void)
{
    do {
        free_world(&world);
        next_world();
    } while (world.request.n_views == 0 || world.views[0].live_points < 20000 ||
             world.parts[0].n_queries == 0);
    world.request.n_parts = 1;
    world.parts[0].filter = NULL;
    world.parts[0].has_threshold = false;
}

static inline struct segment *segment_of_world(void)
{
    return world.views[0].segments[0].segment;
}

/* One segment of 40,000 rows with an index, and nothing deleted. */
static inline void plain_world(void)
{
    next_world();
    free_world(&world);
    memset(&world, 0, sizeof world);
    world.config = (struct slice_config){.dim = 64, .metric = KITH_DOT, .rows = KITH_ROWS_F32};
    for (uint32_t i = 0; i < 2; i++)
        world.codebooks[i] = (struct codebook){.metric = KITH_DOT,
                                               .codes = CODEBOOK_PQ4,
                                               .dim = 64,
                                               .n_lists = 10,
                                               .n_subs = 32,
                                               .hash = i + 1};
    world.pointers[0] = &world.views[0];
    world.request = (struct search_request){
        .views = world.pointers, .n_views = 1, .parts = world.parts, .n_parts = 1};
    struct view *view = &world.views[0];
    *view = (struct view){.config = world.config, .n_segments = 1, .live_points = 40000};
    view->segments = kith_alloc(sizeof *view->segments);
    view->segments[0].segment = kith_alloc(sizeof *view->segments[0].segment);
    view->segments[0].live = 40000;
    fill_rows(&world, segment_of_world(), 40000);
    make_index(&world, segment_of_world());
    for (uint32_t i = 0; i < 64; i++)
        world.vectors[0][i] = (float)random_below(7) - 3.0f;
    world.parts[0] =
        (struct search_part){.n_queries = 1, .k = 10, .vectors = (const uint8_t *)world.vectors[0]};
    world.filters[0].n_nodes = 1;
    world.filters[0].nodes[0] = (struct kith_filter_node){.kind = KITH_FILTER_AT_LEAST,
                                                          .first_child = KITH_FILTER_NO_NODE,
                                                          .next_sibling = KITH_FILTER_NO_NODE};
}

#endif
