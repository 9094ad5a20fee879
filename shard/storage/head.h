/* The head: the newest points of a replica, in memory, append only.
 *
 * Owns: its rows and payloads, copied in. Counted with head_ref/unref.
 * Threads: one writer appends, kills and freezes; any number of readers look at rows [0, n) that a
 * view gave them (shard/storage/view.h). The essay in head.c says which memory order carries what.
 * Errors: KITH_NOMEM; KITH_TOO_BIG when the head holds no more rows. A failed append changes
 * nothing. */
#ifndef HEAD_H
#define HEAD_H

#include "shard/storage/view.h"

#define HEAD_LIVE UINT64_MAX /* gone_seq of a row that is not gone */

/* sketch NULL: none. */
enum kith_err head_new(struct head **out, uint32_t row_bytes, uint32_t rows_max,
                       const struct head_sketch *sketch, struct kith_diag *diag);
void head_ref(const struct head *head);
void head_unref(const struct head *head); /* NULL allowed */

/* ---- writer only ------------------------------------------------------------------------------
 */

enum kith_err head_append(struct head *head, const struct kith_id *id, uint64_t seq,
                          const void *row_data, struct kith_bytes payload, struct kith_diag *diag);
uint32_t head_rows(const struct head *head);
uint32_t head_rows_max(const struct head *head);
uint32_t head_live(const struct head *head);
uint64_t head_bytes(const struct head *head);
/* The row with this id that is not gone. */
bool head_latest(const struct head *head, const struct kith_id *id, uint32_t *row);
void head_kill(struct head *head, uint32_t row, uint64_t seq);
/* Undo, for a write that was refused half way: bring a killed row back; take an appended one out
 * for ever (its place stays used, because a reader may be looking at it while searching). */
void head_revive(struct head *head, uint32_t row);
void head_burn(struct head *head, uint32_t row);

/* ---- any thread; see also shard/storage/view.h
 * -------------------------------------------------------------------------------
 */

/* Whether the row is not gone as of now; exact on the writer thread. */
bool head_row_now(const struct head *head, uint32_t row);

#endif
