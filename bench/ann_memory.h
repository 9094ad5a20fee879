/* What a view takes on disk, and what of it searches really read: everything is put out of memory,
 * then queries run, then the kernel is asked which pages are back (mincore).
 *
 * Threads: one. Errors: ends the program with a message. */
#ifndef ANN_MEMORY_H
#define ANN_MEMORY_H

#include "shard/storage/view.h"

/* Verifies what is not verified yet, so that it will not be read for that, and drops all pages of
 * the view's files, which are below `dir`. */
void ann_memory_evict(struct view *view, const char *dir);

/* JSON fields and a table of the bytes a point: on disk and in memory by kind of content, and the
 * parts of the size of the rows as f32. `points` and `dim` are of the set. */
void ann_memory_tell(struct view *view, const char *engine, const char *set, uint32_t queries);

#endif
