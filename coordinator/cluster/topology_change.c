#include <inttypes.h>
#include <string.h>

#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "coordinator/cluster/topology_impl.h"

/* Creating, patching and deleting collections: one transaction each, then waiting.
 *
 * Creating writes collections/<name> only. The leader sees it, places the slices and has the nodes
 * open them (leader_open.c); this change is done when the picture shows all of them. If it shows that a
 * node cannot (its disk is full), the collection is deleted again: either all of it is there after
 * a refusal, or nothing. Deleting removes
 * the key and leaves a tombstone in the same transaction; nodes remove their data when they see a
 * tombstone, and only then: a key that is merely missing proves nothing (an old backup of the
 * registry misses keys, too).
 *
 * A change lives until both its commit and its caller were answered; the timer may answer first. */

#define CONFLICT_RETRIES_MAX 8

enum change_kind { CHANGE_CREATE, CHANGE_PATCH, CHANGE_DELETE };

struct topology_change {
    struct topology *of;
    enum change_kind kind;
    topology_done_fn done; /* NULL: answered */
    void *ctx;
    struct kith_timer *timer;
    enum kith_err err; /* to be told when the timer fires; KITH_OK: it is the deadline */
    struct kith_diag diag;
    char name[KITH_NAME_MAX + 1];
    uint64_t id;
    uint32_t retries;
    bool in_commit;
    bool committed;
    bool undoing; /* a creation; err says why */
    struct topology_change *next, **link;
};

static void change_free(struct topology_change *change)
{
    if (change->link) {
        *change->link = change->next;
        if (change->next) {
            change->next->link = change->link;
        }
    }
    kith_timer_free(change->timer);
    kith_free(change);
}

static void answer(struct topology_change *change, enum kith_err err, const struct kith_diag *diag)
{
    static const struct kith_diag none;
    const topology_done_fn done = change->done;
    void *ctx = change->ctx;
    const struct kith_diag copy = diag ? *diag : none;
    change->done = NULL;
    kith_timer_stop(change->timer);
    if (!change->in_commit) {
        change_free(change);
    }
    if (done) {
        done(ctx, err, &copy);
    }
}

/* After a commit. False: the deadline was first, or the topology was closed; the change is gone. */
static bool is_awaited(struct topology_change *change)
{
    change->in_commit = false;
    if (!change->done) {
        change_free(change);
        return false;
    }
    return true;
}

static void on_timer(void *ctx)
{
    struct topology_change *change = ctx;
    if (!change->err) {
        change->err =
            change->committed && change->kind == CHANGE_CREATE
                ? kith_fail(&change->diag, KITH_TIMEOUT,
                            "collection %s exists, but its slices were not opened in time",
                            change->name)
                : kith_fail(&change->diag, KITH_TIMEOUT,
                            "the registry did not confirm in time; the change may have happened");
    }
    answer(change, change->err, &change->diag);
}

/* NULL: out of memory, and done was called. */
static struct topology_change *change_new(struct topology *topology, enum change_kind kind,
                                          const char *name, topology_done_fn done, void *ctx)
{
    struct topology_change *change = kith_alloc(sizeof *change);
    if (!change || kith_timer_new(&change->timer, topology->cfg.loop, on_timer, change)) {
        struct kith_diag diag = {0};
        kith_free(change);
        kith_fail(&diag, KITH_NOMEM, "out of memory");
        done(ctx, KITH_NOMEM, &diag);
        return NULL;
    }
    change->of = topology;
    change->kind = kind;
    change->done = done;
    change->ctx = ctx;
    strncpy(change->name, name, KITH_NAME_MAX);
    change->link = &topology->changes;
    change->next = topology->changes;
    if (change->next) {
        change->next->link = &change->next;
    }
    topology->changes = change;
    return change;
}

/* Answers in the next turn. */
static void refuse(struct topology_change *change, enum kith_err err)
{
    change->err = err;
    kith_timer_start(change->timer, 0, 0);
}

