/* GET /metrics on a port of its own, for a process without the HTTP API (kith shard).
 *
 * Owns: its gateway. Borrows: loop, metrics. Threads: loop. Errors: open: KITH_IO (address),
 * KITH_NOMEM. */
#ifndef METRICS_PORT_H
#define METRICS_PORT_H

#include "common/kith_loop.h"
#include "common/kith_metrics.h"

struct metrics_port;

enum kith_err metrics_port_open(struct metrics_port **out, struct kith_loop *loop,
                                struct kith_metrics *metrics, const char *listen,
                                struct kith_diag *diag);
void metrics_port_close(struct metrics_port *port); /* NULL allowed */

/* "http://127.0.0.1:6353/metrics", with the real port; valid until close. */
const char *metrics_port_url(const struct metrics_port *port);

#endif
