/* Letters from other threads to a loop that can be closed: an eventfd and a list.
 *
 * kith_loop_post needs the letter to outlive the loop; here the owner closes its inbox first and
 * gets back what was not delivered. Threads: put from any; the rest on the loop. Errors: KITH_IO,
 * KITH_NOMEM when opening; putting cannot fail. */
#ifndef KITH_INBOX_H
#define KITH_INBOX_H

#include "common/kith_loop.h"

struct kith_inbox;

struct kith_inbox_item {
    struct kith_inbox_item *next;
};

typedef void (*kith_inbox_fn)(void *ctx, struct kith_inbox_item *item); /* takes item */

enum kith_err kith_inbox_open(struct kith_inbox **out, struct kith_loop *loop, kith_inbox_fn fn,
                              void *ctx, struct kith_diag *diag);
/* After the last put. Hands every undelivered item to fn first. Not from inside fn. NULL allowed.
 */
void kith_inbox_close(struct kith_inbox *inbox);
void kith_inbox_put(struct kith_inbox *inbox, struct kith_inbox_item *item);

#endif
