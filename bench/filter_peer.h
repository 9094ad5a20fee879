/* hnswlib with a filter, for the `filter` benchmark. Release 0.6 has no filter callback (0.7 has),
 * but skips what is marked as deleted in the same place of its search: rows that do not match are
 * marked. Threads: one. Errors: ends the program with a message. */
#ifndef FILTER_PEER_H
#define FILTER_PEER_H

#include <stdint.h>

#include "ann_set.h"

#ifdef __cplusplus
extern "C" {
#endif

/* spec: "M16 efC200". NULL when hnswlib was not there at build time. */
void *filter_peer_open(const struct ann_set *set, const char *spec, uint32_t threads);
void filter_peer_allow(void *peer, const uint8_t *allowed); /* one byte for each row */
uint32_t filter_peer_search(void *peer, const float *query, uint32_t k, uint32_t ef,
                            uint32_t *rows);
void filter_peer_close(void *peer); /* NULL allowed */

#ifdef __cplusplus
}
#endif

#endif
