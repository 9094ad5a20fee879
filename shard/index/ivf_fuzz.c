/* The sections of an index as they may be on a damaged disk. The first two bytes of the input cut
 * one section, the rest are groups of four (section, u16 offset, value) patched in. What ivf_parse
 * takes is searched: hits may be wrong, memory may not. */
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "shard/index/ivf.h"
#include "shard/index/ivf_testing.h"

#define ROWS  200u
#define DIM   6u
#define LISTS 5u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct ivf_testing_codebook codebook;
static struct ivf_testing_index index_;
static uint8_t meta[IVF_META_BYTES_MAX];
static size_t meta_bytes;

static void make_good(void)
{
    static float rows[ROWS * DIM];
    uint32_t seed = 7;
    for (uint32_t i = 0; i < ROWS * DIM; i++)
        rows[i] = (float)((seed = seed * 1664525u + 1013904223u) >> 8) * 0x1p-24f;
    struct ivf_testing_shape shape = {.metric = KITH_EUCLID,
                                      .codes = CODEBOOK_PQ4,
                                      .row_type = KITH_ROWS_F32,
                                      .dim = DIM,
                                      .n_lists = LISTS,
                                      .sub_dim = 2,
                                      .rounds = 1};
    ivf_testing_train(&codebook, &shape, rows, ROWS, NULL);
    ivf_testing_build(&index_, &codebook, KITH_ROWS_F32, rows, ROWS);
    struct ivf_meta good = {.n_rows = ROWS,
                            .row8_bytes = index_.ivf.row8_bytes,
                            .codebook_hash = codebook.codebook.hash,
                            .term_scale = index_.ivf.term_scale,
                            .error = index_.ivf.error,
                            .error8 = index_.ivf.error8,
                            .residual_energy = index_.ivf.residual_energy,
                            .n_targets = 1,
                            .measured_rows = ROWS,
                            .targets = {{0.9f, 0.1f, {1.5f, 2, 3, 0}}}};
    meta_bytes = ivf_format_store_meta(meta, &good);
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

static void search(const struct ivf *ivf, bool by_bytes)
{
    static struct ivf_scratch *scratch;
    static const float vector[DIM] = {0.5f, 0.25f, 1};
    if (ivf_scratch_fit(&scratch, &codebook.codebook, 10, NULL) != KITH_OK)
        abort();
    struct kith_hit hits[10];
    struct topk top;
    topk_init(&top, 10, -FLT_MAX, hits);
    struct ivf_part part = {.index = ivf, .name = name};
    struct ivf_query query = {.vector = vector,
                              .top = &top,
                              .effort = ivf_target_for(&ivf, 1, 0.9f).effort,
                              .by_bytes = by_bytes};
    struct ivf_stats stats = {0};
    if (!ivf_search(&query, &part, 1, scratch, &stats))
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (meta_bytes == 0)
        make_good();
    if (size < 2)
        return 0;
    struct copy copies[5] = {0};
    size_t blocks = ivf_format_blocks(ROWS);
    struct ivf_source source = {
        .meta = copy_of(&copies[0], meta, meta_bytes),
        .lists = copy_of(&copies[1], index_.lists, (LISTS + 1) * sizeof(uint32_t)),
        .codes = copy_of(&copies[2], index_.codes,
                         blocks * ivf_format_block_bytes(codebook.codebook.n_subs)),
        .terms = copy_of(&copies[3], index_.terms, ivf_format_terms_bytes(ROWS)),
        .rows8 = copy_of(&copies[4], index_.rows8, (size_t)ROWS * index_.ivf.row8_bytes),
        .rows = index_.rows,
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
    if (ivf_parse(&ivf, &source, &codebook.codebook, &diag) == KITH_OK) {
        search(&ivf, false);
        if (ivf.row8_bytes > 0)
            search(&ivf, true);
        ivf_fini(&ivf);
    }
    for (uint32_t i = 0; i < 5; i++)
        free(copies[i].memory);
    return 0;
}
