/* Scroll: a page of the points that match, in the order of ids or of a field.
 *
 * The page is merged over all parts of all views; deleted points never appear. By id: from `from`
 * on, ascending. By a field (`order_key`): points without a number or time there are left out;
 * ties go by id, ascending in both directions (shard/query/order.h says what a point is sorted by).
 * Owns: the records are the caller's (records_fini, also after a failure). Borrows: views, filter,
 * message. Threads: any. Errors: KITH_BAD_REQUEST for a start_from that is no number and no time;
 * KITH_TOO_BIG for a limit above SCROLL_LIMIT_MAX; those of filters and records. */
#ifndef SCROLL_H
#define SCROLL_H

#include "shard/query/parts.h"
#include "shard/query/records.h"

#define SCROLL_LIMIT_MAX (KITH_K_MAX + 1) /* one more than a page tells whether there is a next */

/* msg->filter is not looked at: scope->filter is it, parsed. */
enum kith_err scroll_run(struct records *out, const struct parts_scope *scope,
                         const struct kith_msg_scroll *msg, struct kith_diag *diag);

#endif
