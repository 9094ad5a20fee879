#include "shard/index/ivf_build.h"

#include <float.h>

#include "shard/index/flat.h"
#include "shard/index/ivf_build_testing.h"
#include "shard/index/kernels.h"

static double dot(const float *a, const float *b, uint32_t dim)
{
    double sum = 0.0;
    for (uint32_t j = 0; j < dim; j++)
        sum += (double)a[j] * (double)b[j];
    return sum;
}

/* The squared distance from a centroid in the space rows are assigned in. */
static double distance(const struct codebook *c, const float *row, uint32_t list)
{
    const float *centroid = c->centroids + (size_t)list * c->dim;
    double length = dot(row, row, c->dim), lift = (double)c->lift - length;
    double sum = length - 2 * dot(row, centroid, c->dim) + dot(centroid, centroid, c->dim);
    if (c->lifts != NULL) {
        double gap = (lift > 0 ? sqrt(lift) : 0.0) - (double)c->lifts[list];
        sum += gap * gap;
    }
    return sum;
}

static void check_nearest(const struct codebook *c, const float *row, uint32_t list)
{
    double own = distance(c, row, list);
    for (uint32_t other = 0; other < c->n_lists; other++)
        assert_true(own <= distance(c, row, other) + 1e-4 * (1.0 + dot(row, row, c->dim)));
}

/* A row as its code says. */
static void decode(const struct ivf *ivf, uint32_t row, uint32_t list, float *out)
{
    const struct codebook *c = ivf->codebook;
    for (uint32_t j = 0; j < c->dim; j++) {
        uint32_t sub = j / c->sub_dim;
        uint8_t pair = ivf->codes[ivf_format_code(c->n_subs, row, sub / 2)];
        uint32_t word = sub % 2 == 0 ? pair & 15 : pair >> 4;
        out[j] = c->centroids[(size_t)list * c->dim + j] +
                 c->subs[((size_t)sub * c->sub_dim + j % c->sub_dim) * 16 + word];
    }
}

/* Sums over all rows of what estimates leave. */
struct errors {
    double codes, bytes;
};

/* The estimate is exact for a query a little off the centroid towards the row, up to the rounding
 * of the term. */
static void check_code(const struct ivf *ivf, const float *row, uint32_t at, uint32_t list,
                       struct errors *errors)
{
    const struct codebook *c = ivf->codebook;
    const float *centroid = c->centroids + (size_t)list * c->dim;
    float coded[DIM_MAX], error[DIM_MAX], query[DIM_MAX];
    double xx = dot(row, row, c->dim), term = ivf->terms[at] * (double)ivf->term_scale;
    decode(ivf, at, list, coded);
    for (uint32_t j = 0; j < c->dim; j++) {
        error[j] = row[j] - coded[j];
        query[j] = centroid[j] + IVF_EXACT_AT * (row[j] - centroid[j]);
    }
    double score = dot(query, coded, c->dim), exact = dot(query, row, c->dim);
    double slack = (double)ivf->term_scale + 1e-5 * (1.0 + xx);
    if (c->metric == KITH_EUCLID) {
        score -= dot(centroid, centroid, c->dim) / 2;
        exact -= xx / 2;
    }
    assert_true(fabs(score + term - exact) < slack);
    errors->codes += dot(error, error, c->dim);
}

