/* Topology and leader over a registry in a file and nodes played by the test. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/kith_keys.h"
#include "common/kith_mem.h"
#include "coordinator/cluster/leader.h"
#include "coordinator/cluster/topology.h"
#include "proto/kith_frame.h"
#include "proto/kith_msg.h"

#define N_NODES 3
#define WAIT_MS 60000 /* for what comes at once but on a machine that is busy with other things */

struct fake_node {
    uint64_t id;
    struct kith_net_server *server;
    struct rig *rig;
    atomic_uint opened; /* slices */
    atomic_bool refuse, full;
};

struct rig {
    char dir[32];
    char path[64];
    struct kith_loop *loop;
    struct kith_registry *registry;
    struct topology *topology;
    struct leader *leader;
    struct kith_timer *watchdog;
    atomic_ullong cluster;
    struct fake_node nodes[N_NODES];
    bool (*until)(struct rig *rig);
    size_t n_done;
    enum kith_err err;
    char text[KITH_DIAG_BYTES];
};

/* ---- a node that says yes -------------------------------------------------------------------- */

static void node_serve(void *ctx, struct kith_net_call *call, struct kith_net_msg *request)
{
    static const char header[KITH_FRAME_HEADER_BYTES];
    struct fake_node *node = ctx;
    struct kith_frame frame;
    struct kith_msg_open open;
    const uint64_t cluster = atomic_load(&node->rig->cluster);
    const uint8_t *data = kith_net_msg_data(request);
    if (kith_frame_open(data, kith_net_msg_len(request), cluster, &frame, NULL) ||
        frame.message != KITH_MSG_OPEN ||
        !kith_msg_read_open((struct kith_bytes){data + sizeof header, frame.body_bytes}, &open)) {
        kith_net_reply(call, NULL);
        return;
    }
    struct kith_net_msg *reply = kith_net_msg_new(0);
    struct kith_writer w = {.write = kith_net_msg_sink, .sink = reply};
    kith_net_msg_sink(reply, header, sizeof header);
    frame.message = KITH_MSG_OPENED;
    if (atomic_load(&node->refuse)) {
        frame.message = KITH_MSG_ERROR;
        kith_msg_write_error(&w, KITH_DISK_FULL, "no room");
    } else {
        static _Thread_local struct kith_msg_slices slices;
        slices.n_slices = open.scope.n_slices;
        for (uint32_t i = 0; i < open.scope.n_slices; i++) {
            enum kith_err err = atomic_load(&node->full) ? KITH_DISK_FULL : KITH_OK;
            slices.slices[i] = (struct kith_msg_slice){.slice = open.scope.slices[i], .err = err};
        }
        atomic_fetch_add(&node->opened, open.scope.n_slices);
        kith_msg_write_slices_only(&w, &slices);
    }
    kith_frame_seal(kith_net_msg_data(reply), kith_net_msg_len(reply), &frame);
    kith_net_reply(call, reply);
}

static void announce(struct rig *rig, size_t i, bool ready)
{
    char key[KITH_KEY_BYTES];
    struct kith_buf text = {0};
    struct kith_node_value value = {.ready = ready, .version = "1"};
    snprintf(value.url, sizeof value.url, "%s", kith_net_server_url(rig->nodes[i].server));
    snprintf(value.name, sizeof value.name, "node-%zu", i);
    kith_keys_node(key, rig->nodes[i].id);
    kith_keys_write_node(&text, &value);
    assert_int_equal(kith_registry_announce(rig->registry, key, (const char *)text.data), KITH_OK);
    kith_buf_fini(&text);
}

/* ---- running until --------------------------------------------------------------------------- */

static void on_watchdog(void *ctx)
{
    (void)ctx;
    fail_msg("the event did not come within %d s", WAIT_MS / 1000);
}

static void check(void *ctx)
{
    struct rig *rig = ctx;
    atomic_store(&rig->cluster, topology_cluster(rig->topology));
    if (rig->until && rig->until(rig)) {
        rig->until = NULL;
        kith_loop_stop(rig->loop);
    }
}

static void run_until(struct rig *rig, bool (*until)(struct rig *rig))
{
    rig->until = until;
    kith_timer_start(rig->watchdog, WAIT_MS, 0);
    check(rig);
    kith_loop_run(rig->loop);
    kith_timer_stop(rig->watchdog);
}

