/* What share of the nearest points real queries find: now and then one that an index answered is
 * searched again exactly, on the same views, and the answers are compared.
 *
 * One query in `one_in`, at most two a second, one at a time, on a thread of the lowest priority
 * with scratch of its own, and only while no request waits for a worker: it gives up between two
 * segments when one does. So a query is never delayed, but for its answer being copied. What is
 * kept is a moving mean for each collection, plan, and share of points that match.
 *
 * Owns: a thread, a search context, the views of the query in hand (a DROP of their slices waits
 * for them, RECALL_PROBE_MS at most). Borrows: the env. Threads: any. */
#ifndef RECALL_PROBE_H
#define RECALL_PROBE_H

#include "shard/rpc/rpc.h"

#define RECALL_PROBE_MS                                                                            \
    3000u /* what an exact search may take; larger collections are not measured */

struct recall_probe;

struct recall_probe_options {
    struct rpc_env *env; /* its slices and workers */
    uint32_t one_in;     /* queries; 0: none is compared */
    bool background;     /* false: only in recall_probe_run, and as often as asked (tests) */
};
enum kith_err recall_probe_open(struct recall_probe **out,
                                const struct recall_probe_options *options, struct kith_diag *diag);
void recall_probe_close(struct recall_probe *probe); /* NULL allowed */

/* Counts a query; true: it would be compared if it were offered now. */
bool recall_probe_wants(struct recall_probe *probe);

struct recall_probe_query {
    uint64_t collection;
    uint32_t dim, k;
    const uint8_t *vector; /* dim f32 */
    bool has_threshold;
    float threshold;
    struct kith_bytes filter; /* msgpack map or empty */
    enum search_plan plan;
    uint64_t matched, points;
    const struct kith_hit *hits; /* what was found */
    uint32_t n_hits;
};
/* True: took the views. Everything else is copied. */
bool recall_probe_offer(struct recall_probe *probe, const struct recall_probe_query *query,
                        struct rpc_views *views);
void recall_probe_run(struct recall_probe *probe); /* what was offered, if anything, here and now */

/* Up to `max` rows of a collection; their names are constant. */
uint32_t recall_probe_read(struct recall_probe *probe, uint64_t collection,
                           struct kith_msg_info_recall *out, uint32_t max);

#endif
