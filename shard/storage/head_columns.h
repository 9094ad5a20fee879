/* The columns of a head: blocks of HEAD_BLOCK_ROWS rows, each turned into columns
 * (shard/storage/column.h) in memory when a filter first asks for it, so that only a head's last
 * rows are filtered payload by payload.
 *
 * Owns: the blocks built so far, as long as the head lives. Borrows: the head's payloads while
 * building one. Threads: any reader; nobody waits: whoever finds a block being built by another
 * thread goes without. Errors: none reach the caller; a block that could not be built (no memory)
 * is never there, and its rows are walked. Limits: a block's columns take about as much memory as
 * its payloads, or less. */
#ifndef HEAD_COLUMNS_H
#define HEAD_COLUMNS_H

#include "shard/storage/view.h"

struct head_columns;

enum kith_err head_columns_new(struct head_columns **out, uint32_t rows_max,
                               struct kith_diag *diag);
void head_columns_free(struct head_columns *all); /* NULL allowed */
/* The columns of rows [block * HEAD_BLOCK_ROWS, + HEAD_BLOCK_ROWS), which the caller's view must
 * cover, numbered from 0; or NULL. Also rows that are gone are in them. */
const struct columns *head_columns_get(struct head_columns *all, const struct head *head,
                                       uint32_t block);

#endif
