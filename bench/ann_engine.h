/* What the `ann` benchmark asks of a search engine: Kith, and each peer.
 *
 * An engine builds an index over the base rows of a set, with up to `threads` threads, and then
 * answers one query at a time on the calling thread with the numbers of the best rows. How hard it
 * looks is one of its settings, numbered 0 .. n_settings - 1; the benchmark tries all. Errors: ends
 * the program with a message. */
#ifndef ANN_ENGINE_H
#define ANN_ENGINE_H

#include <stdint.h>

#include "ann_set.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ANN_NAME_BYTES 64

struct ann_engine {
    const char *family; /* engines of a family are compared as one: the best of them counts */
    char build[ANN_NAME_BYTES];
    uint32_t n_settings;
    void *index;
    void (*describe)(void *index, uint32_t setting, char out[ANN_NAME_BYTES]);
    void (*choose)(void *index, uint32_t setting);
    uint32_t (*search)(void *index, const float *query, uint32_t k, uint32_t *rows); /* how many */
    void (*close)(void *index);
    /* Rows in the lists that searches have visited so far (an exact scan: all rows). NULL: nobody
     * knows. */
    uint64_t (*rows_read)(void *index);
    /* Tells what it has on disk and what a run of queries reads of it. NULL: nothing to tell. */
    void (*tell_memory)(void *index, const struct ann_set *set);
    /* n queries in one request: rows of query i at rows[i * k], found[i] of them. NULL: it has
     * none.
     */
    void (*search_batch)(void *index, const float *queries, uint32_t n, uint32_t k, uint32_t *rows,
                         uint32_t *found);
};

/* `spec`: what to build, in the engine's own words. */
void ann_kith_open(struct ann_engine *out, const struct ann_set *set, const char *spec,
                   uint32_t threads);
#ifdef ANN_HNSWLIB
void ann_hnswlib_open(struct ann_engine *out, const struct ann_set *set, const char *spec,
                      uint32_t threads);
#endif
#ifdef ANN_FAISS
void ann_faiss_open(struct ann_engine *out, const struct ann_set *set, const char *spec,
                    uint32_t threads);
#endif

#ifdef __cplusplus
}
#endif

#endif
