/* Reads: points by id, pages of points, counts, facets. */
#include <string.h>

#include "common/kith_mem.h"
#include "shard/query/count.h"
#include "shard/query/facet.h"
#include "shard/query/records.h"
#include "shard/query/scroll.h"
#include "shard/rpc/rpc.h"

/* What every read needs, on the heap: the filter alone is tens of kilobytes. */
struct reading {
    struct rpc_views views;
    struct kith_filter filter;
    struct rpc_reply reply;
    struct kith_diag diag;
};

static struct reading *begin_reading(struct rpc_call *call)
{
    struct reading *reading = kith_alloc(sizeof *reading);
    if (reading == NULL)
        rpc_fail(call, KITH_NOMEM, "no memory for the request");
    return reading;
}

/* The views go first: who was answered may drop the slices at once. */
static void end_reading(struct rpc_call *call, struct reading *reading, enum kith_err err)
{
    rpc_give_views(call->env, &reading->views);
    if (err == KITH_OK)
        rpc_send(call, &reading->reply);
    else
        rpc_fail_with(call, &reading->reply, err, &reading->diag);
    kith_free(reading);
}

static struct parts_scope scope_of(const struct rpc_call *call, const struct reading *reading)
{
    return (struct parts_scope){.views = reading->views.views,
                                .n_views = reading->views.n_views,
                                .filter = &reading->filter,
                                .deadline_ms = call->deadline_ms};
}

static enum kith_err malformed(struct reading *reading)
{
    return kith_fail(&reading->diag, KITH_PROTOCOL, "the request's body is malformed");
}

/* ---- FETCH and SCROLL ------------------------------------------------------------------------ */

static void write_records(struct reading *reading, const struct records *records)
{
    struct kith_writer *w = &reading->reply.w;
    rpc_begin(&reading->reply);
    if (w->failed)
        return;
    kith_msg_write_records(w, &reading->views.slices, records->n);
    for (uint32_t i = 0; i < records->n; i++)
        kith_msg_write_record(w, &records->items[i]);
}

void rpc_records_fetch(struct rpc_call *call)
{
    struct reading *reading = begin_reading(call);
    if (reading == NULL)
        return;
    struct kith_msg_fetch msg;
    struct records records = {0};
    enum kith_err err = KITH_OK;
    if (!kith_msg_read_fetch(call->body, &msg)) {
        err = malformed(reading);
        goto out;
    }
    rpc_take_views(call->env, &msg.scope, &reading->views);
    do {
        records_fini(&records);
        err = records_fetch(&records, reading->views.views, reading->views.n_views, &msg,
                            &reading->diag);
    } while (err == KITH_CORRUPT && rpc_retake_views(call->env, &msg.scope, &reading->views));
    if (err == KITH_OK)
        write_records(reading, &records);
out:
    records_fini(&records);
    end_reading(call, reading, err);
}

void rpc_records_scroll(struct rpc_call *call)
{
    struct reading *reading = begin_reading(call);
    if (reading == NULL)
        return;
    struct kith_msg_scroll msg;
    struct records records = {0};
    enum kith_err err = KITH_OK;
    if (!kith_msg_read_scroll(call->body, &msg)) {
        err = malformed(reading);
        goto out;
    }
    err = kith_filter_parse(&reading->filter, msg.filter, "filter", &reading->diag);
    if (err != KITH_OK)
        goto out;
    rpc_take_views(call->env, &msg.scope, &reading->views);
    do {
        struct parts_scope scope = scope_of(call, reading);
        records_fini(&records);
        err = scroll_run(&records, &scope, &msg, &reading->diag);
    } while (err == KITH_CORRUPT && rpc_retake_views(call->env, &msg.scope, &reading->views));
    if (err == KITH_OK)
        write_records(reading, &records);
out:
    records_fini(&records);
    end_reading(call, reading, err);
}

/* ---- COUNT and FACET ------------------------------------------------------------------------- */

void rpc_records_count(struct rpc_call *call)
{
    struct reading *reading = begin_reading(call);
    if (reading == NULL)
        return;
    struct kith_msg_count msg;
    struct kith_msg_counted counted = {.count = 0};
    enum kith_err err = KITH_OK;
    if (!kith_msg_read_count(call->body, &msg)) {
        err = malformed(reading);
        goto out;
    }
    err = kith_filter_parse(&reading->filter, msg.filter, "filter", &reading->diag);
    if (err != KITH_OK)
        goto out;
    rpc_take_views(call->env, &msg.scope, &reading->views);
    do {
        struct parts_scope scope = scope_of(call, reading);
        err = count_run(&scope, &counted.count, &reading->diag);
    } while (err == KITH_CORRUPT && rpc_retake_views(call->env, &msg.scope, &reading->views));
    if (err != KITH_OK)
        goto out;
    counted.slices = reading->views.slices;
    rpc_begin(&reading->reply);
    if (!reading->reply.w.failed)
        kith_msg_write_counted(&reading->reply.w, &counted);
out:
    end_reading(call, reading, err);
}

void rpc_records_facet(struct rpc_call *call)
{
    struct reading *reading = begin_reading(call);
    if (reading == NULL)
        return;
    struct kith_msg_facet msg;
    struct facet facet = {0};
    enum kith_err err = KITH_OK;
    if (!kith_msg_read_facet(call->body, &msg)) {
        err = malformed(reading);
        goto out;
    }
    err = kith_filter_parse(&reading->filter, msg.filter, "filter", &reading->diag);
    if (err != KITH_OK)
        goto out;
    rpc_take_views(call->env, &msg.scope, &reading->views);
    do {
        struct parts_scope scope = scope_of(call, reading);
        err = facet_run(&facet, &scope, msg.key, &reading->diag);
    } while (err == KITH_CORRUPT && rpc_retake_views(call->env, &msg.scope, &reading->views));
    if (err != KITH_OK)
        goto out;
    rpc_begin(&reading->reply);
    if (!reading->reply.w.failed)
        kith_msg_write_facets(&reading->reply.w, &reading->views.slices, facet.n);
    for (uint32_t i = 0; i < facet.n && !reading->reply.w.failed; i++)
        kith_msg_write_facet_hit(&reading->reply.w, facet.hits[i].value, facet.hits[i].count);
out:
    facet_fini(&facet);
    end_reading(call, reading, err);
}
