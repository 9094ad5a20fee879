/* Counts and durations of requests, by route and status, for /metrics.
 *
 * Owns: its table. Threads: loop. Errors: new fails with KITH_NOMEM; a status beyond the table is
 * counted as its class. Limits: a fixed table: no label comes from a client. */
#ifndef HTTP_STATS_H
#define HTTP_STATS_H

#include <stdint.h>

#include "common/kith_buf.h"
#include "proto/kith_err.h"

struct http_stats;

enum kith_err http_stats_new(struct http_stats **out, struct kith_diag *diag);
void http_stats_free(struct http_stats *stats);
/* route: an index of routes.h, or routes_count() for none. */
void http_stats_add(struct http_stats *stats, uint32_t route, int status, uint64_t took_ns);
uint64_t http_stats_total(const struct http_stats *stats);
void http_stats_write(const struct http_stats *stats, struct kith_buf *out); /* Prometheus text */

#endif
