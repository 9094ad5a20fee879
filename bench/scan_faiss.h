/* Faiss's IndexFlat behind C functions. One thread. Only when SCAN_WITH_FAISS is defined. */
#ifndef SCAN_FAISS_H
#define SCAN_FAISS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

void *scan_faiss_new(uint32_t dim, int is_l2, const float *rows, int64_t n);
void scan_faiss_free(void *index);
void scan_faiss_search(void *index, const float *queries, int64_t n, int64_t k, float *scores,
                       int64_t *rows);

#ifdef __cplusplus
}
#endif

#endif
