/* Which slices have no node yet, or one that went before it opened them: nothing can be in those,
 * so they are placed again. Where they go is placement.c's matter. */
#include "common/kith_mem.h"
#include "coordinator/cluster/leader_impl.h"
#include "coordinator/cluster/placement.h"

struct node_search {
    uint64_t id;
    const struct topology_node *found;
};

static void on_node_search(void *ctx, const struct topology_node *node)
{
    struct node_search *search = ctx;
    if (node->id == search->id) {
        search->found = node;
    }
}

static const struct topology_node *find_node(const struct leader *leader, uint64_t id)
{
    struct node_search search = {.id = id};
    topology_each_node(leader->cfg.topology, on_node_search, &search);
    return search.found;
}

struct plan {
    struct leader *leader;
    struct placement_node nodes[KITH_NODES_MAX];
    size_t n_nodes;
    struct placement_slice *slices;
    uint64_t *revisions; /* of the slices' keys, where they are to be placed (again) */
    uint64_t *terms;
    const struct topology_collection **collections; /* of each slice */
    size_t n_slices, cap_slices, cap_revisions, cap_terms, cap_collections;
    size_t n_missing;
    bool failed;
};

static void plan_node(void *ctx, const struct topology_node *node)
{
    struct plan *plan = ctx;
    if (node->state == TOPOLOGY_READY && plan->n_nodes < KITH_NODES_MAX) {
        plan->nodes[plan->n_nodes++] = (struct placement_node){.id = node->id};
    }
}

static bool plan_grow(struct plan *plan, size_t n)
{
    void *slices = plan->slices;
    void *revisions = plan->revisions;
    void *terms = plan->terms;
    void *collections = plan->collections;
    const size_t need = plan->n_slices + n;
    const bool ok = kith_grow(&slices, &plan->cap_slices, need, sizeof *plan->slices) &&
                    kith_grow(&revisions, &plan->cap_revisions, need, sizeof *plan->revisions) &&
                    kith_grow(&terms, &plan->cap_terms, need, sizeof *plan->terms) &&
                    kith_grow(&collections, &plan->cap_collections, need, sizeof(void *));
    plan->slices = slices;
    plan->revisions = revisions;
    plan->terms = terms;
    plan->collections = collections;
    return ok;
}

static void plan_collection(void *ctx, struct topology_collection *collection)
{
    struct plan *plan = ctx;
    if (plan->failed || !plan_grow(plan, collection->n_slices)) {
        plan->failed = true;
        return;
    }
    for (uint32_t i = 0; i < collection->n_slices; i++) {
        struct kith_slice_value value = {0};
        const uint64_t revision = leader_read_slice(plan->leader, collection->id, i, &value);
        bool place = revision == 0;
        if (revision && !value.opened) {
            const struct topology_node *node = find_node(plan->leader, value.primary);
            place = !node || node->state == TOPOLOGY_GONE;
        }
        const size_t at = plan->n_slices++;
        plan->slices[at] = (struct placement_slice){
            .collection = collection->id, .slice = i, .node = place ? 0 : value.primary};
        plan->revisions[at] = revision;
        plan->terms[at] = value.term;
        plan->collections[at] = collection;
        plan->n_missing += place;
    }
}

/* The first collection's new slices, as far as one transaction holds. `was`: 0 where one is new. */
static void plan_commit(struct plan *plan, const uint64_t *was)
{
    struct leader_batch *batch = leader_batch_new(plan->leader);
    const struct topology_collection *collection = NULL;
    if (!batch) {
        leader_step_later(plan->leader);
        return;
    }
    for (size_t i = 0; i < plan->n_slices && !leader_batch_full(batch); i++) {
        if (was[i] || !plan->slices[i].node) {
            continue;
        }
        if (!collection) {
            /* A collection that was deleted or changed meanwhile gets no slices. */
            collection = plan->collections[i];
            kith_keys_collection(batch->collection_key, collection->name);
            batch->compares[batch->n_compares++] = (struct kith_registry_compare){
                .key = batch->collection_key, .revision = collection->revision};
        }
        if (plan->collections[i] != collection) {
            break;
        }
        const struct kith_slice_value value = {
            .term = plan->terms[i] + 1,
            .primary = plan->slices[i].node,
            .n_in_sync = 1,
            .n_replicas = 1,
            .in_sync = {plan->slices[i].node},
            .replicas = {plan->slices[i].node},
        };
        leader_batch_put_slice(batch, collection->id, plan->slices[i].slice, plan->revisions[i],
                               &value);
    }
    leader_batch_commit(plan->leader, batch);
}

void leader_place(struct leader *leader)
{
    struct plan *plan = kith_alloc(sizeof *plan);
    uint64_t *was = NULL;
    if (!plan) {
        leader_step_later(leader);
        return;
    }
    plan->leader = leader;
    topology_each_node(leader->cfg.topology, plan_node, plan);
    topology_each_collection(leader->cfg.topology, plan_collection, plan);
    if (plan->failed) {
        leader_step_later(leader);
    } else if (plan->n_missing > 0 && plan->n_nodes > 0) {
        was = kith_alloc(plan->n_slices * sizeof *was);
        for (size_t i = 0; was && i < plan->n_slices; i++) {
            was[i] = plan->slices[i].node;
        }
        if (was) {
            placement_assign(plan->nodes, plan->n_nodes, plan->slices, plan->n_slices);
            plan_commit(plan, was);
        } else {
            leader_step_later(leader);
        }
    }
    kith_free(was);
    kith_free(plan->slices);
    kith_free(plan->revisions);
    kith_free(plan->terms);
    kith_free(plan->collections);
    kith_free(plan);
}
