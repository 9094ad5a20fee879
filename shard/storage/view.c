#include "shard/storage/view.h"

#include <stdatomic.h>

#include "common/kith_mem.h"
#include "shard/storage/head.h"
#include "shard/storage/view_build.h"

/* A view is the first member of a box that also holds what readers need not see: the count and the
 * deletes it keeps alive. A head's `live` is taken when the view is made, on the writer thread. */

struct view_box {
    struct view view;
    atomic_uint refs; /* acq_rel on the last drop: the freer sees every use */
    struct deletes **deletes;
};

static struct view_box *box_of(const struct view *view)
{
    return (struct view_box *)(uintptr_t)view;
}

enum kith_err view_new(struct view **out, const struct view_parts *parts, struct kith_diag *diag)
{
    kith_assert(parts->n_heads <= VIEW_HEADS_MAX);
    struct view_box *box = kith_alloc(sizeof *box);
    if (box == NULL)
        return kith_fail(diag, KITH_NOMEM, "view");
    struct view *view = &box->view;
    view->segments = kith_alloc(parts->n_segments * sizeof *view->segments);
    box->deletes = kith_alloc(parts->n_segments * sizeof *box->deletes);
    if (view->segments == NULL || box->deletes == NULL) {
        kith_free(view->segments);
        kith_free(box->deletes);
        kith_free(box);
        return kith_fail(diag, KITH_NOMEM, "view");
    }
    atomic_init(&box->refs, 1);
    view->config = parts->config;
    view->seq = parts->seq;
    view->n_segments = parts->n_segments;
    for (uint32_t i = 0; i < parts->n_segments; i++) {
        const struct view_part *part = &parts->segments[i];
        segment_ref(part->segment);
        deletes_ref(part->deletes);
        box->deletes[i] = part->deletes;
        view->segments[i] = (struct view_segment){
            .segment = part->segment,
            .deleted = deletes_count(part->deletes) > 0 ? part->deletes->set : NULL,
            .live = segment_rows(part->segment) - deletes_count(part->deletes),
        };
        view->live_points += view->segments[i].live;
    }
    view->n_heads = parts->n_heads;
    for (uint32_t i = 0; i < parts->n_heads; i++) {
        const struct head *head = parts->heads[i];
        head_ref(head);
        view->heads[i] =
            (struct view_head){.head = head, .rows = head_rows(head), .live = head_live(head)};
        view->live_points += head_live(head);
    }
    *out = view;
    return KITH_OK;
}

struct deletes *view_deletes(const struct view *view, uint32_t segment)
{
    kith_assert(segment < view->n_segments);
    return box_of(view)->deletes[segment];
}

void view_ref(struct view *view)
{
    atomic_fetch_add_explicit(&box_of(view)->refs, 1, memory_order_relaxed);
}

void view_unref(struct view *view)
{
    if (view == NULL ||
        atomic_fetch_sub_explicit(&box_of(view)->refs, 1, memory_order_acq_rel) != 1)
        return;
    struct view_box *box = box_of(view);
    for (uint32_t i = 0; i < view->n_segments; i++) {
        segment_unref(view->segments[i].segment);
        deletes_unref(box->deletes[i]);
    }
    for (uint32_t i = 0; i < view->n_heads; i++)
        head_unref(view->heads[i].head);
    kith_free(view->segments);
    kith_free(box->deletes);
    kith_free(box);
}

bool view_find(const struct view *view, const struct kith_id *id, struct view_place *out)
{
    uint32_t row;
    for (uint32_t i = view->n_heads; i-- > 0;)
        if (head_find(view->heads[i].head, id, view->heads[i].rows, view->seq, &row)) {
            *out = (struct view_place){.in_head = true, .part = i, .row = row};
            return true;
        }
    for (uint32_t i = 0; i < view->n_segments; i++) {
        const struct view_segment *part = &view->segments[i];
        if (segment_find(part->segment, id, &row) &&
            (part->deleted == NULL || !bitmap_contains(part->deleted, row))) {
            *out = (struct view_place){.in_head = false, .part = i, .row = row};
            return true;
        }
    }
    return false;
}
