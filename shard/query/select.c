#include "shard/query/select.h"

#include "common/kith_mem.h"
#include "shard/query/parts.h"

static enum kith_err select_part(const struct view *view, uint32_t part,
                                 const struct parts_scope *scope, store_emit_fn emit,
                                 void *emit_ctx, struct kith_diag *diag)
{
    struct bitmap *set = NULL;
    struct parts_walk walk = {0};
    struct parts_spot spot = {view, part, 0};
    enum kith_err err = parts_match(scope, view, part, &set, diag);
    while (err == KITH_OK && parts_next(&walk, set, &spot.row)) {
        struct kith_id id;
        if (parts_id(&spot, &id) && !emit(emit_ctx, &id))
            err = kith_fail(diag, KITH_NOMEM, "points selected by filter");
    }
    bitmap_free(set);
    return err;
}

enum kith_err select_ids(const struct view *view, struct kith_bytes filter, store_emit_fn emit,
                         void *emit_ctx, struct kith_diag *diag)
{
    struct kith_filter *parsed = kith_alloc(sizeof *parsed); /* 30 KiB: not for a thread's stack */
    if (parsed == NULL)
        return kith_fail(diag, KITH_NOMEM, "filter");
    const struct parts_scope scope = {.filter = parsed}; /* a write is applied, however long */
    enum kith_err err = kith_filter_parse(parsed, filter, "filter", diag);
    for (uint32_t part = 0; err == KITH_OK && part < parts_count(view); part++)
        err = select_part(view, part, &scope, emit, emit_ctx, diag);
    kith_free(parsed);
    return err;
}