static void check_bytes(const struct ivf *ivf, const float *row, uint32_t at, struct errors *errors)
{
    const struct codebook *c = ivf->codebook;
    const uint8_t *bytes = ivf->rows8 + (size_t)at * ivf->row8_bytes;
    float tail[2], values[DIM_MAX];
    memcpy(tail, ivf_format_tail(bytes, ivf->row8_bytes), sizeof tail);
    for (uint32_t j = c->dim; j < ivf->row8_bytes - IVF_ROW8_TAIL; j++)
        assert_int_equal(bytes[j], IVF_BYTE_ZERO);
    if (c->metric == KITH_MANHATTAN) {
        for (uint32_t j = 0; j < c->dim; j++)
            assert_int_equal(bytes[j], ivf_format_byte(c, row[j]));
        return;
    }
    double xx = dot(row, row, c->dim);
    for (uint32_t j = 0; j < c->dim; j++)
        values[j] = tail[0] * ((float)bytes[j] - (float)IVF_BYTE_ZERO);
    assert_true(fabs(dot(row, values, c->dim) - xx) < 1e-4 * (1.0 + xx));
    assert_true(fabs((double)tail[1] + (c->metric == KITH_EUCLID ? xx / 2 : 0)) < 1e-4 * (1 + xx));
    for (uint32_t j = 0; j < c->dim; j++)
        values[j] -= row[j];
    errors->bytes += dot(values, values, c->dim);
}

static void check_index(const struct world *w, const struct segment *segment)
{
    const struct ivf *ivf = segment_index(segment);
    assert_non_null(ivf);
    const struct codebook *c = ivf->codebook;
    struct errors errors = {0};
    double energy = 0.0;
    uint32_t list = 0;
    for (uint32_t at = 0; at < w->n; at++) {
        uint32_t from = (uint32_t)segment_id(segment, at).lo; /* write_points numbers them */
        const float *row = w->rows + (size_t)from * c->dim;
        while (ivf->lists[list + 1] <= at)
            list++;
        size_t bytes = segment_row_bytes(segment);
        assert_memory_equal((const uint8_t *)ivf->rows + at * bytes, row_at(w, from), bytes);
        check_nearest(c, row, list);
        energy += distance(c, row, list) / w->n;
        if (c->codes == CODEBOOK_PQ4)
            check_code(ivf, row, at, list, &errors);
        if (c->codes != CODEBOOK_ROWS)
            check_bytes(ivf, row, at, &errors);
    }
    assert_true(fabs(energy - (double)ivf->residual_energy) < 1e-3 * (1.0 + energy));
    double n = (double)w->n * c->dim;
    if (c->codes == CODEBOOK_PQ4)
        assert_true(fabs(sqrt(fabs(errors.codes) / n) - (double)ivf->error) < 1e-3);
    if (c->codes != CODEBOOK_ROWS && c->metric != KITH_MANHATTAN)
        assert_true(fabs(sqrt(errors.bytes / n) - (double)ivf->error8) < 1e-3);
}

static void test_ivf_build_makes_what_the_format_says(void **state)
{
    (void)state;
    static const enum codebook_codes codes[] = {CODEBOOK_ROWS, CODEBOOK_INT8, CODEBOOK_PQ4};
    for (int metric = KITH_COSINE; metric <= KITH_MANHATTAN; metric++)
        for (int i = 0; i < 3; i++) {
            if (metric == KITH_MANHATTAN && codes[i] == CODEBOOK_PQ4)
                continue;
            make_world(&world, (enum kith_metric)metric, codes[i],
                       100 + random_u32() % (ROWS_MAX - 100));
            struct rig rig = new_rig(&world);
            assert_int_equal(write_segment(&world, rig.io, rig.builder, 1), KITH_OK);
            struct segment *segment = open_segment(&world, rig.io, rig.builder, 1);
            check_index(&world, segment);
            segment_unref(segment);
            free_rig(&rig);
        }
}

/* `worst`: the rank of the k-th hit of each query. */
static double recall_at(const struct world *w, const struct ivf *ivf, const float *worst,
                        float target, uint32_t k)
{
    struct ivf_scratch *scratch = NULL;
    struct ivf_stats stats = {0};
    uint32_t found = 0;
    assert_int_equal(ivf_scratch_fit(&scratch, ivf->codebook, k, NULL), KITH_OK);
    for (uint32_t q = 0; q < HELD; q++) {
        const float *query = w->rows + (size_t)(w->n + q) * w->config.dim;
        struct kith_hit hits[MANY];
        struct topk top;
        topk_init(&top, k, -FLT_MAX, hits);
        struct ivf_part part = {.index = ivf, .name = flat_name_number};
        struct ivf_query search = {
            .vector = query, .top = &top, .effort = ivf_target_for(&ivf, 1, target, k).effort};
        assert_true(ivf_search(&search, &part, 1, scratch, &stats));
        for (uint32_t i = 0; i < top.n; i++)
            found += hits[i].rank >= worst[q];
    }
    ivf_scratch_free(scratch);
    return (double)found / HELD / k;
}

