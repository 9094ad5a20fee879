/* Which rows of a segment, or of a head, are live and match a filter: a bitmap.
 *
 * Columns answer where they can; where they cannot (nested conditions, fields without a column,
 * very long strings, some "except"), they narrow the rows down and shard/index/filter_doc.h decides
 * each of those left. The count of the bitmap is exact.
 * Owns: the bitmap is the caller's (bitmap_free). Borrows: view and filter for the call. Threads:
 * any. Errors: KITH_NOMEM; KITH_TIMEOUT when payloads are still being read at the deadline; what
 * reading a payload gives (KITH_CORRUPT); *out untouched then. */
#ifndef FILTER_SET_H
#define FILTER_SET_H

#include "proto/kith_filter.h"
#include "shard/storage/bitmap.h"
#include "shard/storage/view.h"

/* n_nodes == 0: every live row. deadline_ms: by kith_now_ms; 0: none. */
enum kith_err filter_segment(const struct kith_filter *filter, const struct view *view,
                             uint32_t segment_index, uint64_t deadline_ms, struct bitmap **out,
                             struct kith_diag *diag);
enum kith_err filter_head(const struct kith_filter *filter, const struct view *view,
                          uint32_t head_index, uint64_t deadline_ms, struct bitmap **out,
                          struct kith_diag *diag);

#endif
