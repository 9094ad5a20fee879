/* Requests of other nodes: checked, dispatched, answered.
 *
 * A frame arrives on a thread of NNG or of its asker, is checked, and goes where its message
 * belongs: searches and reads to the worker pool (KITH_BUSY when its queue is full), slices coming
 * and going to the admin worker, writes straight to the slice's store, which calls back when they
 * are durable. What is late when its turn comes is dropped with KITH_TIMEOUT: nobody waits for it
 * any more.
 *
 * Owns: a call, from the frame's arrival to its reply. Borrows: everything in struct rpc_env, which
 * outlives the calls (the listener is closed first, and closing waits for them).
 * Threads: any. Errors: whatever goes wrong is a reply: per slice where it concerns a slice,
 * KITH_MSG_ERROR where it concerns the request. */
#ifndef RPC_H
#define RPC_H

#include "common/kith_metrics.h"
#include "common/kith_net.h"
#include "common/kith_pool.h"
#include "proto/kith_frame.h"
#include "proto/kith_msg.h"
#include "shard/query/search.h"
#include "shard/rpc/slice_table.h"

/* Series of one kind of message. What happens to nearly every call is looked up once, at start. */
struct rpc_stats {
    struct kith_histogram *seconds, *wait_seconds;
    struct kith_counter *ok;
};
#define RPC_MESSAGES_MAX 16u

/* Everything a call needs. Immutable while the listener runs. */
struct rpc_env {
    uint64_t cluster;
    struct slice_table *slices;
    struct collection_indexes *indexes;
    struct kith_pool *workers; /* searches and reads */
    struct kith_pool *admin;   /* one thread: OPEN, DROP, and opening at start */
    struct search_context *search;
    struct memory_lock *memory;
    struct recall_probe *recall;
    struct kith_metrics *metrics; /* may be NULL */
    struct rpc_stats stats[RPC_MESSAGES_MAX];
};

void rpc_measure(struct rpc_env *env, struct kith_metrics *metrics); /* before the listener runs */

/* A kith_net_serve_fn; ctx is the struct rpc_env. */
void rpc_serve(void *env, struct kith_net_call *net, struct kith_net_msg *request);

/* ---- for the handlers (rpc_*.c) -------------------------------------------------------------- */

struct rpc_call {
    struct rpc_env *env;
    struct kith_net_call *net;
    const struct rpc_handler *handler;
    struct kith_frame frame;
    struct kith_bytes body; /* valid until the reply */
    uint64_t arrived_ns;
    uint64_t deadline_ms; /* by kith_now_ms */
};

/* Each ends in exactly one rpc_send or rpc_fail, now or later; the call is gone then. */
typedef void (*rpc_run_fn)(struct rpc_call *call);

enum rpc_place { RPC_HERE, RPC_WORKERS, RPC_ADMIN };
struct rpc_handler {
    rpc_run_fn run;
    enum rpc_place place;
    const char *name; /* in metrics */
};

/* A reply's body is written with reply.w straight into the message. */
struct rpc_reply {
    struct kith_net_msg *msg;
    struct kith_writer w;
};
void rpc_begin(struct rpc_reply *reply);
void rpc_send(struct rpc_call *call, struct rpc_reply *reply); /* a failed writer: KITH_TOO_BIG */
void rpc_fail(struct rpc_call *call, enum kith_err err, const char *text);
/* err and diag as they came from a function that failed; reply (NULL allowed) is given up. */
void rpc_fail_with(struct rpc_call *call, struct rpc_reply *reply, enum kith_err err,
                   const struct kith_diag *diag);
void rpc_malformed(struct rpc_call *call);

/* The views of the slices of a scope, and how each slice fares. */
struct rpc_views {
    struct kith_msg_slices slices; /* in the order asked for */
    struct slice *held[KITH_SLICES_PER_COLLECTION_MAX];
    struct view *views[KITH_SLICES_PER_COLLECTION_MAX]; /* of those that can answer */
    uint32_t n_views;
    struct kith_diag damage; /* of the first damaged slice; the others' are in the log */
};
/* A slice with a damaged segment does not answer: its verdict says which file. */
void rpc_take_views(struct rpc_env *env, const struct kith_msg_scope *scope, struct rpc_views *out);
void rpc_give_views(struct rpc_env *env, struct rpc_views *views);
/* After a read that failed with KITH_CORRUPT: was it damage that was found only now? Then the views
 * are taken anew, without the damaged slices, and the read is to be made again. */
bool rpc_retake_views(struct rpc_env *env, const struct kith_msg_scope *scope,
                      struct rpc_views *views);
/* A slice's verdict where it has no part in the answer; `why` must outlive the reply. */
void rpc_set_slice(struct kith_msg_slice *slice, uint32_t number, enum kith_err err,
                   const char *why);

void rpc_admin_open(struct rpc_call *call);
void rpc_admin_drop(struct rpc_call *call);
void rpc_admin_info(struct rpc_call *call);
void rpc_codebook_run(struct rpc_call *call);
void rpc_codebook_sample(struct rpc_call *call);
void rpc_memory_run(struct rpc_call *call);
void rpc_write_run(struct rpc_call *call);
void rpc_search_run(struct rpc_call *call);
void rpc_records_fetch(struct rpc_call *call);
void rpc_records_scroll(struct rpc_call *call);
void rpc_records_count(struct rpc_call *call);
void rpc_records_facet(struct rpc_call *call);

#endif