/* The queries of a calibration are rows that the centres were trained on, which lean towards them:
 * the more, the smaller the lists are. */
#define LEANING TEST_SCALE(0.04, 0.10)

static void check_recall(const struct ivf *ivf, uint32_t k)
{
    float worst[HELD];
    for (uint32_t q = 0; q < HELD; q++)
        worst[q] = kth_rank(&world, world.rows + (size_t)(world.n + q) * world.config.dim, k);
    for (uint32_t i = 0; i < ivf->n_targets; i++) {
        double recall = recall_at(&world, ivf, worst, ivf->targets[i].recall, k);
        if (recall < (double)ivf->targets[i].recall - LEANING)
            fail_msg("metric %d dim %u k %u: recall %.3f for %.3f", (int)world.config.metric,
                     world.config.dim, k, recall, (double)ivf->targets[i].recall);
    }
}

static void test_ivf_build_reaches_the_recall_asked_for(void **state)
{
    (void)state;
    for (int metric = KITH_COSINE; metric <= KITH_MANHATTAN; metric++) {
        do
            make_world(&world, (enum kith_metric)metric,
                       metric == KITH_MANHATTAN ? CODEBOOK_INT8 : CODEBOOK_PQ4, ROWS_MAX);
        while (world.config.dim < 8); /* what has few dimensions is too dense for bytes */
        world.n = ROWS_MAX - HELD;
        struct rig rig = new_rig(&world);
        assert_int_equal(write_segment(&world, rig.io, rig.builder, 1), KITH_OK);
        struct segment *segment = open_segment(&world, rig.io, rig.builder, 1);
        const struct ivf *ivf = segment_index(segment);
        assert_true(ivf->n_targets > 0);
        check_recall(ivf, K);
        check_recall(ivf, MANY);
        segment_unref(segment);
        free_rig(&rig);
    }
}

/* Where lists are chosen by the hits expected in them, what that takes is measured: more for a
 * higher recall. */
static void test_ivf_build_measures_what_far_hits_take(void **state)
{
    (void)state;
    for (int metric = KITH_COSINE; metric <= KITH_EUCLID; metric++) {
        do
            make_world(&world, (enum kith_metric)metric, CODEBOOK_PQ4, ROWS_MAX);
        while (world.config.dim < 8);
        struct rig rig = new_rig(&world);
        assert_int_equal(write_segment(&world, rig.io, rig.builder, 1), KITH_OK);
        struct segment *segment = open_segment(&world, rig.io, rig.builder, 1);
        const struct ivf_far_effort *far = ((const struct ivf *)segment_index(segment))->far;
        if (metric == KITH_EUCLID)
            assert_true(far[0].margin == 0 && far[0].rest == 0 && far[1].margin == 0);
        else if (!(far[0].margin > 0 && far[1].margin >= far[0].margin && far[1].rest > 0 &&
                   far[0].rest >= far[1].rest && far[0].rest <= 0.5f))
            fail_msg("metric %d dim %u: margins %.3f %.3f rests %.4f %.4f", metric,
                     world.config.dim, (double)far[0].margin, (double)far[1].margin,
                     (double)far[0].rest, (double)far[1].rest);
        segment_unref(segment);
        free_rig(&rig);
    }
}

