#include "shard/query/count.h"

#include "shard/query/parts.h"

static enum kith_err count_view(const struct view *view, const struct parts_scope *scope,
                                uint64_t *total, struct kith_diag *diag)
{
    if (scope->filter->n_nodes == 0) {
        *total += view->live_points;
        return KITH_OK;
    }
    for (uint32_t part = 0; part < parts_count(view); part++) {
        struct bitmap *set = NULL;
        enum kith_err err = parts_match(scope, view, part, &set, diag);
        if (err != KITH_OK)
            return err;
        *total += bitmap_count(set);
        bitmap_free(set);
    }
    return KITH_OK;
}

enum kith_err count_run(const struct parts_scope *scope, uint64_t *out, struct kith_diag *diag)
{
    uint64_t total = 0;
    enum kith_err err = KITH_OK;
    for (uint32_t v = 0; err == KITH_OK && v < scope->n_views; v++)
        err = count_view(scope->views[v], scope, &total, diag);
    err = view_verdict(scope->views, scope->n_views, err, diag);
    if (err == KITH_OK)
        *out = total;
    return err;
}
