/* A shard node: a folder with slices, threads that search them, and an address where other nodes
 * ask.
 *
 * node_open listens at once and opens what is on disk in the background: until that is done and
 * what searches read is in memory (prefault.h) the node is warming. A slice not yet open answers
 * KITH_UNAVAILABLE.
 *
 * Owns: the io, the slices, a worker pool, an admin worker, the listener. Borrows: metrics.
 * Threads: open and close from one thread; the rest from any. Errors: open fails with nothing left
 * behind: KITH_UNAVAILABLE for an address that cannot be bound, KITH_BUSY or KITH_IO for the
 * folder. A slice that cannot be opened does not fail the node: see node_counts. */
#ifndef NODE_H
#define NODE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/kith_metrics.h"
#include "proto/kith_err.h"
#include "shard/rpc/node_peers.h"
#include "shard/storage/store.h"

struct node;

struct node_options {
    const char *data_dir;         /* created if missing; one process at a time */
    const char *listen_url;       /* tcp://host:port (0 = any free one) or inproc://name */
    uint64_t cluster;             /* frames of another cluster are refused */
    uint32_t threads;             /* of the worker pool; 0 = one per CPU */
    uint32_t head_rows_max;       /* of a slice; 0 = KITH_HEAD_ROWS_MAX */
    uint32_t index_min_rows;      /* of a segment with an index; 0 = as ivf_build.h says */
    uint64_t memory_lock_bytes;   /* of segments to keep in memory; 0 = none */
    bool mapped;                  /* node_set_map says which other nodes there are; false: none */
    uint32_t recall_one_in;       /* queries to be compared with exact ones; 0 = none */
    struct kith_metrics *metrics; /* NULL: none; must outlive the node, and nobody may render it
                                     while the node closes */
    void (*on_ready)(void *ctx);  /* once, on a thread of the node; NULL allowed */
    void *on_ready_ctx;
};

enum kith_err node_open(struct node **out, const struct node_options *options,
                        struct kith_diag *diag);
/* Answers what is in hand, then stops; everything acknowledged is on disk. NULL allowed. */
void node_close(struct node *node);

/* Which nodes hold which slices now, of the collections this one has slices of. Until the first map
 * no codebook is trained or fetched. Any thread. */
enum kith_err node_set_map(struct node *node, const struct node_map *map, struct kith_diag *diag);

const char *node_url(const struct node *node); /* where it listens; a port 0 is replaced */
bool node_ready(
    struct node *node); /* every slice found at start was opened or failed, and read in */

struct node_counts {
    uint32_t slices, slices_open, slices_warming, slices_failed;
    uint32_t tasks_waiting;
    uint64_t points, segment_bytes, wal_bytes, head_bytes, fsyncs, writes;
    uint64_t segments_quarantined;
    uint64_t pause_ns_max, sync_ns_max; /* of any slice's writer */
    uint64_t paused_ns;
    uint64_t written[STORE_CAUSES];
};
void node_counts(struct node *node, struct node_counts *out);

#endif
