/* Scanning rows of bytes, as an index of int8 has them, by the search that takes all of them
 * (ivf_search, by_bytes): for `scan`. The bytes may be any; the last 8 of a row are its scale and
 * bias. Threads: a scan_bytes is one thread's. Errors: ends the program with a message. */
#ifndef SCAN_BYTES_H
#define SCAN_BYTES_H

#include <stdint.h>

struct scan_bytes;

uint32_t scan_bytes_row(uint32_t dim); /* bytes of a row */
/* Fills n rows. */
void scan_bytes_make(uint8_t *rows, uint32_t n, uint32_t dim);

struct scan_bytes *scan_bytes_new(const uint8_t *rows, uint32_t n, uint32_t dim);
void scan_bytes_free(struct scan_bytes *scan); /* NULL allowed */
/* The best k rows for a query; no row of floats is looked at. */
void scan_bytes_run(struct scan_bytes *scan, const float *query, uint32_t k);

#endif
