#include "coordinator/plan_effort.h"

#include <math.h>
#include <stdio.h>

#include "coordinator/plan.h"

#define BEAM_LOSS       0.15 /* of the hits, with a beam no wider than the answer */
#define BEAM_RECALL_MAX 0.999

float plan_effort_of_beam(uint32_t ef, uint32_t k)
{
    double width = ef > k ? ef : k;
    double recall = width > 0 ? 1 - BEAM_LOSS * k / width : BEAM_RECALL_MAX;
    return (float)(recall < BEAM_RECALL_MAX ? recall : BEAM_RECALL_MAX);
}

bool plan_effort_equal(const struct plan_effort *a, const struct plan_effort *b)
{
    return a->exact == b->exact && a->indexed_only == b->indexed_only && a->explain == b->explain &&
           a->no_rescore == b->no_rescore && a->recall == b->recall && a->margin == b->margin;
}

static const struct plan_field quantization_fields[] = {
    {"ignore", PLAN_TAKEN},
    {"rescore", PLAN_TAKEN},
    {"oversampling", PLAN_TAKEN},
};

/* Twice as many candidates are had by far less than twice the margin, and the more of them there
 * are, the less each adds: the root. */
static enum kith_err quantization_of(struct kith_json params, const char *where,
                                     struct plan_effort *out, struct kith_diag *diag)
{
    struct kith_json object, value;
    char at[KITH_DIAG_BYTES];
    bool ignore = false, rescore = true;
    if (!kith_json_opt(params, "quantization", &object))
        return KITH_OK;
    (void)snprintf(at, sizeof at, "%s.quantization", where);
    enum kith_err err = PLAN_FIELDS(object, at, quantization_fields, diag);
    if (!err)
        err = plan_bool(object, "ignore", at, &ignore, diag);
    if (!err)
        err = plan_bool(object, "rescore", at, &rescore, diag);
    if (err)
        return err;
    if (kith_json_opt(object, "oversampling", &value)) {
        double times;
        if (!kith_json_f64(value, &times) || !(times >= 1 && times <= 1e6))
            return kith_fail(diag, KITH_BAD_REQUEST,
                             "%s.oversampling: expected a number from 1 to 1000000", at);
        out->margin = (float)sqrt(times);
    }
    out->no_rescore = !rescore;
    if (ignore)
        out->margin = INFINITY;
    return KITH_OK;
}

enum kith_err plan_effort_read(struct kith_json params, const char *where, uint32_t k,
                               struct plan_effort *out, struct kith_diag *diag)
{
    struct kith_json value;
    uint32_t ef = 0;
    enum kith_err err = plan_bool(params, "exact", where, &out->exact, diag);
    if (!err)
        err = plan_bool(params, "indexed_only", where, &out->indexed_only, diag);
    if (!err)
        err = plan_bool(params, "explain", where, &out->explain, diag);
    if (!err)
        err = plan_u32(params, "hnsw_ef", where, 1, UINT32_MAX, &ef, diag);
    if (!err)
        err = quantization_of(params, where, out, diag);
    if (err)
        return err;
    if (ef > 0)
        out->recall = plan_effort_of_beam(ef, k);
    if (!kith_json_opt(params, "recall", &value))
        return KITH_OK;
    double recall;
    if (ef > 0)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s.recall: not together with hnsw_ef", where);
    if (!kith_json_f64(value, &recall) || !(recall >= PLAN_EFFORT_RECALL_MIN && recall <= 1))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s.recall: expected a number from 0.5 to 1",
                         where);
    out->recall = (float)recall;
    return KITH_OK;
}