static void on_done(void *ctx, enum kith_err err, const struct kith_diag *diag)
{
    struct rig *rig = ctx;
    rig->n_done++;
    rig->err = err;
    snprintf(rig->text, sizeof rig->text, "%s", diag->text);
    check(rig);
}

static bool is_done(struct rig *rig)
{
    return rig->n_done > 0;
}

static bool is_leading(struct rig *rig)
{
    struct topology_status status;
    topology_status(rig->topology, &status);
    return status.leading && status.cluster;
}

static bool all_ready(struct rig *rig)
{
    struct topology_status status;
    topology_status(rig->topology, &status);
    return status.n_nodes_ready == N_NODES;
}

static void rig_open(struct rig *rig)
{
    assert_int_equal(kith_loop_open(&rig->loop, NULL), KITH_OK);
    assert_int_equal(kith_timer_new(&rig->watchdog, rig->loop, on_watchdog, rig), KITH_OK);
    assert_int_equal(kith_registry_open_file(&rig->registry, rig->loop, rig->path, NULL), KITH_OK);
    const struct topology_cfg topology_cfg = {
        .loop = rig->loop, .registry = rig->registry, .self = 7};
    assert_int_equal(topology_open(&rig->topology, &topology_cfg, NULL), KITH_OK);
    const struct leader_cfg leader_cfg = {.loop = rig->loop,
                                          .registry = rig->registry,
                                          .topology = rig->topology,
                                          .self = 7,
                                          .http_url = "http://127.0.0.1:1"};
    assert_int_equal(leader_open(&rig->leader, &leader_cfg, NULL), KITH_OK);
    kith_registry_listen(rig->registry, check, rig);
    run_until(rig, is_leading);
}

static void rig_close(struct rig *rig)
{
    topology_close(rig->topology);
    kith_registry_close(rig->registry);
    leader_close(rig->leader);
    kith_timer_free(rig->watchdog);
    kith_loop_close(rig->loop);
}

static int setup(void **state)
{
    struct rig *rig = calloc(1, sizeof *rig);
    snprintf(rig->dir, sizeof rig->dir, "/tmp/kith-topology-XXXXXX");
    assert_non_null(mkdtemp(rig->dir));
    snprintf(rig->path, sizeof rig->path, "%s/registry", rig->dir);
    rig_open(rig);
    for (size_t i = 0; i < N_NODES; i++) {
        char url[64];
        snprintf(url, sizeof url, "inproc://%s-%zu", rig->dir + 5, i);
        rig->nodes[i].id = i + 1;
        rig->nodes[i].rig = rig;
        assert_int_equal(
            kith_net_listen(&rig->nodes[i].server, url, node_serve, &rig->nodes[i], NULL), KITH_OK);
    }
    *state = rig;
    return 0;
}

static int teardown(void **state)
{
    struct rig *rig = *state;
    rig_close(rig);
    for (size_t i = 0; i < N_NODES; i++) {
        kith_net_server_close(rig->nodes[i].server);
    }
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", rig->dir);
    const int failed = system(command);
    free(rig);
    return failed;
}

static void announce_all(struct rig *rig)
{
    for (size_t i = 0; i < N_NODES; i++) {
        announce(rig, i, true);
    }
    run_until(rig, all_ready);
}

static enum kith_err create(struct rig *rig, const char *name, uint32_t n_slices,
                            uint32_t timeout_ms)
{
    const struct topology_spec spec = {.name = name,
                                       .dim = 4,
                                       .metric = KITH_EUCLID,
                                       .rows = KITH_ROWS_F16,
                                       .index = KITH_INDEX_ROWS,
                                       .n_slices = n_slices,
                                       .vector_name = "v",
                                       .encoder = "{\"kind\":\"ngram\"}",
                                       .options = "{\"a\":\"\\\"\"}"};
    rig->n_done = 0;
    topology_create(rig->topology, &spec, timeout_ms, on_done, rig);
    assert_int_equal(rig->n_done, 0); /* never from inside the call */
    run_until(rig, is_done);
    assert_int_equal(rig->n_done, 1);
    return rig->err;
}