static void test_ivf_build_leaves_small_segments_alone(void **state)
{
    (void)state;
    make_world(&world, KITH_COSINE, CODEBOOK_PQ4, 200);
    struct io *io = new_disk();
    struct codebook *codebook = train(&world, 1);
    struct ivf_builder *builder = new_builder(&world);
    const struct segment_index_hooks *hooks = ivf_builder_hooks(builder);
    assert_int_equal(write_segment(&world, io, builder, 1), KITH_OK);
    struct segment *bare = open_segment(&world, io, builder, 1);
    assert_null(segment_index(bare));
    assert_int_equal(hooks->wants(hooks->self, bare),
                     INDEX_WANT_NOTHING); /* there is no codebook */
    ivf_builder_set_codebook(builder, codebook);
    assert_int_equal(hooks->wants(hooks->self, bare), INDEX_WANT_ANY);
    world.n = 9; /* below min_rows */
    assert_int_equal(write_segment(&world, io, builder, 2), KITH_OK);
    struct segment *small = open_segment(&world, io, builder, 2);
    assert_null(segment_index(small));
    assert_int_equal(hooks->wants(hooks->self, small), INDEX_WANT_NOTHING);
    segment_unref(small);
    segment_unref(bare);
    ivf_builder_free(builder);
    codebook_unref(codebook);
    io_fake_free(io);
}

/* Indexes the first n rows and opens the segment, which says what was measured in how many rows. */
static struct segment *made_of(struct rig *rig, uint32_t n, uint64_t number, uint32_t measured)
{
    world.n = n;
    assert_int_equal(write_segment(&world, rig->io, rig->builder, number), KITH_OK);
    struct segment *segment = open_segment(&world, rig->io, rig->builder, number);
    const struct ivf *ivf = segment_index(segment);
    assert_true(ivf->n_targets > 0);
    assert_int_equal(ivf->measured_rows, measured);
    return segment;
}

static void test_ivf_build_takes_over_what_was_measured(void **state)
{
    (void)state;
    do
        make_world(&world, KITH_EUCLID, CODEBOOK_PQ4, 2000);
    while (world.config.dim < 8);
    struct rig rig = new_rig(&world);
    size_t row_values = world.config.dim;
    memcpy(world.rows + 800 * row_values, world.rows, 800 * row_values * sizeof world.rows[0]);
    kith_f16_pack(world.halves, world.rows, 1600 * world.config.dim); /* so 1600 fit as 800 do */
    struct segment *first = made_of(&rig, 800, 1, 800), *second = made_of(&rig, 800, 2, 800);
    const struct ivf *from = segment_index(first), *to = segment_index(second);
    assert_memory_equal(from->targets, to->targets, sizeof from->targets);
    segment_unref(first);
    struct segment *third = made_of(&rig, 1600, 3, 800); /* who has it does not matter */
    struct segment *large = made_of(&rig, 2000, 4, 2000);
    for (size_t i = 0; i < 500 * row_values; i++) /* rows the codebook does not fit */
        world.rows[i] += 3.0f * random_unit();
    kith_f16_pack(world.halves, world.rows, 500 * world.config.dim);
    struct segment *other = made_of(&rig, 500, 5, 500);
    segment_unref(other);
    segment_unref(large);
    segment_unref(third);
    segment_unref(second);
    free_rig(&rig);
}

/* With nothing said about sizes: by what scanning the rows would cost. */
static void test_ivf_build_takes_what_pays(void **state)
{
    (void)state;
    make_world(&world, KITH_COSINE, CODEBOOK_PQ4, 500);
    world.config.rows = KITH_ROWS_F32;
    struct codebook *codebook = train(&world, 1);
    struct ivf_builder_options options = {
        .config = world.config, .codes = CODEBOOK_PQ4, .threads = 1};
    struct ivf_builder *builder;
    assert_int_equal(ivf_builder_new(&builder, &options, NULL), KITH_OK);
    const struct segment_index_hooks *hooks = ivf_builder_hooks(builder);
    uint32_t row_bytes = world.config.dim * (uint32_t)sizeof(float);
    uint32_t pays = (IVF_PAYS_BYTES + row_bytes - 1) / row_bytes;
    uint32_t least = pays < IVF_MEASURE_ROWS ? IVF_MEASURE_ROWS
                     : pays < IVF_TRAIN_ROWS ? pays
                                             : IVF_TRAIN_ROWS;
    assert_false(hooks->takes(hooks->self, IVF_TRAIN_ROWS)); /* no codebook */
    ivf_builder_set_codebook(builder, codebook);
    assert_true(hooks->takes(hooks->self, least));
    assert_false(hooks->takes(hooks->self, least - 1));
    ivf_builder_free(builder);
    codebook_unref(codebook);
}

