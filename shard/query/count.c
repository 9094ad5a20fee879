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
    for (uint32_t v = 0; v < scope->n_views; v++) {
        enum kith_err err = count_view(scope->views[v], scope, &total, diag);
        if (err != KITH_OK)
            return err;
    }
    *out = total;
    return KITH_OK;
}
