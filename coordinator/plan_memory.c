/* GET /v1/collections/{c}/memory: where the bytes of a collection are, by kind of content and by node.
 * A node that is away turns up in coverage, not in the sums. */
#include <string.h>

#include "common/kith_arena.h"
#include "common/kith_mem.h"
#include "coordinator/plan.h"

struct memory_node {
    struct memory_node *next;
    const struct topology_node *node;
    struct kith_msg_memories msg;
};

struct memory_plan {
    struct memory_node *nodes; /* in the order of the answers */
    struct kith_msg_memory_section sums[KITH_MEMORY_SECTIONS_MAX];
    uint32_t n_sums;
};

static void write_body(struct request *req, struct scatter_ask *ask, struct kith_writer *w)
{
    (void)req;
    kith_msg_write_scope_only(w, &ask->scope);
}

/* Names no more than the first nodes do: a newer node's own kinds are in its part of the answer. */
static void add_section(struct memory_plan *plan, const struct kith_msg_memory_section *section)
{
    struct kith_msg_memory_section *sum = NULL;
    for (uint32_t i = 0; i < plan->n_sums && !sum; i++)
        if (plan->sums[i].name.len == section->name.len &&
            memcmp(plan->sums[i].name.data, section->name.data, section->name.len) == 0)
            sum = &plan->sums[i];
    if (!sum && plan->n_sums < KITH_MEMORY_SECTIONS_MAX) {
        sum = &plan->sums[plan->n_sums++];
        sum->name = section->name;
    }
    if (!sum)
        return;
    sum->file += section->file;
    sum->mapped += section->mapped;
    sum->resident += section->resident;
    sum->locked += section->locked;
}

static enum kith_err take(struct request *req, struct scatter_ask *ask, struct kith_bytes body,
                          struct kith_diag *diag)
{
    struct memory_plan *plan = req->plan;
    struct memory_node *node = kith_arena_alloc(req->arena, sizeof(*node));
    if (!node)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    node->node = ask->node;
    if (!kith_msg_read_memories(body, &node->msg))
        return kith_fail(diag, KITH_PROTOCOL, "malformed account of memory");
    enum kith_err err = scatter_verdicts(ask, &node->msg.slices, diag);
    if (err)
        return err;
    struct memory_node **last = &plan->nodes;
    while (*last)
        last = &(*last)->next;
    *last = node;
    for (uint32_t i = 0; i < node->msg.n_sections; i++)
        add_section(plan, &node->msg.sections[i]);
    return KITH_OK;
}

static void write_u64(struct kith_json_writer *w, const char *key, uint64_t value)
{
    kith_jw_key(w, key);
    kith_jw_u64(w, value);
}

static void write_use(const struct kith_msg_memory_section *use, struct kith_json_writer *w)
{
    kith_jw_begin_object(w);
    write_u64(w, "file", use->file);
    write_u64(w, "mapped", use->mapped);
    write_u64(w, "resident", use->resident);
    write_u64(w, "locked", use->locked);
    kith_jw_end_object(w);
}

static void write_sections(const struct kith_msg_memory_section *sections, uint32_t n,
                           struct kith_json_writer *w)
{
    struct kith_msg_memory_section total = {.file = 0};
    kith_jw_key(w, "sections");
    kith_jw_begin_object(w);
    for (uint32_t i = 0; i < n; i++) {
        kith_jw_key_n(w, (const char *)sections[i].name.data, sections[i].name.len);
        write_use(&sections[i], w);
        total.file += sections[i].file;
        total.mapped += sections[i].mapped;
        total.resident += sections[i].resident;
        total.locked += sections[i].locked;
    }
    kith_jw_end_object(w);
    kith_jw_key(w, "total");
    write_use(&total, w);
}

static void write_result(struct request *req, struct kith_json_writer *w)
{
    const struct memory_plan *plan = req->plan;
    kith_jw_begin_object(w);
    write_sections(plan->sums, plan->n_sums, w);
    kith_jw_key(w, "nodes");
    kith_jw_begin_array(w);
    for (const struct memory_node *n = plan->nodes; n; n = n->next) {
        kith_jw_begin_object(w);
        kith_jw_key(w, "node");
        kith_jw_cstr(w, n->node ? n->node->name : "");
        write_sections(n->msg.sections, n->msg.n_sections, w);
        kith_jw_key(w, "lock");
        kith_jw_begin_object(w);
        write_u64(w, "budget", n->msg.lock_budget);
        write_u64(w, "locked", n->msg.locked);
        kith_jw_key(w, "refused");
        kith_jw_bool(w, n->msg.lock_refused);
        kith_jw_end_object(w);
        kith_jw_end_object(w);
    }
    kith_jw_end_array(w);
    kith_jw_end_object(w);
}

static const struct scatter_round memory_round = {
    .message = KITH_MSG_MEMORY, .write_body = write_body, .take = take};
static const struct work memory_work = {
    .name = "memory", .round = &memory_round, .write_result = write_result};

enum kith_err plan_memory_memory(struct request *req, struct kith_diag *diag)
{
    req->plan = kith_arena_alloc(req->arena, sizeof(struct memory_plan));
    if (!req->plan)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    req->work = &memory_work;
    req->allow_partial = true; /* header and coverage say so */
    return KITH_OK;
}
