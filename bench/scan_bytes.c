#include "scan_bytes.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/index/flat.h"
#include "shard/index/ivf.h"
#include "shard/index/ivf_format.h"

#define K_MAX 64u

struct scan_bytes {
    struct codebook codebook; /* of one list, which nobody ranks */
    struct ivf index;
    uint32_t lists[2];
    struct ivf_scratch *scratch;
    struct kith_hit hits[K_MAX];
};

uint32_t scan_bytes_row(uint32_t dim)
{
    return ivf_format_row8_bytes(dim);
}

void scan_bytes_make(uint8_t *rows, uint32_t n, uint32_t dim)
{
    uint32_t stride = ivf_format_row8_bytes(dim), random = 20231;
    const float tail[2] = {1e-4f, 0};
    for (uint32_t row = 0; row < n; row++, rows += stride) {
        memset(rows, IVF_BYTE_ZERO, stride - IVF_ROW8_TAIL);
        for (uint32_t i = 0; i < dim; i++) {
            random = random * 1664525u + 1013904223u;
            rows[i] = (uint8_t)(random >> 24);
        }
        memcpy(rows + stride - IVF_ROW8_TAIL, tail, sizeof tail);
    }
}

struct scan_bytes *scan_bytes_new(const uint8_t *rows, uint32_t n, uint32_t dim)
{
    struct scan_bytes *scan = kith_xalloc(sizeof *scan);
    struct kith_diag diag = {0};
    scan->lists[0] = 0;
    scan->lists[1] = n;
    scan->codebook = (struct codebook){.metric = KITH_DOT,
                                       .codes = CODEBOOK_INT8,
                                       .dim = dim,
                                       .n_lists = 1,
                                       .n_lists8 = 16,
                                       .hash = 1,
                                       .lift = 1,
                                       .scale8 = 1};
    scan->index = (struct ivf){.codebook = &scan->codebook,
                               .n_rows = n,
                               .lists = scan->lists,
                               .rows8 = rows,
                               .row8_bytes = ivf_format_row8_bytes(dim)};
    scan->scratch = NULL;
    if (ivf_scratch_fit(&scan->scratch, &scan->codebook, K_MAX, &diag) != KITH_OK) {
        fprintf(stderr, "scan: %s\n", diag.text);
        exit(1);
    }
    return scan;
}

void scan_bytes_free(struct scan_bytes *scan)
{
    if (scan == NULL)
        return;
    ivf_scratch_free(scan->scratch);
    kith_free(scan);
}

void scan_bytes_run(struct scan_bytes *scan, const float *query, uint32_t k)
{
    struct topk top;
    struct ivf_part part = {.index = &scan->index, .name = flat_name_number};
    struct ivf_query asked = {.vector = query, .top = &top, .by_bytes = true, .no_rescore = true};
    struct ivf_stats stats = {0};
    kith_assert(k <= K_MAX);
    topk_init(&top, k, -FLT_MAX, scan->hits);
    kith_assert(ivf_search(&asked, &part, 1, scan->scratch, &stats) && top.n > 0);
}