static enum kith_err drop(struct rig *rig, const char *name)
{
    rig->n_done = 0;
    topology_delete(rig->topology, name, WAIT_MS, on_done, rig);
    assert_int_equal(rig->n_done, 0);
    run_until(rig, is_done);
    return rig->err;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void check_collection(struct rig *rig, const char *name, uint32_t n_slices)
{
    const struct topology_collection *collection = topology_find(rig->topology, name);
    assert_non_null(collection);
    assert_string_equal(collection->name, name);
    assert_true(collection->ready && collection->id && collection->revision);
    assert_int_equal(collection->dim, 4);
    assert_int_equal(collection->metric, KITH_EUCLID);
    assert_int_equal(collection->rows, KITH_ROWS_F16);
    assert_int_equal(collection->index, KITH_INDEX_ROWS);
    assert_string_equal(collection->vector_name, "v");
    assert_string_equal(collection->encoder, "{\"kind\":\"ngram\"}");
    assert_string_equal(collection->options, "{\"a\":\"\\\"\"}");
    assert_null(collection->metadata);
    assert_int_equal(collection->n_slices, n_slices);
    for (uint32_t i = 0; i < n_slices; i++) {
        assert_non_null(collection->slices[i].node);
        assert_int_equal(collection->slices[i].term, 1);
    }
}

static void test_create_places_and_opens(void **state)
{
    struct rig *rig = *state;
    announce_all(rig);
    assert_int_equal(create(rig, "c", 0, WAIT_MS), KITH_OK);
    check_collection(rig, "c", 2 * N_NODES);
    for (size_t i = 0; i < N_NODES; i++) {
        assert_int_equal(atomic_load(&rig->nodes[i].opened), 2); /* balanced */
    }
    assert_int_equal(create(rig, "c", 0, WAIT_MS), KITH_EXISTS);
    assert_int_equal(create(rig, "most", KITH_SLICES_PER_COLLECTION_MAX, WAIT_MS), KITH_OK);
    check_collection(rig, "most", KITH_SLICES_PER_COLLECTION_MAX);
    struct topology_status status;
    topology_status(rig->topology, &status);
    assert_true(status.ready && status.leading);
    assert_int_equal(status.n_slices, 2 * N_NODES + KITH_SLICES_PER_COLLECTION_MAX);
    assert_int_equal(status.n_slices_unplaced, 0);
}

static void test_create_refuses_what_cannot_be(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(create(rig, "c", 0, WAIT_MS), KITH_UNAVAILABLE); /* no node */
    announce_all(rig);
    assert_int_equal(create(rig, "", 0, WAIT_MS), KITH_BAD_REQUEST);
    assert_int_equal(create(rig, "a/b", 0, WAIT_MS), KITH_BAD_REQUEST);
    assert_int_equal(create(rig, "a", KITH_SLICES_PER_COLLECTION_MAX + 1, WAIT_MS), KITH_TOO_BIG);
    assert_null(topology_find(rig->topology, "a"));
    char name[KITH_NAME_MAX + 2];
    memset(name, 'x', sizeof name);
    name[KITH_NAME_MAX + 1] = 0;
    assert_int_equal(create(rig, name, 0, WAIT_MS), KITH_BAD_REQUEST);
}

static bool c_is_ready(struct rig *rig)
{
    const struct topology_collection *collection = topology_find(rig->topology, "c");
    return collection && collection->ready;
}

/* Those of the two nodes that do not refuse. */
static bool four_are_open(struct rig *rig)
{
    const struct topology_collection *collection = topology_find(rig->topology, "c");
    uint32_t n_open = 0;
    for (uint32_t i = 0; collection && i < collection->n_slices; i++) {
        n_open += collection->slices[i].node != NULL;
    }
    return n_open == 4;
}

static void test_create_times_out_and_recovers(void **state)
{
    struct rig *rig = *state;
    announce_all(rig);
    atomic_store(&rig->nodes[1].refuse, true);
    assert_int_equal(create(rig, "c", 0, 300), KITH_TIMEOUT);
    run_until(rig, four_are_open); /* the deadline may come first */
    assert_false(topology_find(rig->topology, "c")->ready);
    atomic_store(&rig->nodes[1].refuse, false);
    run_until(rig, c_is_ready);
    check_collection(rig, "c", 6);
}

/* One disk of three is full: an error that says so, long before the deadline, and nothing stays. */
static void test_create_on_a_full_disk_leaves_nothing(void **state)
{
    struct rig *rig = *state;
    announce_all(rig);
    atomic_store(&rig->nodes[1].full, true);
    assert_int_equal(create(rig, "c", 0, 3600000), KITH_DISK_FULL);
    assert_non_null(strstr(rig->text, "disk full"));
    assert_null(topology_find(rig->topology, "c"));
    assert_int_equal(drop(rig, "c"), KITH_NOT_FOUND);
    atomic_store(&rig->nodes[1].full, false);
    assert_int_equal(create(rig, "c", 0, WAIT_MS), KITH_OK);
    check_collection(rig, "c", 6);
}

static void test_delete_leaves_a_tombstone_until_data_is_gone(void **state)
{
    struct rig *rig = *state;
    announce_all(rig);
    assert_int_equal(create(rig, "c", 0, WAIT_MS), KITH_OK);
    struct topology_collection *held = topology_ref(topology_find(rig->topology, "c"));
    const uint64_t id = held->id;
    assert_int_equal(drop(rig, "c"), KITH_OK);
    assert_null(topology_find(rig->topology, "c"));
    assert_non_null(held->slices[0].node->peer); /* a request in hand goes on */
    topology_unref(held);
    assert_int_equal(drop(rig, "c"), KITH_NOT_FOUND);

    char key[KITH_KEY_BYTES];
    struct kith_registry_value value;
    kith_keys_dropped(key, id);
    assert_true(kith_registry_get(rig->registry, key, &value));

    assert_int_equal(create(rig, "c", 0, WAIT_MS), KITH_OK); /* the name is free at once */
    assert_true(topology_find(rig->topology, "c")->id != id);
}

static uint64_t dropped_id;

static bool tombstone_gone(struct rig *rig)
{
    char key[KITH_KEY_BYTES];
    struct kith_registry_value value;
    kith_keys_dropped(key, dropped_id);
    return !kith_registry_get(rig->registry, key, &value);
}

static void test_leader_clears_a_tombstone_without_slices(void **state)
{
    struct rig *rig = *state;
    announce_all(rig);
    assert_int_equal(create(rig, "c", 2, WAIT_MS), KITH_OK);
    dropped_id = topology_find(rig->topology, "c")->id;
    assert_int_equal(drop(rig, "c"), KITH_OK);
    assert_false(tombstone_gone(rig));
    for (uint32_t i = 0; i < 2; i++) { /* as nodes do when the data is gone */
        char key[KITH_KEY_BYTES];
        kith_keys_slice(key, dropped_id, i);
        const struct kith_registry_change change = {.key = key};
        kith_registry_commit(rig->registry, NULL, 0, &change, 1, NULL, NULL);
    }
    run_until(rig, tombstone_gone);
}

static void test_patch_needs_the_latest_snapshot(void **state)
{
    struct rig *rig = *state;
    announce_all(rig);
    assert_int_equal(create(rig, "c", 1, WAIT_MS), KITH_OK);
    struct topology_collection *old = topology_ref(topology_find(rig->topology, "c"));
    const struct topology_patch patch = {.metadata = "{\"m\":1}", .encoder = "null"};
    rig->n_done = 0;
    topology_patch(rig->topology, old, &patch, on_done, rig);
    run_until(rig, is_done);
    assert_int_equal(rig->err, KITH_OK);
    const struct topology_collection *fresh = topology_find(rig->topology, "c");
    assert_ptr_not_equal(fresh, old);
    assert_string_equal(fresh->metadata, "{\"m\":1}");
    assert_null(fresh->encoder);
    assert_string_equal(fresh->options, old->options);
    assert_true(fresh->ready);
    assert_null(old->metadata); /* a snapshot does not change */
    rig->n_done = 0;
    topology_patch(rig->topology, old, &patch, on_done, rig);
    run_until(rig, is_done);
    assert_int_equal(rig->err, KITH_CONFLICT);
    topology_unref(old);
}

static bool one_is_gone(struct rig *rig)
{
    struct topology_status status;
    topology_status(rig->topology, &status);
    return status.n_nodes_ready == N_NODES - 1;
}

static void test_a_node_without_key_keeps_its_address(void **state)
{
    struct rig *rig = *state;
    announce_all(rig);
    assert_int_equal(create(rig, "c", 3, WAIT_MS), KITH_OK);
    char key[KITH_KEY_BYTES];
    kith_keys_node(key, 2);
    const struct kith_registry_change change = {.key = key};
    kith_registry_commit(rig->registry, NULL, 0, &change, 1, NULL, NULL);
    run_until(rig, one_is_gone);
    const struct topology_collection *collection = topology_find(rig->topology, "c");
    size_t n_gone = 0;
    for (uint32_t i = 0; i < 3; i++) {
        const struct topology_node *node = collection->slices[i].node;
        if (node->state == TOPOLOGY_GONE) {
            assert_non_null(node->peer);
            assert_true(node->url[0]);
            n_gone++;
        }
    }
    assert_int_equal(n_gone, 1);
    announce(rig, 1, true);
    run_until(rig, all_ready);
    assert_ptr_equal(topology_find(rig->topology, "c"), collection); /* nothing changed */
}

static void test_a_restart_finds_everything_again(void **state)
{
    struct rig *rig = *state;
    announce_all(rig);
    assert_int_equal(create(rig, "c", 0, WAIT_MS), KITH_OK);
    const uint64_t id = topology_find(rig->topology, "c")->id;
    const uint64_t cluster = topology_cluster(rig->topology);
    rig_close(rig);
    rig_open(rig);
    assert_true(topology_cluster(rig->topology) == cluster);
    check_collection(rig, "c", 6);
    assert_true(topology_find(rig->topology, "c")->id == id);
    const struct topology_node *node = topology_find(rig->topology, "c")->slices[0].node;
    assert_int_equal(node->state, TOPOLOGY_GONE); /* not seen since: known by id only */
    assert_null(node->peer);
    announce_all(rig);
    node = topology_find(rig->topology, "c")->slices[0].node;
    assert_int_equal(node->state, TOPOLOGY_READY);
    assert_non_null(node->peer);
    unsigned opened = 0;
    for (size_t i = 0; i < N_NODES; i++) {
        opened += atomic_load(&rig->nodes[i].opened);
    }
    assert_int_equal(opened, 6); /* what was opened once is never opened (created) again */
}

static void test_close_cancels_changes(void **state)
{
    struct rig *rig = *state;
    announce_all(rig);
    const struct topology_spec spec = {
        .name = "c", .dim = 4, .metric = KITH_DOT, .rows = KITH_ROWS_F32};
    rig->n_done = 0;
    topology_create(rig->topology, &spec, WAIT_MS, on_done, rig);
    topology_delete(rig->topology, "nothing", WAIT_MS, on_done, rig);
    topology_close(rig->topology);
    assert_int_equal(rig->n_done, 2);
    assert_int_equal(rig->err, KITH_CANCELLED);
    rig->topology = NULL;
}

static void test_open_survives_each_oom(void **state)
{
    struct rig *rig = *state;
    announce_all(rig);
    assert_int_equal(create(rig, "c", 0, WAIT_MS), KITH_OK);
    enum kith_err err = KITH_NOMEM;
    for (long n = 0; err && n < 3000; n++) {
        const struct topology_cfg cfg = {.loop = rig->loop, .registry = rig->registry, .self = 8};
        struct topology *second = NULL;
        kith_mem_fail_after(n);
        err = topology_open(&second, &cfg, NULL);
        kith_mem_fail_after(-1);
        assert_true(err == KITH_OK || err == KITH_NOMEM);
        if (!err && topology_find(second, "c") == NULL) {
            err = KITH_NOMEM; /* opened, and will read the rest when there is memory again */
        }
        topology_close(second);
    }
    assert_int_equal(err, KITH_OK);
}

#define T(test_) cmocka_unit_test_setup_teardown(test_, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_create_places_and_opens),
        T(test_create_refuses_what_cannot_be),
        T(test_create_times_out_and_recovers),
        T(test_create_on_a_full_disk_leaves_nothing),
        T(test_delete_leaves_a_tombstone_until_data_is_gone),
        T(test_leader_clears_a_tombstone_without_slices),
        T(test_patch_needs_the_latest_snapshot),
        T(test_a_node_without_key_keeps_its_address),
        T(test_a_restart_finds_everything_again),
        T(test_close_cancels_changes),
        T(test_open_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
