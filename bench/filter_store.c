#include "filter_store.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_buf.h"
#include "common/kith_mem.h"
#include "proto/kith_ops.h"
#include "shard/index/kernels.h"
#include "store_fill.h"

#define ROWS_PER_WRITE 1000u

static _Noreturn void die(const char *what, const struct kith_diag *diag)
{
    fprintf(stderr, "bench_filter: %s: %s\n", what, diag->text);
    exit(1);
}

static uint64_t mixed(uint64_t x)
{
    x *= UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 32) * UINT64_C(0xd6e8feb86659fd93);
    return x ^ x >> 32;
}

uint32_t filter_store_number(uint32_t row)
{
    return (uint32_t)(mixed(row + UINT64_C(1)) % FILTER_STORE_BOUND);
}

float filter_store_length(const struct filter_store *store, uint32_t row)
{
    float part = (float)(mixed(UINT64_MAX - row) >> 40) * 0x1p-24f;
    return powf(store->shape.norms, part);
}

/* The row as it is stored; lasts until the next. */
static const float *stretched(const struct filter_store *store, const struct ann_set *set,
                              uint32_t row)
{
    float length = filter_store_length(store, row);
    for (uint32_t i = 0; i < set->dim; i++)
        store->row[i] = set->base[(size_t)row * set->dim + i] * length;
    return store->row;
}

/* ---- categories ------------------------------------------------------------------------------ */

static void categorize(struct filter_store *store, const struct ann_set *set)
{
    uint32_t dim = set->dim;
    static float ranks[FILTER_STORE_CATEGORIES];
    store->centers = kith_xalloc(sizeof(float) * dim * FILTER_STORE_CATEGORIES);
    store->categories = kith_xalloc(sizeof *store->categories * set->n);
    for (uint32_t c = 0; c < FILTER_STORE_CATEGORIES; c++) {
        uint32_t row = (uint32_t)((uint64_t)(c + 1) * 2654435761u % set->n);
        memcpy(store->centers + (size_t)c * dim, set->base + (size_t)row * dim,
               sizeof(float) * dim);
    }
    for (uint32_t i = 0; i < set->n; i++) {
        kernels_best()->scan[KERNELS_IP][KERNELS_F32](set->base + (size_t)i * dim,
                                                      (struct kernels_rows){store->centers, dim},
                                                      FILTER_STORE_CATEGORIES, ranks);
        uint32_t best = 0;
        for (uint32_t c = 1; c < FILTER_STORE_CATEGORIES; c++)
            best = ranks[c] > ranks[best] ? c : best;
        store->categories[i] = (uint16_t)best;
    }
}

/* ---- filling --------------------------------------------------------------------------------- */

static void put(const struct filter_store *store, const struct ann_set *set, uint32_t row,
                struct kith_writer *w)
{
    struct kith_buf payload = {0};
    struct kith_writer p = {.write = kith_buf_sink, .sink = &payload};
    struct kith_id id = kith_id_number(row);
    kith_write_map(&p, 2);
    kith_write_cstr(&p, "r");
    kith_write_u64(&p, filter_store_number(row));
    kith_write_cstr(&p, "c");
    kith_write_u64(&p, store->categories[row]);
    kith_op_write_put(w, KITH_PUT_UPSERT, &id, stretched(store, set, row), set->dim,
                      (struct kith_bytes){payload.data, payload.len});
    kith_buf_fini(&payload);
}

static void write_rows(struct filter_store *store, const struct ann_set *set, uint32_t first,
                       uint32_t n)
{
    struct kith_buf ops = {0};
    struct kith_writer w = {.write = kith_buf_sink, .sink = &ops};
    kith_write_array(&w, n);
    for (uint32_t row = first; row < first + n; row++)
        put(store, set, row, &w);
    store_fill_write(store->store, &ops);
    kith_buf_fini(&ops);
}

/* A codebook of a sample, known before the first row comes. */
static void train(struct filter_store *store, const struct ann_set *set,
                  const struct slice_config *config)
{
    enum codebook_codes codes = (enum codebook_codes)kith_index_default(config->metric);
    struct ivf_builder_options options = {.config = *config, .codes = codes, .threads = 2};
    struct kith_diag diag = {0};
    uint32_t n = codebook_sample_rows(set->n, set->dim);
    n = n < set->n ? n : set->n;
    float *sample = kith_xalloc(sizeof(float) * set->dim * n);
    for (uint32_t i = 0; i < n; i++)
        memcpy(sample + (size_t)i * set->dim,
               stretched(store, set, (uint32_t)((uint64_t)i * 2654435761u % set->n)),
               sizeof(float) * set->dim);
    struct codebook_training training = {.config = config,
                                         .codes = codes,
                                         .rows = sample,
                                         .n_rows = n,
                                         .collection_rows = set->n,
                                         .generation = 1,
                                         .threads = 2};
    struct codebook *codebook;
    if (ivf_builder_new(&store->builder, &options, &diag) != KITH_OK ||
        codebook_train(&codebook, &training, &diag) != KITH_OK)
        die("train", &diag);
    ivf_builder_set_codebook(store->builder, codebook);
    codebook_unref(codebook);
    kith_free(sample);
}

void filter_store_open(struct filter_store *out, const struct ann_set *set,
                       struct filter_store_shape shape)
{
    struct slice_config config = {
        .collection = 1, .dim = set->dim, .metric = shape.metric, .rows = KITH_ROWS_F32};
    out->shape = shape;
    out->row = kith_xalloc(sizeof *out->row * set->dim);
    struct kith_diag diag = {0};
    store_fill_make_dir(out->dir, sizeof out->dir);
    if (io_real_open(&out->io, out->dir, &diag) != KITH_OK)
        die(out->dir, &diag);
    train(out, set, &config);
    struct store_options options = {.io = out->io,
                                    .dir = "slice",
                                    .select = store_fill_select_none,
                                    .index = ivf_builder_hooks(out->builder)};
    if (store_create(&options, &config, &diag) != KITH_OK ||
        store_open(&out->store, &options, &diag) != KITH_OK)
        die("create", &diag);
    categorize(out, set);
    for (uint32_t i = 0; i < set->n; i += ROWS_PER_WRITE) {
        write_rows(out, set, i, set->n - i < ROWS_PER_WRITE ? set->n - i : ROWS_PER_WRITE);
        store_fill_maintain(out->store);
    }
    store_fill_rest(out->store);
    out->view = store_view(out->store);
}

void filter_store_close(struct filter_store *store)
{
    view_unref(store->view);
    store_close(store->store);
    ivf_builder_free(store->builder);
    io_real_close(store->io);
    kith_free(store->row);
    kith_free(store->centers);
    kith_free(store->categories);
    store_fill_remove_dir(store->dir);
}