static enum kith_err check_registry(const struct topology *topology, struct kith_diag *diag)
{
    const char *trouble = kith_registry_trouble(topology->cfg.registry);
    if (trouble) {
        return kith_fail(diag, KITH_UNAVAILABLE, "%.300s", trouble);
    }
    if (!kith_registry_synced(topology->cfg.registry) ||
        !kith_registry_connected(topology->cfg.registry)) {
        return kith_fail(diag, KITH_UNAVAILABLE,
                         "the registry is away: searching and writing go on, but collections "
                         "cannot be changed now");
    }
    return KITH_OK;
}

/* The key goes and a tombstone comes. */
static void commit_drop(struct topology_change *change,
                        const struct topology_collection *collection, kith_registry_done_fn done)
{
    char key[KITH_KEY_BYTES];
    char tombstone[KITH_KEY_BYTES];
    struct kith_buf text = {0};
    kith_keys_collection(key, change->name);
    kith_keys_dropped(tombstone, collection->id);
    kith_keys_write_dropped(&text, change->name);
    if (text.failed) {
        refuse(change, kith_fail(&change->diag, KITH_NOMEM, "out of memory"));
    } else {
        const struct kith_registry_compare compare = {.key = key, .revision = collection->revision};
        const struct kith_registry_change changes[] = {
            {.key = key}, {.key = tombstone, .value = (const char *)text.data}};
        change->in_commit = true;
        kith_registry_commit(change->of->cfg.registry, &compare, 1, changes, 2, done, change);
    }
    kith_buf_fini(&text);
}

/* ---- creating -------------------------------------------------------------------------------- */

/* What has become of the collection; `ready` only when all slices are there. */
static enum kith_err look(const struct topology *topology, const struct topology_change *change,
                          bool *ready, struct kith_diag *diag)
{
    const struct topology_collection *collection = topology_find(topology, change->name);
    *ready = false;
    if (!collection || collection->id != change->id) {
        return KITH_OK;
    }
    const struct topology_fact *facts = topology_facts(collection);
    *ready = collection->ready;
    for (uint32_t i = 0; i < collection->n_slices; i++) {
        if (!facts[i].opened && facts[i].error) {
            return kith_fail(diag, facts[i].error,
                             "collection %s was not created: node %016" PRIx64
                             " cannot store slice %" PRIu32 ": %s",
                             change->name, facts[i].primary, i, kith_err_text(facts[i].error));
        }
    }
    return KITH_OK;
}

static void undo(struct topology_change *change);

static void on_undone(void *ctx, enum kith_err err, const struct kith_diag *diag)
{
    struct topology_change *change = ctx;
    if (!is_awaited(change)) {
        return;
    }
    topology_refresh(change->of);
    if (err == KITH_CONFLICT && change->retries++ < CONFLICT_RETRIES_MAX) {
        undo(change);
        return;
    }
    if (err) {
        kith_log(WARN, "collection.undo_failed", "name=%s error=\"%s\"", change->name, diag->text);
    }
    answer(change, change->err, &change->diag);
}

static void undo(struct topology_change *change)
{
    const struct topology_collection *collection = topology_find(change->of, change->name);
    if (!collection || collection->id != change->id) {
        refuse(change, change->err); /* somebody else deleted it */
    } else {
        commit_drop(change, collection, on_undone);
    }
}

void topology_change_check(struct topology *topology)
{
    /* answer() may free any change and start others: begin again after each. */
    for (struct topology_change *change = topology->changes; change;) {
        bool ready = false;
        if (change->kind == CHANGE_CREATE && change->committed && change->done &&
            !change->undoing) {
            change->err = look(topology, change, &ready, &change->diag);
        }
        if (change->err && change->committed && !change->undoing) {
            change->undoing = true;
            undo(change);
            change = topology->changes;
        } else if (ready) {
            answer(change, KITH_OK, NULL);
            change = topology->changes;
        } else {
            change = change->next;
        }
    }
}

