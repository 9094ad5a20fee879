#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/plan_read.h"

/* ---- retrieve -------------------------------------------------------------------------------- */

static struct retrieve_plan *retrieve_of(const struct request *req)
{
    return req->plan;
}

static bool retrieve_wants(struct request *req, uint32_t slice)
{
    const struct retrieve_plan *plan = retrieve_of(req);
    for (uint32_t i = 0; i < plan->n_ids; i++)
        if (kith_id_slice(&plan->ids[i], req->collection->n_slices) == slice)
            return true;
    return false;
}

static void retrieve_body(struct request *req, struct scatter_ask *ask, struct kith_writer *w)
{
    const struct retrieve_plan *plan = retrieve_of(req);
    records_write_fetch(req, ask, plan->ids, plan->n_ids, plan->payload.kind != SELECTOR_NONE,
                        plan->with_vector, w);
}

static enum kith_err retrieve_take(struct request *req, struct scatter_ask *ask,
                                   struct kith_bytes body, struct kith_diag *diag)
{
    return records_take(req, &retrieve_of(req)->records, ask, body, diag);
}

static enum kith_err retrieve_merge(struct request *req, struct kith_diag *diag)
{
    struct retrieve_plan *plan = retrieve_of(req);
    if (!plan->single || records_find(req, &plan->records, &plan->ids[0]))
        return KITH_OK;
    char text[KITH_ID_TEXT_BYTES];
    kith_id_format(&plan->ids[0], text);
    return kith_fail(diag, KITH_NOT_FOUND, "there is no point %s in `%s`", text, req->target.name);
}

static void write_record(const struct request *req, const struct kith_record *record,
                         const struct selector *payload, bool with_vector,
                         struct kith_json_writer *w)
{
    kith_jw_begin_object(w);
    kith_jw_key(w, "id");
    kith_jw_id(w, &record->id);
    records_write_members(req, record, payload, with_vector, w);
    if (record->order.len) {
        kith_jw_key(w, "order_value");
        if (!kith_jw_msgpack(w, record->order))
            kith_jw_null(w);
    }
    kith_jw_end_object(w);
}

static void retrieve_result(struct request *req, struct kith_json_writer *w)
{
    struct retrieve_plan *plan = retrieve_of(req);
    if (!plan->single)
        kith_jw_begin_array(w);
    for (uint32_t i = 0; i < plan->n_ids; i++) {
        const struct kith_record *record = records_find(req, &plan->records, &plan->ids[i]);
        if (record)
            write_record(req, record, &plan->payload, plan->with_vector, w);
    }
    if (!plan->single)
        kith_jw_end_array(w);
}

static const struct scatter_round retrieve_round = {
    .message = KITH_MSG_FETCH, .write_body = retrieve_body, .take = retrieve_take};
const struct work run_retrieve_work = {
    .name = "retrieve",
    .round = &retrieve_round,
    .wants = retrieve_wants,
    .merge = retrieve_merge,
    .write_result = retrieve_result,
};

/* ---- count ----------------------------------------------------------------------------------- */

static void count_body(struct request *req, struct scatter_ask *ask, struct kith_writer *w)
{
    const struct count_plan *plan = req->plan;
    struct kith_msg_count msg = {.scope = ask->scope, .filter = plan->filter};
    kith_msg_write_count(w, &msg);
}

static enum kith_err count_take(struct request *req, struct scatter_ask *ask,
                                struct kith_bytes body, struct kith_diag *diag)
{
    struct count_plan *plan = req->plan;
    struct kith_msg_counted msg;
    if (!kith_msg_read_counted(body, &msg))
        return kith_fail(diag, KITH_PROTOCOL, "malformed answer to a count");
    enum kith_err err = scatter_verdicts(ask, &msg.slices, diag);
    if (!err)
        plan->count += msg.count;
    return err;
}

static void count_result(struct request *req, struct kith_json_writer *w)
{
    const struct count_plan *plan = req->plan;
    kith_jw_begin_object(w);
    kith_jw_key(w, "count");
    kith_jw_u64(w, plan->count);
    kith_jw_end_object(w);
}

static const struct scatter_round count_round = {
    .message = KITH_MSG_COUNT, .write_body = count_body, .take = count_take};
