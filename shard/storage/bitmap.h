/* Sets of row numbers: the one home of CRoaring.
 *
 * Owns: every bitmap from bitmap_new, _copy, _load or _view is the caller's, freed with
 * bitmap_free. Threads: a bitmap that nobody changes may be read by any number of threads. Errors:
 * constructors return NULL when memory is out. CRoaring 0.2 takes its containers from malloc itself
 * and cannot be told to use common/kith_mem.h; only the handle is counted there.
 * Limits: rows are 32-bit. Bytes from disk are checked in full before they are believed. */
#ifndef BITMAP_H
#define BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"

struct bitmap;

struct bitmap *bitmap_new(void) KITH_MUST_CHECK;
struct bitmap *bitmap_copy(const struct bitmap *from) KITH_MUST_CHECK;
void bitmap_free(struct bitmap *set); /* NULL allowed */

void bitmap_add(struct bitmap *set, uint32_t row);
void bitmap_add_range(struct bitmap *set, uint32_t first, uint32_t end); /* [first, end) */
void bitmap_add_many(struct bitmap *set, size_t n, const uint32_t *rows);
void bitmap_remove(struct bitmap *set, uint32_t row);
bool bitmap_contains(const struct bitmap *set, uint32_t row);
uint64_t bitmap_count(const struct bitmap *set);
uint64_t bitmap_count_and(const struct bitmap *a, const struct bitmap *b);

/* Row r is added when bit r % 64 of words[r / 64] is set: the fast way in for many unsorted rows.
 */
void bitmap_add_words(struct bitmap *set, const uint64_t *words, size_t n_words);
bool bitmap_empty(const struct bitmap *set);
bool bitmap_equal(const struct bitmap *a, const struct bitmap *b);

void bitmap_and(struct bitmap *into, const struct bitmap *other);
void bitmap_or(struct bitmap *into, const struct bitmap *other);
void bitmap_andnot(struct bitmap *into, const struct bitmap *other);
void bitmap_flip(struct bitmap *set, uint32_t n_rows); /* complement within [0, n_rows) */

/* Fills rows[0..cap) with members >= from, ascending; returns how many. Resume from rows[n - 1]
 * + 1. */
size_t bitmap_read(const struct bitmap *set, uint32_t from, uint32_t *rows, size_t cap);
/* Rows [first, first + 64 * n_words) as words: bit r of word w is row first + 64 * w + r. */
void bitmap_words(const struct bitmap *set, uint32_t first, uint64_t *words, size_t n_words);

/* Portable serialisation (delete bitmaps on disk). The reader checks everything. */
size_t bitmap_bytes(const struct bitmap *set);
void bitmap_store(const struct bitmap *set, uint8_t *out);
enum kith_err bitmap_load(struct bitmap **out, const uint8_t *data, size_t len, uint32_t n_rows,
                          struct kith_diag *diag); /* a row >= n_rows is KITH_CORRUPT */

/* Frozen format (columns of a segment): read in place from mapped memory, 32-byte aligned.
 * The bytes must outlive the view, and must have passed bitmap_frozen_check once; a view itself
 * costs one small allocation and checks only the shape. Views are read-only. */
void bitmap_optimize(struct bitmap *set); /* smallest form; before store or freeze */
size_t bitmap_frozen_bytes(const struct bitmap *set);
void bitmap_freeze(const struct bitmap *set, uint8_t *out_aligned32);
/* Whether the bytes are a sound bitmap of rows below n_rows; *count gets its cardinality. */
bool bitmap_frozen_check(const uint8_t *aligned32, size_t len, uint32_t n_rows, uint64_t *count);
struct bitmap *bitmap_view(const uint8_t *aligned32,
                           size_t len) KITH_MUST_CHECK; /* NULL also if malformed */

#endif