static void on_created(void *ctx, enum kith_err err, const struct kith_diag *diag)
{
    struct topology_change *change = ctx;
    struct topology *topology = change->of;
    if (!is_awaited(change)) {
        return;
    }
    if (err == KITH_CONFLICT) {
        struct kith_diag exists = {0};
        kith_fail(&exists, KITH_EXISTS, "collection %s already exists", change->name);
        answer(change, KITH_EXISTS, &exists);
        return;
    }
    if (err) {
        answer(change, err, diag);
        return;
    }
    change->committed = true;
    topology_refresh(topology);
    topology_change_check(topology);
}

static enum kith_err choose_slices(const struct topology *topology, uint32_t wanted, uint32_t *out,
                                   struct kith_diag *diag)
{
    uint32_t n_ready = 0;
    for (size_t i = 0; i < topology->n_nodes; i++) {
        n_ready += topology->nodes[i]->pub.state == TOPOLOGY_READY;
    }
    if (n_ready == 0) {
        return kith_fail(diag, KITH_UNAVAILABLE, "no shard node is ready");
    }
    uint32_t n = wanted
                     ? wanted
                     : (topology->cfg.default_slices ? topology->cfg.default_slices : 2 * n_ready);
    if (wanted > KITH_SLICES_PER_COLLECTION_MAX) {
        return kith_fail(diag, KITH_TOO_BIG, "shard_number: at most %u",
                         KITH_SLICES_PER_COLLECTION_MAX);
    }
    if (n > KITH_SLICES_PER_COLLECTION_MAX) {
        n = KITH_SLICES_PER_COLLECTION_MAX;
    }
    *out = n;
    return KITH_OK;
}

static enum kith_err check_spec(const struct topology *topology, const struct topology_spec *spec,
                                struct kith_diag *diag)
{
    if (!topology_codec_name_ok(spec->name)) {
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "collection name: 1 to %u of letters, digits, _ and -", KITH_NAME_MAX);
    }
    if (spec->dim == 0 || spec->dim > KITH_DIM_MAX) {
        return kith_fail(diag, KITH_BAD_REQUEST, "dimension: 1 to %u", KITH_DIM_MAX);
    }
    if (topology_find(topology, spec->name)) {
        return kith_fail(diag, KITH_EXISTS, "collection %s already exists", spec->name);
    }
    if (topology->n_collections >= KITH_COLLECTIONS_MAX) {
        return kith_fail(diag, KITH_TOO_BIG, "at most %u collections", KITH_COLLECTIONS_MAX);
    }
    return check_registry(topology, diag);
}

static void commit_value(struct topology_change *change,
                         const struct topology_collection *collection, uint64_t revision,
                         kith_registry_done_fn done)
{
    char key[KITH_KEY_BYTES];
    struct kith_buf text = {0};
    kith_keys_collection(key, change->name);
    topology_codec_write(&text, collection);
    if (text.failed) {
        refuse(change, kith_fail(&change->diag, KITH_NOMEM, "out of memory"));
    } else {
        const struct kith_registry_compare compare = {.key = key, .revision = revision};
        const struct kith_registry_change put = {.key = key, .value = (const char *)text.data};
        change->in_commit = true;
        kith_registry_commit(change->of->cfg.registry, &compare, 1, &put, 1, done, change);
    }
    kith_buf_fini(&text);
}

