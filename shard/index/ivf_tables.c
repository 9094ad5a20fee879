#include "shard/index/ivf_tables.h"

#include <math.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/index/ivf_kernels.h"

/* The bytes of a group are rounded one by one and must not sum to more than 255. */
#define GROUP_SUM_MAX (255.0f - (float)IVF_KERNELS_GROUP / 2)
#define RANGE_MIN     1e-30f
#define ROUNDING_ERROR                                                                             \
    0.2887f /* standard deviation of a uniform error of one step: 1 / sqrt 12                      \
             */

enum kith_err ivf_tables_init(struct ivf_tables *tables, const struct codebook *codebook,
                              struct kith_diag *diag)
{
    size_t n = codebook->n_subs;
    *tables = (struct ivf_tables){0};
    tables->bytes = kith_alloc_aligned(64, ivf_kernels_tables_bytes(codebook->n_subs));
    tables->query = kith_alloc(sizeof(float) * n * codebook->sub_dim);
    tables->products = kith_alloc_aligned(64, sizeof(float) * n * 16);
    tables->lows = kith_alloc(sizeof(float) * n);
    tables->highs = kith_alloc(sizeof(float) * n);
    if (tables->bytes == NULL || tables->query == NULL || tables->products == NULL ||
        tables->lows == NULL || tables->highs == NULL) {
        ivf_tables_fini(tables);
        return kith_fail(diag, KITH_NOMEM, "look-up tables of %zu sub-quantizers", n);
    }
    return KITH_OK;
}

void ivf_tables_fini(struct ivf_tables *tables)
{
    kith_free(tables->bytes);
    kith_free(tables->query);
    kith_free(tables->products);
    kith_free(tables->lows);
    kith_free(tables->highs);
    *tables = (struct ivf_tables){0};
}

void ivf_tables_fill(struct ivf_tables *tables, const struct codebook *codebook, const float *query)
{
    const struct ivf_kernels *kernels = ivf_kernels_best();
    uint32_t n = codebook->n_subs;
    memcpy(tables->query, query, sizeof(float) * codebook->dim); /* zeroed behind since init */
    struct ivf_kernels_subs subs = {tables->query, codebook->subs, n, codebook->sub_dim};
    kernels->products(&subs, tables->products, tables->lows, tables->highs);
    float widest = 0, base = 0;
    uint32_t groups = 0;
    for (uint32_t s = 0; s < n; groups++) {
        float range = 0;
        for (uint32_t end = s + IVF_KERNELS_GROUP; s < end && s < n; s++) {
            range += tables->highs[s] - tables->lows[s];
            base += tables->lows[s];
        }
        widest = range > widest ? range : widest;
    }
    tables->base = base;
    tables->scale = widest > RANGE_MIN ? GROUP_SUM_MAX / widest : 1;
    tables->error = ROUNDING_ERROR * sqrtf((float)n) / tables->scale;
    tables->bias = (int16_t) - (int32_t)(groups * 255 / 2);
    kernels->tables(tables->products, tables->lows, n, tables->scale, tables->bytes);
}
