/* The order of the stages of a request: pipeline.c says it, in one table.
 *
 * A stage returns STEP_NEXT (done), STEP_WAIT (it will call pipeline_resume on the loop, exactly
 * once), or STEP_FAIL (req->err and req->diag say why). Threads: loop. */
#ifndef PIPELINE_H
#define PIPELINE_H

#include "common/kith_metrics.h"
#include "coordinator/request.h"

enum step { STEP_NEXT, STEP_WAIT, STEP_FAIL };

/* From the gateway's handler: makes the request and runs it. */
void pipeline_begin(struct server *server, struct gateway_request *http);
/* The stage that waited has ended: well (req->err == KITH_OK) or not. */
void pipeline_resume(struct request *req);
/* Ends a request that nobody works on any more (shutdown). */
void pipeline_abandon(struct request *req);

/* Where the time of searches goes: a histogram per stage, and for receiving and parsing the body.
 */
#define PIPELINE_STATS_MAX 16u
struct pipeline_stats {
    struct kith_histogram *seconds[PIPELINE_STATS_MAX]; /* NULL: not measured */
};
void pipeline_measure(struct pipeline_stats *stats,
                      struct kith_metrics *metrics); /* NULL allowed */

/* The stages with a file of their own. */
enum step plan_stage_run(struct request *req);
enum step encode_stage_run(struct request *req);
enum step lookup_stage_run(struct request *req);
enum step reply_stage_run(struct request *req);
void reply_stage_fail(struct request *req);

#endif
