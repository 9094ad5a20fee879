/* Queries by id: the points' vectors are fetched before anything is searched. */
#include <string.h>

#include "common/kith_arena.h"
#include "coordinator/pipeline.h"
#include "coordinator/records.h"

static bool wants(struct request *req, uint32_t slice)
{
    for (size_t i = 0; i < req->n_lookups; i++)
        if (kith_id_slice(&req->lookups[i].id, req->collection->n_slices) == slice)
            return true;
    return false;
}

static void write_body(struct request *req, struct scatter_ask *ask, struct kith_writer *w)
{
    struct kith_id *ids = kith_arena_array(req->arena, req->n_lookups, sizeof(*ids));
    if (!ids) {
        w->failed = true;
        return;
    }
    for (size_t i = 0; i < req->n_lookups; i++)
        ids[i] = req->lookups[i].id;
    records_write_fetch(req, ask, ids, req->n_lookups, false, true, w);
}

static enum kith_err take(struct request *req, struct scatter_ask *ask, struct kith_bytes body,
                          struct kith_diag *diag)
{
    struct records records = {.n = 0};
    enum kith_err err = records_take(req, &records, ask, body, diag);
    for (size_t i = 0; !err && i < req->n_lookups; i++) {
        struct request_lookup *lookup = &req->lookups[i];
        const struct kith_record *record =
            lookup->found ? NULL : records_find(req, &records, &lookup->id);
        if (!record || record->vector.len != (size_t)req->target.dim * 4)
            continue;
        memcpy(lookup->out, record->vector.data, record->vector.len);
        lookup->found = true;
    }
    return err;
}

static const struct scatter_round lookup_round = {
    .message = KITH_MSG_FETCH, .write_body = write_body, .take = take};

static void on_round(struct request *req)
{
    bool partial = req->allow_partial; /* a query that is not known cannot be answered in part */
    req->allow_partial = false;
    req->err = scatter_judge(req, &req->diag);
    req->allow_partial = partial;
    for (size_t i = 0; !req->err && i < req->n_lookups; i++) {
        const struct request_lookup *lookup = &req->lookups[i];
        char text[KITH_ID_TEXT_BYTES];
        kith_id_format(&lookup->id, text);
        if (!lookup->found)
            req->err = kith_fail(&req->diag, KITH_NOT_FOUND, "%s: there is no point %s in `%s`",
                                 lookup->where, text, req->target.name);
    }
    pipeline_resume(req);
}

enum step lookup_stage_run(struct request *req)
{
    if (req->n_lookups == 0)
        return STEP_NEXT;
    req->err = scatter_begin(req, &lookup_round, wants, on_round, &req->diag);
    return req->err ? STEP_FAIL : STEP_WAIT;
}