void topology_create(struct topology *topology, const struct topology_spec *spec,
                     uint32_t timeout_ms, topology_done_fn done, void *ctx)
{
    struct topology_change *change = change_new(topology, CHANGE_CREATE, spec->name, done, ctx);
    if (!change) {
        return;
    }
    struct topology_collection value = {
        .name = change->name,
        .id = kith_keys_random_id(),
        .dim = spec->dim,
        .metric = spec->metric,
        .rows = spec->rows,
        .index = spec->index,
        .factory = spec->factory,
        .vector_name = spec->vector_name ? spec->vector_name : "",
        .encoder = spec->encoder,
        .options = spec->options,
        .metadata = spec->metadata,
    };
    enum kith_err err = check_spec(topology, spec, &change->diag);
    err = err ? err : choose_slices(topology, spec->n_slices, &value.n_slices, &change->diag);
    if (err) {
        refuse(change, err);
        return;
    }
    change->id = value.id;
    kith_timer_start(change->timer, timeout_ms, 0);
    commit_value(change, &value, 0, on_created);
}

/* ---- patching -------------------------------------------------------------------------------- */

static void on_patched(void *ctx, enum kith_err err, const struct kith_diag *diag)
{
    struct topology_change *change = ctx;
    if (!is_awaited(change)) {
        return;
    }
    topology_refresh(change->of);
    answer(change, err, diag);
}

static const char *patched(const char *old, const char *patch)
{
    if (!patch) {
        return old;
    }
    return strcmp(patch, "null") == 0 ? NULL : patch;
}

void topology_patch(struct topology *topology, const struct topology_collection *collection,
                    const struct topology_patch *patch, topology_done_fn done, void *ctx)
{
    struct topology_change *change =
        change_new(topology, CHANGE_PATCH, collection->name, done, ctx);
    if (!change) {
        return;
    }
    const enum kith_err err = check_registry(topology, &change->diag);
    if (err) {
        refuse(change, err);
        return;
    }
    struct topology_collection value = *collection;
    value.encoder = patched(collection->encoder, patch->encoder);
    value.options = patched(collection->options, patch->options);
    value.metadata = patched(collection->metadata, patch->metadata);
    commit_value(change, &value, collection->revision, on_patched);
}

/* ---- deleting -------------------------------------------------------------------------------- */

static void delete_try(struct topology_change *change);

static void on_deleted(void *ctx, enum kith_err err, const struct kith_diag *diag)
{
    struct topology_change *change = ctx;
    struct topology *topology = change->of;
    if (!is_awaited(change)) {
        return;
    }
    topology_refresh(topology);
    if (err == KITH_CONFLICT && change->retries++ < CONFLICT_RETRIES_MAX) {
        delete_try(change);
        return;
    }
    answer(change, err, diag);
}

static void delete_try(struct topology_change *change)
{
    struct topology *topology = change->of;
    const struct topology_collection *collection = topology_find(topology, change->name);
    if (!collection) {
        refuse(change, kith_fail(&change->diag, KITH_NOT_FOUND, "collection %s does not exist",
                                 change->name));
        return;
    }
    commit_drop(change, collection, on_deleted);
}

void topology_delete(struct topology *topology, const char *name, uint32_t timeout_ms,
                     topology_done_fn done, void *ctx)
{
    struct topology_change *change = change_new(topology, CHANGE_DELETE, name, done, ctx);
    if (!change) {
        return;
    }
    const enum kith_err err =
        topology_find(topology, name) || !topology_synced(topology)
            ? check_registry(topology, &change->diag)
            : kith_fail(&change->diag, KITH_NOT_FOUND, "collection %.64s does not exist", name);
    if (err) {
        refuse(change, err);
        return;
    }
    kith_timer_start(change->timer, timeout_ms, 0);
    delete_try(change);
}

void topology_change_cancel_all(struct topology *topology)
{
    while (topology->changes) {
        struct topology_change *change = topology->changes;
        topology->changes = change->next;
        if (change->next) {
            change->next->link = &topology->changes;
        }
        change->link = NULL;
        if (!change->done) {
            continue;
        }
        struct kith_diag diag = {0};
        kith_fail(&diag, KITH_CANCELLED, "shutting down");
        answer(change, KITH_CANCELLED, &diag); /* one in commit is freed when the registry closes */
    }
}
