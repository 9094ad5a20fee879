#include <stdlib.h>
#include <string.h>

#include "coordinator/plan_read.h"

static void write_body(struct request *req, struct scatter_ask *ask, struct kith_writer *w)
{
    const struct facet_plan *plan = req->plan;
    struct kith_msg_facet msg = {.scope = ask->scope,
                                 .key = {(const uint8_t *)plan->key, strlen(plan->key)},
                                 .filter = plan->filter};
    kith_msg_write_facet(w, &msg);
}

static bool value_ok(struct kith_bytes bytes)
{
    struct kith_cursor c = kith_cursor_of(bytes.data, bytes.len);
    enum kith_wire_type type = kith_read_peek(&c);
    return (type == KITH_WIRE_STR || type == KITH_WIRE_INT || type == KITH_WIRE_BOOL) &&
           kith_read_skip(&c, NULL) && kith_cursor_done(&c);
}

static enum kith_err take(struct request *req, struct scatter_ask *ask, struct kith_bytes body,
                          struct kith_diag *diag)
{
    struct facet_plan *plan = req->plan;
    struct kith_msg_facets msg;
    if (!kith_msg_read_facets(body, &msg))
        return kith_fail(diag, KITH_PROTOCOL, "malformed facets");
    size_t before = plan->n_hits;
    enum kith_err err = scatter_verdicts(ask, &msg.slices, diag);
    for (uint32_t i = 0; !err && i < msg.n_hits; i++) {
        struct facet_hit hit;
        struct facet_hit *hits =
            request_grow(req, plan->hits, plan->n_hits, &plan->hits_cap, sizeof(*hits));
        if (!hits)
            err = kith_fail(diag, KITH_NOMEM, "out of memory");
        else if (!kith_msg_facets_next(&msg.hits, &hit.value, &hit.count) || !value_ok(hit.value))
            err = kith_fail(diag, KITH_PROTOCOL, "facet %u is malformed", i);
        if (!err) {
            plan->hits = hits;
            hits[plan->n_hits++] = hit;
        }
    }
    if (err)
        plan->n_hits = before;
    return err;
}

/* Any total order brings equal values together: their bytes are the same on every node, because one
 * writer (kith_wire) makes them in their shortest form. */
static int by_value(const void *a, const void *b)
{
    const struct facet_hit *left = a, *right = b;
    size_t n = left->value.len < right->value.len ? left->value.len : right->value.len;
    int order = memcmp(left->value.data, right->value.data, n);
    if (order || left->value.len == right->value.len)
        return order;
    return left->value.len < right->value.len ? -1 : 1;
}

static int by_count(const void *a, const void *b)
{
    const struct facet_hit *left = a, *right = b;
    if (left->count != right->count)
        return left->count > right->count ? -1 : 1;
    return by_value(a, b);
}

static enum kith_err merge(struct request *req, struct kith_diag *diag)
{
    (void)diag;
    struct facet_plan *plan = req->plan;
    if (plan->n_hits == 0)
        return KITH_OK;
    qsort(plan->hits, plan->n_hits, sizeof(*plan->hits), by_value);
    size_t n = 0;
    for (size_t i = 0; i < plan->n_hits; i++) {
        if (n > 0 && by_value(&plan->hits[n - 1], &plan->hits[i]) == 0)
            plan->hits[n - 1].count += plan->hits[i].count;
        else
            plan->hits[n++] = plan->hits[i];
    }
    plan->n_hits = n;
    qsort(plan->hits, plan->n_hits, sizeof(*plan->hits), by_count);
    return KITH_OK;
}

static void write_result(struct request *req, struct kith_json_writer *w)
{
    const struct facet_plan *plan = req->plan;
    kith_jw_begin_object(w);
    kith_jw_key(w, "hits");
    kith_jw_begin_array(w);
    for (size_t i = 0; i < plan->n_hits && i < plan->limit; i++) {
        kith_jw_begin_object(w);
        kith_jw_key(w, "value");
        if (!kith_jw_msgpack(w, plan->hits[i].value))
            kith_jw_null(w);
        kith_jw_key(w, "count");
        kith_jw_u64(w, plan->hits[i].count);
        kith_jw_end_object(w);
    }
    kith_jw_end_array(w);
    kith_jw_end_object(w);
}

static const struct scatter_round facet_round = {
    .message = KITH_MSG_FACET, .write_body = write_body, .take = take};
const struct work run_facet_work = {
    .name = "facet", .round = &facet_round, .merge = merge, .write_result = write_result};
