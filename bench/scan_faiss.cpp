#include "scan_faiss.h"

#include <faiss/IndexFlat.h>
#include <omp.h>

extern "C" void openblas_set_num_threads(int);

void *scan_faiss_new(uint32_t dim, int is_l2, const float *rows, int64_t n)
{
    omp_set_num_threads(1);
    openblas_set_num_threads(1);
    auto *index =
        new faiss::IndexFlat((int)dim, is_l2 ? faiss::METRIC_L2 : faiss::METRIC_INNER_PRODUCT);
    index->add(n, rows);
    return index;
}

void scan_faiss_free(void *index)
{
    delete (faiss::IndexFlat *)index;
}

void scan_faiss_search(void *index, const float *queries, int64_t n, int64_t k, float *scores,
                       int64_t *rows)
{
    ((faiss::IndexFlat *)index)->search(n, queries, k, scores, rows);
}