static void test_ivf_build_keeps_one_copy_of_a_codebook(void **state)
{
    (void)state;
    make_world(&world, KITH_DOT, CODEBOOK_PQ4, 500);
    long before = kith_mem_live();
    struct io *io = new_disk();
    struct codebook *first = train(&world, 1), *second = train(&world, 2);
    struct ivf_builder *builder = new_builder(&world), *other = new_builder(&world);
    const struct segment_index_hooks *hooks = ivf_builder_hooks(other);
    ivf_builder_set_codebook(builder, first);
    assert_int_equal(write_segment(&world, io, builder, 1), KITH_OK);
    assert_int_equal(write_segment(&world, io, builder, 2), KITH_OK);
    ivf_builder_set_codebook(builder, second);
    assert_int_equal(write_segment(&world, io, builder, 3), KITH_OK);
    /* A builder that starts with the files alone. */
    struct segment *segments[3];
    const struct ivf *ivf[3];
    for (uint32_t i = 0; i < 3; i++) {
        segments[i] = open_segment(&world, io, other, i + 1);
        ivf[i] = segment_index(segments[i]);
    }
    assert_true(ivf[0]->codebook == ivf[1]->codebook && ivf[1]->codebook != ivf[2]->codebook);
    ivf_builder_set_codebook(other, second);
    const struct codebook *current = ivf_builder_codebook(other);
    assert_true(current == ivf[2]->codebook); /* the copy in use, not a second one */
    codebook_unref(current);
    ivf_builder_set_codebook(other, first); /* older: ignored */
    assert_int_equal(hooks->wants(hooks->self, segments[0]), INDEX_WANT_BETTER);
    assert_int_equal(hooks->wants(hooks->self, segments[2]), INDEX_WANT_NOTHING);
    for (uint32_t i = 0; i < 3; i++)
        segment_unref(segments[i]);
    ivf_builder_set_codebook(other, NULL);
    assert_null(ivf_builder_codebook(other));
    ivf_builder_free(other);
    ivf_builder_free(builder);
    codebook_unref(first);
    codebook_unref(second);
    io_fake_free(io);
    assert_int_equal(kith_mem_live(), before);
}

static void test_ivf_build_stops_when_told(void **state)
{
    (void)state;
    make_world(&world, KITH_EUCLID, CODEBOOK_PQ4, ROWS_MAX);
    struct rig rig = new_rig(&world);
    assert_true(stop_ever_later(&world, ivf_builder_hooks(rig.builder), 8) > 8);
    free_rig(&rig);
}

static void test_ivf_build_survives_each_oom(void **state)
{
    (void)state;
    make_world(&world, KITH_DOT, CODEBOOK_PQ4, 300);
    long before = kith_mem_live();
    struct codebook *codebook = train(&world, 1);
    struct ivf_builder *builder = NULL;
    struct ivf_builder_options options = {
        .config = world.config, .codes = world.codes, .min_rows = 10, .threads = 2};
    enum kith_err err = KITH_NOMEM;
    for (long n = 0; err == KITH_NOMEM; n++) {
        kith_mem_fail_after(n);
        err = ivf_builder_new(&builder, &options, NULL);
        kith_mem_fail_after(-1);
    }
    assert_int_equal(err, KITH_OK);
    ivf_builder_set_codebook(builder, codebook);
    fail_each_allocation(&world, ivf_builder_hooks(builder));
    struct io *io = new_disk();
    assert_int_equal(write_segment(&world, io, builder, 1), KITH_OK);
    struct ivf_builder *fresh = new_builder(&world);
    segment_unref(open_despite_oom(&world, io, ivf_builder_hooks(fresh), 1));
    ivf_builder_free(fresh);
    ivf_builder_free(builder);
    codebook_unref(codebook);
    io_fake_free(io);
    assert_int_equal(kith_mem_live(), before);
}