const struct work run_count_work = {
    .name = "count", .round = &count_round, .write_result = count_result};

/* ---- scroll ---------------------------------------------------------------------------------- */

static void scroll_body(struct request *req, struct scatter_ask *ask, struct kith_writer *w)
{
    const struct scroll_plan *plan = req->plan;
    struct kith_msg_scroll msg = {
        .scope = ask->scope,
        .filter = plan->filter,
        .limit = plan->ordered ? plan->limit : plan->limit + 1,
        .has_from = plan->has_from,
        .from = plan->from,
        .order_key = plan->order_key,
        .descending = plan->descending,
        .start_from = plan->start_from,
        .with_payload = plan->payload.kind != SELECTOR_NONE,
        .with_vector = plan->with_vector,
    };
    kith_msg_write_scroll(w, &msg);
}

/* The number a record was ordered by; a time is its microseconds. */
static bool order_of(const struct kith_record *record, double *out)
{
    struct kith_cursor c = kith_cursor_of(record->order.data, record->order.len);
    struct kith_value value;
    int64_t time_us;
    if (!kith_read_value(&c, &value))
        return false;
    if (value.type == KITH_WIRE_STR && kith_parse_time(value.bytes, &time_us)) {
        *out = (double)time_us;
        return true;
    }
    *out = value.f;
    return (value.type == KITH_WIRE_INT || value.type == KITH_WIRE_FLOAT) && !isnan(value.f);
}

static enum kith_err scroll_take(struct request *req, struct scatter_ask *ask,
                                 struct kith_bytes body, struct kith_diag *diag)
{
    struct scroll_plan *plan = req->plan;
    size_t before = plan->records.n;
    enum kith_err err = records_take(req, &plan->records, ask, body, diag);
    double number;
    for (size_t i = before; !err && i < plan->records.n; i++) {
        const struct kith_record *record = &plan->records.items[i];
        bool early = plan->has_from && kith_id_compare(&record->id, &plan->from) < 0;
        if (early || (plan->ordered && !order_of(record, &number)))
            err = kith_fail(diag, KITH_PROTOCOL, "record %zu does not belong here", i - before);
    }
    if (err)
        plan->records.n = before;
    return err;
}

static int by_id(const void *a, const void *b)
{
    const struct kith_record *left = a, *right = b;
    return kith_id_compare(&left->id, &right->id);
}

static int ascending(const void *a, const void *b)
{
    double left = 0, right = 0;
    (void)order_of(a, &left);
    (void)order_of(b, &right);
    if (left != right)
        return left < right ? -1 : 1;
    return by_id(a, b);
}

static int descending(const void *a, const void *b)
{
    double left = 0, right = 0;
    (void)order_of(a, &left);
    (void)order_of(b, &right);
    if (left != right)
        return left > right ? -1 : 1;
    return by_id(a, b);
}

static enum kith_err scroll_merge(struct request *req, struct kith_diag *diag)
{
    (void)diag;
    struct scroll_plan *plan = req->plan;
    if (plan->records.n > 1)
        qsort(plan->records.items, plan->records.n, sizeof(*plan->records.items),
              !plan->ordered     ? by_id
              : plan->descending ? descending
                                 : ascending);
    return KITH_OK;
}

static void scroll_result(struct request *req, struct kith_json_writer *w)
{
    const struct scroll_plan *plan = req->plan;
    const struct records *records = &plan->records;
    size_t n = records->n < plan->limit ? records->n : plan->limit;
    kith_jw_begin_object(w);
    kith_jw_key(w, "points");
    kith_jw_begin_array(w);
    for (size_t i = 0; i < n; i++)
        write_record(req, &records->items[i], &plan->payload, plan->with_vector, w);
    kith_jw_end_array(w);
    kith_jw_key(w, "next_page_offset");
    if (!plan->ordered && records->n > n)
        kith_jw_id(w, &records->items[n].id);
    else
        kith_jw_null(w);
    kith_jw_end_object(w);
}

static const struct scatter_round scroll_round = {
    .message = KITH_MSG_SCROLL, .write_body = scroll_body, .take = scroll_take};
const struct work run_scroll_work = {
    .name = "scroll", .round = &scroll_round, .merge = scroll_merge, .write_result = scroll_result};
