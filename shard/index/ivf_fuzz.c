/* The sections of an index as they may be on a damaged disk. The first two bytes of the input cut
 * one section, the rest are groups of four (section, u16 offset, value) patched in. What ivf_parse
 * takes is searched, with a filter, too: hits may be wrong, memory may not. Under euclid and under
 * cosine, which choose lists in different ways. */
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "shard/index/ivf.h"
#include "shard/index/ivf_testing.h"

#define ROWS  200u
#define DIM   6u
#define LISTS 5u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct world {
    struct ivf_testing_codebook codebook;
    struct ivf_testing_index index;
    struct ivf_scratch *scratch;
    uint8_t meta[IVF_META_BYTES_MAX];
    size_t meta_bytes;
};

static void make_good(struct world *world, enum kith_metric metric)
{
    static float rows[ROWS * DIM];
    uint32_t seed = 7;
    for (uint32_t i = 0; i < ROWS * DIM; i++)
        rows[i] = (float)((seed = seed * 1664525u + 1013904223u) >> 8) * 0x1p-24f;
    for (uint32_t i = 0; i < ROWS && metric == KITH_COSINE; i++) {
        float *row = rows + (size_t)i * DIM;
        float length = sqrtf((float)ivf_testing_dot(row, row, DIM));
        for (uint32_t j = 0; j < DIM; j++)
            row[j] /= length;
    }
    struct ivf_testing_shape shape = {.metric = metric,
                                      .codes = CODEBOOK_PQ4,
                                      .row_type = KITH_ROWS_F32,
                                      .dim = DIM,
                                      .n_lists = LISTS,
                                      .sub_dim = 2,
                                      .rounds = 1};
    ivf_testing_train(&world->codebook, &shape, rows, ROWS, NULL);
    ivf_testing_build(&world->index, &world->codebook, KITH_ROWS_F32, rows, ROWS);
    const struct ivf *ivf = &world->index.ivf;
    struct ivf_meta good = {
        .n_rows = ROWS,
        .row8_bytes = ivf->row8_bytes,
        .codebook_hash = world->codebook.codebook.hash,
        .term_scale = ivf->term_scale,
        .error = ivf->error,
        .error8 = ivf->error8,
        .residual_energy = ivf->residual_energy,
        .n_targets = 1,
        .measured_rows = ROWS,
        .targets = {{0.9f, 0.1f, {.reach = 1.5f, .margin = 2, .first_lists = 3, .lists_max = 0}}}};
    world->meta_bytes = ivf_format_store_meta(world->meta, &good);
}

static bool name(void *ctx, uint32_t row, struct kith_id *id, uint64_t *seq)
{
    (void)ctx;
    if (row >= ROWS)
        abort();
    *id = kith_id_number(row);
    *seq = 1;
    return true;
}

/* The rows of the last lists alone, which are not nearest to the query. */
static const uint64_t last_rows[ROWS / 64 + 1] = {
    [ROWS / 64 - 1] = UINT64_MAX << 32, [ROWS / 64] = UINT64_MAX >> (63 - (ROWS - 1) % 64)};
#define N_LAST (32 + ROWS % 64)

static void search(struct world *world, const struct ivf *ivf, bool filtered, bool by_bytes)
{
    static const float vector[DIM] = {0.5f, 0.25f, 0.8f};
    if (ivf_scratch_fit(&world->scratch, &world->codebook.codebook, 10, NULL) != KITH_OK)
        abort();
    struct kith_hit hits[10];
    struct topk top;
    topk_init(&top, 10, -FLT_MAX, hits);
    struct ivf_part part = {.index = ivf, .name = name};
    if (filtered) {
        part.allowed = last_rows;
        part.n_allowed = N_LAST;
    }
    struct ivf_query query = {.vector = vector,
                              .top = &top,
                              .effort = ivf_target_for(&ivf, 1, 0.9f, IVF_TARGET_HITS).effort,
                              .by_bytes = by_bytes};
    struct ivf_stats stats = {0};
    if (!ivf_search(&query, &part, 1, world->scratch, &stats))
        abort();
}

struct copy {
    uint8_t *memory;
    size_t bytes;
};

/* Exactly as long as the section, so that reading behind it is seen. */
static struct kith_bytes copy_of(struct copy *copy, const void *section, size_t bytes)
{
    copy->memory = malloc(bytes > 0 ? bytes : 1);
    if (copy->memory == NULL)
        abort();
    memcpy(copy->memory, section, bytes);
    copy->bytes = bytes;
    return (struct kith_bytes){copy->memory, bytes};
}

static void search_all_ways(struct world *world, const struct ivf *ivf)
{
    for (uint32_t filtered = 0; filtered < 2; filtered++) {
        search(world, ivf, filtered, false);
        if (ivf->row8_bytes > 0)
            search(world, ivf, filtered, true);
    }
}

static void try_sections(struct world *world, const uint8_t *data, size_t size)
{
    const struct ivf_testing_index *index = &world->index;
    const struct codebook *codebook = &world->codebook.codebook;
    struct copy copies[5] = {0};
    size_t blocks = ivf_format_blocks(ROWS);
    struct ivf_source source = {
        .meta = copy_of(&copies[0], world->meta, world->meta_bytes),
        .lists = copy_of(&copies[1], index->lists, (LISTS + 1) * sizeof(uint32_t)),
        .codes =
            copy_of(&copies[2], index->codes, blocks * ivf_format_block_bytes(codebook->n_subs)),
        .terms = copy_of(&copies[3], index->terms, ivf_format_terms_bytes(ROWS)),
        .rows8 = copy_of(&copies[4], index->rows8, (size_t)ROWS * index->ivf.row8_bytes),
        .rows = index->rows,
        .n_rows = ROWS,
        .row_type = KITH_ROWS_F32,
    };
    struct kith_bytes *sections[] = {&source.meta, &source.lists, &source.codes, &source.terms,
                                     &source.rows8};
    if (data[0] % 8 < 5 && data[1] < sections[data[0] % 8]->len)
        sections[data[0] % 8]->len -= data[1];
    for (size_t at = 2; at + 4 <= size; at += 4) {
        struct copy *copy = &copies[data[at] % 5];
        copy->memory[(data[at + 1] | (size_t)data[at + 2] << 8) % copy->bytes] = data[at + 3];
    }
    struct ivf ivf;
    struct kith_diag diag;
    if (ivf_parse(&ivf, &source, codebook, &diag) == KITH_OK) {
        search_all_ways(world, &ivf);
        ivf_fini(&ivf);
    }
    for (uint32_t i = 0; i < 5; i++)
        free(copies[i].memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world worlds[2];
    static const enum kith_metric metrics[2] = {KITH_EUCLID, KITH_COSINE};
    if (size < 2)
        return 0;
    for (uint32_t i = 0; i < 2; i++) {
        if (worlds[i].meta_bytes == 0)
            make_good(&worlds[i], metrics[i]);
        try_sections(&worlds[i], data, size);
    }
    return 0;
}