static float drift_of(struct ivf_builder *builder, const struct codebook *codebook)
{
    struct ivf_fit fit = ivf_builder_fit(builder);
    assert_true(fit.hash == codebook->hash && fit.rows == world.n);
    return fit.energy / codebook->residual_energy;
}

static void test_ivf_build_tells_drift(void **state)
{
    (void)state;
    do
        make_world(&world, KITH_EUCLID, CODEBOOK_PQ4, ROWS_MAX * 4 / 5);
    while (world.config.dim < 8); /* with few dimensions few rows have most of the energy */
    struct codebook *codebook = train(&world, 1);
    struct ivf_builder *builder = new_builder(&world);
    assert_true(ivf_builder_fit(builder).hash == 0);
    ivf_builder_set_codebook(builder, codebook);
    assert_true(ivf_builder_fit(builder).rows == 0);
    assert_int_equal(begin_and_end(&world, ivf_builder_hooks(builder)), KITH_OK);
    float same = drift_of(builder, codebook);
    assert_true(same > 0.7f && same < 1.4f);
    /* Other clusters: the centroids do not fit any more. */
    struct slice_config config = world.config;
    for (uint32_t i = 0; i < world.n * config.dim; i++) {
        world.rows[i] = 1.0f - world.rows[i];
        world.halves[i] = kith_f16_from_f32(world.rows[i]);
    }
    ivf_builder_set_codebook(builder, NULL); /* count anew */
    ivf_builder_set_codebook(builder, codebook);
    assert_int_equal(begin_and_end(&world, ivf_builder_hooks(builder)), KITH_OK);
    assert_true(drift_of(builder, codebook) > 4.0f);
    ivf_builder_free(builder);
    codebook_unref(codebook);
}

/* Rows that no arithmetic likes: a segment can still be written and read. */
static void test_ivf_build_takes_extreme_rows(void **state)
{
    (void)state;
    static const float odd[] = {0.0f, 3e38f, -3e38f, 1e-40f, 1e-30f, 1e19f};
    for (int metric = KITH_DOT; metric <= KITH_MANHATTAN; metric++) {
        make_world(&world, (enum kith_metric)metric,
                   metric == KITH_MANHATTAN ? CODEBOOK_INT8 : CODEBOOK_PQ4, 200);
        world.config.rows = KITH_ROWS_F32;
        struct rig rig = new_rig(&world); /* trained on rows as they should be */
        for (uint32_t i = 0; i < 20 * world.config.dim; i++)
            world.rows[i] = odd[random_u32() % 6];
        assert_int_equal(write_segment(&world, rig.io, rig.builder, 1), KITH_OK);
        struct segment *segment = open_segment(&world, rig.io, rig.builder, 1);
        assert_non_null(segment_index(segment));
        segment_unref(segment);
        free_rig(&rig);
    }
}

/* A row is searched for in all lists, or among all bytes; then what the segment says of its bytes.
 */
static enum kith_err search_for(const struct world *w, const struct segment *segment, uint32_t id)
{
    const struct ivf *index = segment_index(segment);
    struct ivf_scratch *scratch = NULL;
    struct kith_hit hits[K];
    struct topk top;
    struct ivf_stats stats = {0};
    topk_init(&top, K, -FLT_MAX, hits);
    struct ivf_query query = {.vector = w->rows + (size_t)id * w->config.dim,
                              .top = &top,
                              .effort = {.reach = FLT_MAX, .margin = 8},
                              .by_bytes = index->row8_bytes > 0 && random_below(2) == 0};
    struct ivf_part part = {.index = index, .name = flat_name_number};
    assert_int_equal(ivf_scratch_fit(&scratch, index->codebook, K, NULL), KITH_OK);
    assert_true(ivf_search(&query, &part, 1, scratch, &stats));
    ivf_scratch_free(scratch);
    return segment_check(segment, NULL);
}

