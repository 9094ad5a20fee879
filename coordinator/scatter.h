/* Asking nodes: one message per node (or per slice, for writes), and what came back.
 *
 * A round names the message and two functions: one writes the body for some slices, one takes in a
 * reply. scatter_begin sends to every node concerned at once; when the last answer (or its absence)
 * is known, done is called on the loop. Every slice asked for ends with a verdict: answered,
 * failed, or timed out; nothing a node says can add to what it was asked.
 *
 * Owns:    the replies, until scatter_fini: records borrow from them.
 * Borrows: the request's arena, its collection and so its nodes.
 * Threads: loop; whoever replies only posts the ask's letter.
 * Errors:  begin fails with KITH_NOMEM before anything is sent. A node that cannot be reached is
 *          not an error of begin: its slices fail.
 * Limits:  KITH_SLICES_PER_COLLECTION_MAX asks. */
#ifndef SCATTER_H
#define SCATTER_H

#include "common/kith_loop.h"
#include "common/kith_net.h"
#include "proto/kith_msg.h"

struct request;
struct scatter_ask;

struct scatter_round {
    enum kith_message message;
    bool per_slice; /* one message per slice: writes */
    /* Writes the body for ask's scope. */
    void (*write_body)(struct request *req, struct scatter_ask *ask, struct kith_writer *w);
    /* Takes in a well-framed reply; must call scatter_verdicts with the slices it names. Bytes stay
     * valid until the request ends. KITH_PROTOCOL when they are malformed. */
    enum kith_err (*take)(struct request *req, struct scatter_ask *ask, struct kith_bytes body,
                          struct kith_diag *diag);
};

/* How the slices of a request fared. */
struct coverage {
    uint32_t total, ok, timed_out, failed;
    uint64_t points_searched, points_total;
    bool points_known; /* points_total counts every slice */
    bool partial;      /* incomplete, but as much as was asked for */
};

struct scatter_ask {
    /* Fixed */
    struct request *req;
    const struct scatter_round *round;
    struct topology_node *node; /* NULL: nobody holds these slices */
    struct kith_msg_scope scope;
    /* Written by who replies before the letter is posted, read by the loop after */
    struct kith_net_msg *reply;
    enum kith_err err;
    struct kith_loop *loop;
    struct kith_letter letter;
    /* Loop */
    struct scatter_ask *older;    /* of all rounds of the request */
    struct kith_net_msg *message; /* until it is sent */
    bool judged;                  /* take() gave verdicts */
    enum kith_err *slice_err;     /* one per slice of scope */
    uint64_t *slice_points;
    uint64_t seq_max;
    const char *detail; /* of the first failed slice; NULL = none */
};

typedef void (*scatter_done_fn)(struct request *req);

struct scatter {
    struct scatter_ask **asks;
    uint32_t n_asks;
    uint32_t n_left;
    scatter_done_fn done;
    struct scatter_ask *newest; /* of this and earlier rounds: their replies are kept */
};

enum kith_err scatter_begin(struct request *req, const struct scatter_round *round,
                            bool (*wants)(struct request *req, uint32_t slice),
                            scatter_done_fn done, struct kith_diag *diag);
/* For take(): checks that exactly the slices asked for are named, and notes how each fared. */
enum kith_err scatter_verdicts(struct scatter_ask *ask, const struct kith_msg_slices *slices,
                               struct kith_diag *diag);
/* Adds up the verdicts of the round that ended: KITH_OK when complete or partial enough (reads);
 * otherwise the error users see. */
enum kith_err scatter_judge(struct request *req, struct kith_diag *diag);
uint64_t scatter_seq(const struct scatter *scatter); /* the largest of the round */
void scatter_fini(struct scatter *scatter);

#endif