/* Opens a copy with one bit changed, in the middle of a section. */
static void check_damaged(struct world *w, struct io *io, struct ivf_builder *builder,
                          unsigned section)
{
    struct segment *segment = open_segment(w, io, builder, 1);
    struct kith_bytes place = segment_place(segment, section);
    struct kith_bytes header = segment_place(segment, SEGMENT_ROWS);
    uint64_t at = (uint64_t)(place.data - header.data) + SEGMENT_HEADER_BYTES + place.len / 2, len;
    uint32_t row = (uint32_t)(place.len / 2 / segment_row_bytes(segment));
    uint32_t id = (uint32_t)segment_id(segment, section == SEGMENT_ROWS ? row : 0).lo;
    struct kith_diag diag = {0};
    uint8_t *bytes;
    char path[64];
    assert_int_equal(search_for(w, segment, id), KITH_OK);
    segment_unref(segment);
    if (place.len == 0)
        return;
    segment_writer_path(path, sizeof path, "s", 1);
    assert_true(io_fake_peek(io, path, &bytes, &len));
    bytes = kith_memdup(bytes, (size_t)len);
    bytes[at] ^= 4;
    struct io *damaged = new_disk();
    assert_int_equal(io_fake_put(damaged, path, bytes, len), KITH_OK);
    kith_free(bytes);
    assert_int_equal(segment_open(&segment, damaged, "s", 1, &w->config, NULL), KITH_OK);
    enum kith_err err = segment_index_open(segment, ivf_builder_hooks(builder), &diag);
    /* Small sections share a block with what is read at once. */
    if (err == KITH_OK)
        err = search_for(w, segment, id);
    else
        assert_true(place.len < 2 * KITH_SEGMENT_BLOCK);
    assert_int_equal(err, KITH_CORRUPT);
    segment_unref(segment);
    io_fake_free(damaged);
}

/* Nothing of the rows is read when a segment is opened, and nothing unverified when it is searched.
 */
static void test_ivf_build_is_verified_where_it_is_searched(void **state)
{
    (void)state;
    static const enum codebook_codes codes[] = {CODEBOOK_ROWS, CODEBOOK_INT8, CODEBOOK_PQ4};
    static const unsigned sections[] = {SEGMENT_ROWS, IVF_SECTION_CODES, IVF_SECTION_TERMS,
                                        IVF_SECTION_ROWS8};
    for (uint32_t i = 0; i < 3; i++) {
        do
            make_world(&world, KITH_EUCLID, codes[i], ROWS_MAX);
        while (world.config.dim < DIM_MAX / 2); /* sections of several blocks */
        struct rig rig = new_rig(&world);
        assert_int_equal(write_segment(&world, rig.io, rig.builder, 1), KITH_OK);
        for (uint32_t s = 0; s < 4; s++)
            check_damaged(&world, rig.io, rig.builder, sections[s]);
        free_rig(&rig);
    }
    assert_int_equal(kith_mem_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ivf_build_makes_what_the_format_says),
        cmocka_unit_test(test_ivf_build_reaches_the_recall_asked_for),
        cmocka_unit_test(test_ivf_build_measures_what_far_hits_take),
        cmocka_unit_test(test_ivf_build_leaves_small_segments_alone),
        cmocka_unit_test(test_ivf_build_takes_over_what_was_measured),
        cmocka_unit_test(test_ivf_build_takes_what_pays),
        cmocka_unit_test(test_ivf_build_keeps_one_copy_of_a_codebook),
        cmocka_unit_test(test_ivf_build_stops_when_told),
        cmocka_unit_test(test_ivf_build_survives_each_oom),
        cmocka_unit_test(test_ivf_build_tells_drift),
        cmocka_unit_test(test_ivf_build_takes_extreme_rows),
        cmocka_unit_test(test_ivf_build_is_verified_where_it_is_searched),
    };
    return cmocka_run_group_tests(tests, random_set_up, NULL);
}
