/* The whole coordinator, from HTTP to nodes and back, over two fake shards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/kith_http_client.h"
#include "common/kith_keys.h"
#include "coordinator/fake_shard.h"
#include "coordinator/cluster/leader.h"
#include "coordinator/server.h"

#define N_SHARDS 2

static struct {
    struct fake_shard shards[N_SHARDS];
    struct kith_loop *loop;
    struct kith_registry *registry;
    struct topology *topology;
    struct leader *leader;
    struct kith_pool *pool;
    struct server *server;
    pthread_t thread;
    char dir[64];
    struct kith_http_session *session;
    struct kith_http_response response;
} world;

static void on_drained(void *ctx)
{
    kith_loop_stop(ctx);
}

static struct kith_letter stop_letter;

static void on_stop(void *ctx)
{
    (void)ctx;
    server_drain(world.server, 1000, on_drained, world.loop);
}

static void on_registry(void *ctx)
{
    (void)kith_keys_cluster(ctx);
}

static void *run_loop(void *ctx)
{
    kith_loop_run(ctx);
    return NULL;
}

static void announce(uint32_t i)
{
    struct kith_buf text = {.data = NULL};
    struct kith_node_value value = {.ready = true};
    char key[KITH_KEY_BYTES], url[64];
    snprintf(url, sizeof(url), "inproc://pipeline_test_%d_%u", getpid(), i);
    assert_int_equal(kith_net_listen(&world.shards[i].net, url, fake_serve, &world.shards[i], NULL),
                     KITH_OK);
    snprintf(value.url, sizeof(value.url), "%s", url);
    snprintf(value.name, sizeof(value.name), "fake%u", i);
    kith_keys_node(key, i + 1);
    kith_keys_write_node(&text, &value);
    assert_int_equal(kith_registry_announce(world.registry, key, (const char *)text.data), KITH_OK);
    kith_buf_fini(&text);
}

static int open_world(void **state)
{
    (void)state;
    struct kith_diag diag = {.text = ""};
    char path[128];
    snprintf(world.dir, sizeof(world.dir), "/tmp/kith_pipeline_test_XXXXXX");
    assert_non_null(mkdtemp(world.dir));
    snprintf(path, sizeof(path), "%s/registry.json", world.dir);
    assert_int_equal(kith_loop_open(&world.loop, &diag), KITH_OK);
    assert_int_equal(kith_registry_open_file(&world.registry, world.loop, path, &diag), KITH_OK);
    kith_registry_listen(world.registry, on_registry, world.registry);
    for (uint32_t i = 0; i < N_SHARDS; i++) {
        pthread_mutex_init(&world.shards[i].lock, NULL);
        announce(i);
    }
    struct topology_cfg topology_cfg = {
        .loop = world.loop, .registry = world.registry, .self = 77, .http_url = "http://test"};
    assert_int_equal(topology_open(&world.topology, &topology_cfg, &diag), KITH_OK);
    struct leader_cfg leader_cfg = {.loop = world.loop,
                                    .registry = world.registry,
                                    .topology = world.topology,
                                    .self = 77,
                                    .http_url = "http://test"};
    assert_int_equal(leader_open(&world.leader, &leader_cfg, &diag), KITH_OK);
    assert_int_equal(kith_pool_open(&world.pool, 2, &diag), KITH_OK);
    struct server_cfg cfg = {
        .listen = "127.0.0.1:0", .topology = world.topology, .pool = world.pool, .clustered = true};
    assert_int_equal(server_open(&world.server, world.loop, &cfg, &diag), KITH_OK);
    assert_int_equal(kith_http_session_open(&world.session, &diag), KITH_OK);
    on_registry(world.registry);
    assert_int_equal(pthread_create(&world.thread, NULL, run_loop, world.loop), 0);
    return 0;
}

static int close_world(void **state)
{
    (void)state;
    stop_letter = (struct kith_letter){.fn = on_stop};
    kith_loop_post(world.loop, &stop_letter);
    pthread_join(world.thread, NULL);
    kith_http_session_close(world.session);
    kith_http_response_fini(&world.response);
    for (uint32_t i = 0; i < N_SHARDS; i++)
        fake_shard_close(&world.shards[i]);
    topology_close(world.topology);
    kith_registry_unlisten(world.registry, on_registry, world.registry);
    kith_registry_close(world.registry);
    leader_close(world.leader);
    kith_pool_close(world.pool);
    server_close(world.server);
    kith_loop_close(world.loop);
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", world.dir);
    return system(command);
}

/* The status; the body is in world.response. */
static int ask(const char *method, const char *path, const char *body)
{
    char url[512];
    snprintf(url, sizeof(url), "%s%s", server_url(world.server), path);
    struct kith_http_request request = {.method = method,
                                        .url = url,
                                        .body = body,
                                        .body_len = body ? strlen(body) : 0,
                                        .timeout_ms = 15000};
    struct kith_diag diag = {.text = ""};
    enum kith_err err = kith_http_session_ask(world.session, &request, &world.response, &diag);
    if (err)
        fail_msg("%s %s: %s", method, path, diag.text);
    return world.response.status;
}

static const char *body_text(void)
{
    return world.response.body.data ? (const char *)world.response.body.data : "";
}

static void expect(int status, const char *part, const char *method, const char *path,
                   const char *body)
{
    int got = ask(method, path, body);
    if (got != status || !strstr(body_text(), part))
        fail_msg("%s %s %s: got %d %s; expected %d ...%s...", method, path, body ? body : "", got,
                 body_text(), status, part);
}

static void test_pipeline_serves_a_collection(void **state)
{
    (void)state;
    expect(200, "\"version\":\"1.19.0\"", "GET", "/", NULL);
    expect(200, "healthz check passed", "GET", "/healthz", NULL);
    expect(404, "no collection `c`", "GET", "/collections/c", NULL);
    expect(200, "\"exists\":false", "GET", "/collections/c/exists", NULL);
    expect(200, "\"result\":true", "PUT", "/collections/c",
           "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"shard_number\":4,\"metadata\":{\"a\":"
           "1},\"quantization_config\":{\"scalar\":{\"type\":\"int8\",\"quantile\":0.75}}}");
    expect(200, "\"quantization_config\":{\"scalar\":{\"type\":\"int8\",\"quantile\":0.75}}", "GET",
           "/collections/c", NULL);
    expect(200, "\"warnings\":[{\"message\":\"quantization_config.scalar.quantile has no effect",
           "GET", "/collections/c", NULL);
    expect(200, "\"quantization\":\"int8\",\"index\":{\"kind\":\"int8\"", "GET", "/collections/c",
           NULL);
    expect(409, "already", "PUT", "/collections/c",
           "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"}}");
    expect(200, "{\"name\":\"c\"}", "GET", "/collections", NULL);
    expect(200, "\"status\":\"completed\"", "PUT", "/collections/c/points?wait=true",
           "{\"points\":[{\"id\":1,\"vector\":[1,0,0,0],\"payload\":{\"n\":{\"x\":1,\"y\":2}}},"
           "{\"id\":2,\"vector\":[0.5,0,0,0]},{\"id\":3,\"vector\":[0,1,0,0]},"
           "{\"id\":4,\"vector\":[0.25,0,0,0]},{\"id\":5,\"vector\":[0.125,0,0,0]},"
           "{\"id\":\"550e8400-e29b-41d4-a716-446655440000\",\"vector\":[0,0,1,0]}]}");
    expect(200, "\"count\":6", "POST", "/collections/c/points/count", "{}");
    expect(200,
           "{\"points\":[{\"id\":1,\"version\":1,\"score\":1,\"payload\":{\"n\":{\"x\":1}}},"
           "{\"id\":2,",
           "POST", "/collections/c/points/query",
           "{\"query\":[1,0,0,0],\"limit\":2,\"with_payload\":[\"n.x\"]}");
    expect(200, "\"result\":[{\"id\":2,", "POST", "/collections/c/points/search",
           "{\"vector\":[1,0,0,0],\"limit\":2,\"offset\":1}");
    expect(200, "{\"points\":[{\"id\":2,", "POST", "/collections/c/points/query",
           "{\"query\":1,\"limit\":1}");
    expect(404, "no point 99", "POST", "/collections/c/points/query", "{\"query\":99}");
    expect(200, "\"vector\":[0,1,0,0]", "GET", "/collections/c/points/3", NULL);
    expect(404, "no point 99", "GET", "/collections/c/points/99", NULL);
    expect(200, "\"next_page_offset\":3", "POST", "/collections/c/points/scroll", "{\"limit\":2}");
    expect(200, "\"next_page_offset\":null", "POST", "/collections/c/points/scroll",
           "{\"limit\":6}");
    expect(200, "[{\"points\":[{\"id\":3,", "POST", "/collections/c/points/query/batch",
           "{\"searches\":[{\"query\":[0,1,0,0],\"limit\":1},{\"query\":[1,0,0,0],\"limit\":3}]}");
    expect(200, "\"explain\":[{\"matched\":6,\"recall_asked\":0.75,\"nodes\":[{\"node\":\"fake",
           "POST", "/collections/c/points/search",
           "{\"vector\":[1,0,0,0],\"limit\":1,\"params\":{\"recall\":0.75,\"explain\":true}}");
    expect(200, "\"plan\":\"lists\",\"recall\":0.75,", "POST", "/collections/c/points/query",
           "{\"query\":[1,0,0,0],\"params\":{\"recall\":0.75,\"explain\":true}}");
    expect(200, "\"heads\":1,\"rows\":3,\"lists\":0,\"list_rows\":0,\"reranked\":2,", "POST",
           "/collections/c/points/query",
           "{\"query\":[1,0,0,0],\"params\":{\"indexed_only\":true,\"explain\":true,"
           "\"quantization\":{\"oversampling\":4}}}");
    expect(200, "\"explain\":[null,{\"matched\":6,\"recall_asked\":1,", "POST",
           "/collections/c/points/query/batch",
           "{\"searches\":[{\"query\":[0,1,0,0],\"limit\":1},{\"query\":[1,0,0,0],\"limit\":1,"
           "\"params\":{\"exact\":true,\"explain\":true}}]}");
    expect(200, "\"status\":\"acknowledged\"", "POST", "/collections/c/points/delete",
           "{\"points\":[2]}");
    expect(200, "\"count\":5", "POST", "/collections/c/points/count", "{}");
    expect(200, "\"points_count\":5", "GET", "/collections/c", NULL);
    expect(200, "\"metadata\":{\"a\":1}", "GET", "/collections/c", NULL);
    expect(200, "\"remote_shards\":[{\"shard_id\":0,", "GET", "/collections/c/cluster", NULL);
    expect(200,
           "\"result\":{\"sections\":{\"rows\":{\"file\":8192,\"mapped\":8192,\"resident\":2000,"
           "\"locked\":20}},\"total\":{\"file\":8192,",
           "GET", "/v1/collections/c/memory", NULL);
    expect(200, "\"lock\":{\"budget\":1048576,\"locked\":10,\"refused\":false}}]", "GET",
           "/v1/collections/c/memory", NULL);
    expect(200, "\"raft_info\"", "GET", "/cluster", NULL);
    expect(200, "rest_responses_total{method=\"GET\",endpoint=\"/\",status=\"200\"}", "GET",
           "/metrics", NULL);
}

/* A body too large to be read on the loop. */
static void test_pipeline_plans_large_bodies_in_the_pool(void **state)
{
    (void)state;
    struct kith_buf body = {.data = NULL};
    kith_buf_text(&body, "{\"points\":[");
    for (int i = 0; i < 2000; i++)
        kith_buf_printf(&body, "%s{\"id\":%d,\"vector\":[%d.5,0.25,-1e-3,0]}", i ? "," : "",
                        10 + i % 7, i);
    kith_buf_text(&body, "]}");
    kith_buf_byte(&body, 0);
    expect(200, "completed", "PUT", "/collections/c/points?wait=true", (const char *)body.data);
    expect(200, "\"result\":[{\"id\":10,", "POST", "/collections/c/points", "{\"ids\":[10]}");
    body.len -= 3;
    kith_buf_text(&body, ",3]}");
    kith_buf_byte(&body, 0);
    expect(400, "points[2000]: expected an object", "PUT", "/collections/c/points",
           (const char *)body.data);
    expect(200, "\nrecall_at_k{collection=\"c\",plan=\"lists\",selectivity=\"0.1\"} 0.75\n", "GET",
           "/metrics", NULL);
    expect(200, "selectivity=\"0.1\"} 8\n", "GET", "/metrics", NULL);
    expect(200,
           "\nkith_node_recall_at_k{collection=\"c\",plan=\"lists\",selectivity=\"0.1\","
           "node=\"fake1\"} 0.75\n",
           "GET", "/metrics", NULL);
    expect(200, "collection_points{id=\"c\"} 12", "GET", "/metrics", NULL);
    expect(200, "acknowledged", "POST", "/collections/c/points/delete",
           "{\"points\":[10,11,12,13,14,15,16]}");
    kith_buf_fini(&body);
}

static void test_pipeline_refuses_before_sending(void **state)
{
    (void)state;
    expect(400, "points[1].vector: expected 4 numbers, got 3", "PUT", "/collections/c/points",
           "{\"points\":[{\"id\":50,\"vector\":[1,0,0,0]},{\"id\":51,\"vector\":[1,0,0]}]}");
    expect(200, "\"result\":[]", "POST", "/collections/c/points", "{\"ids\":[50,51]}");
    expect(405, "not allowed", "GET", "/collections/c/facet", NULL);
    assert_string_equal(kith_http_response_header(&world.response, "Allow"), "POST");
    expect(404, "nothing at", "GET", "/nothing", NULL);
    expect(400, "not supported yet", "GET", "/collections/c/snapshots", NULL);
    expect(400, "wait", "PUT", "/collections/c/points?wait=maybe", "{\"points\":[]}");
    expect(400, "", "POST", "/collections/c/points/count", "{");
}

static void test_pipeline_encodes_texts(void **state)
{
    (void)state;
    expect(400, "vectors.size: is 8, but the encoder makes 16", "PUT", "/collections/t",
           "{\"vectors\":{\"size\":8,\"distance\":\"Cosine\"},"
           "\"encoder\":{\"kind\":\"ngram\",\"dim\":16}}");
    expect(400, "encoder.file", "PUT", "/collections/t",
           "{\"encoder\":{\"kind\":\"wordvec\",\"file\":\"none.txt\"}}");
    /* The fake shards hold one collection's points: the first one goes. */
    expect(200, "true", "DELETE", "/collections/c", NULL);
    expect(200, "false", "DELETE", "/collections/c", NULL);
    expect(200, "true", "PUT", "/collections/t", "{\"encoder\":{\"kind\":\"ngram\",\"dim\":16}}");
    expect(200, "acknowledged", "PUT", "/collections/t/points",
           "{\"points\":[{\"id\":1,\"vector\":{\"text\":\"happy birthday\"}},"
           "{\"id\":2,\"vector\":{\"text\":\"zzz\"}}]}");
    for (int i = 0; i < 2; i++)
        expect(200, "{\"points\":[{\"id\":1,", "POST", "/collections/t/points/query",
               "{\"query\":{\"text\":\"happy birthday\"},\"limit\":1}");
    expect(422, "query.text", "POST", "/collections/t/points/query",
           "{\"query\":{\"text\":\"   \"},\"limit\":1}");
    expect(200, "kith_encode_cache_hits_total 1", "GET", "/metrics", NULL);
    expect(200, "true", "DELETE", "/collections/t", NULL);
}

static void test_pipeline_never_answers_in_part_unasked(void **state)
{
    (void)state;
    static const struct {
        enum fake_mood mood;
        int read_status, write_status;
    } cases[] = {
        {FAKE_SILENT, 504, 504},      {FAKE_BUSY, 429, 429}, {FAKE_GARBAGE, 503, 503},
        {FAKE_OTHER_SLICE, 503, 503}, {FAKE_NAN, 503, 200},  {FAKE_HALF, 503, 500},
    };
    expect(200, "true", "PUT", "/collections/p",
           "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"shard_number\":4}");
    static const char upsert[] =
        "{\"points\":[{\"id\":1,\"vector\":[1,0,0,0]},"
        "{\"id\":2,\"vector\":[2,0,0,0]},{\"id\":3,\"vector\":[3,0,0,0]},"
        "{\"id\":4,\"vector\":[4,0,0,0]},{\"id\":5,\"vector\":[5,0,0,0]},"
        "{\"id\":6,\"vector\":[6,0,0,0]},{\"id\":7,\"vector\":[7,0,0,0]}]}";
    expect(200, "acknowledged", "PUT", "/collections/p/points", upsert);
    expect(200, "\"count\":7", "POST", "/collections/p/points/count", "{}");
    expect(200, "\"status\":\"green\",\"optimizer_status\":\"ok\"", "GET", "/collections/p", NULL);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fake_shard_mood(&world.shards[1], cases[i].mood);
        if (cases[i].mood == FAKE_HALF) /* slices that are there, and refuse writes */
            expect(200, "\"status\":\"red\",\"optimizer_status\":{\"error\":\"a slice takes no",
                   "GET", "/collections/p", NULL);
        expect(cases[i].read_status, "incomplete answer: slice", "POST",
               "/collections/p/points/query?timeout=1",
               "{\"query\":[1,0,0,0],\"params\":{\"deadline_ms\":300}}");
        expect(200, "\"complete\":false", "POST", "/collections/p/points/query",
               "{\"query\":[1,0,0,0],\"params\":{\"deadline_ms\":300,\"min_coverage\":0.2}}");
        assert_string_equal(kith_http_response_header(&world.response, "X-Search-Complete"),
                            "false");
        assert_non_null(strstr(body_text(), "\"total\":4"));
        expect(cases[i].read_status, "incomplete answer: slice", "POST",
               "/collections/p/points/query",
               "{\"query\":[1,0,0,0],\"params\":{\"deadline_ms\":300,\"min_coverage\":0.99}}");
        expect(cases[i].write_status,
               cases[i].write_status == 200 ? "acknowledged" : "write: slice", "PUT",
               "/collections/p/points?timeout=1", upsert);
        fake_shard_mood(&world.shards[1], FAKE_HONEST);
        expect(200, "\"complete\":true", "POST", "/collections/p/points/query",
               "{\"query\":[1,0,0,0],\"params\":{\"coverage\":true}}");
    }
    expect(200, "true", "DELETE", "/collections/p", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pipeline_serves_a_collection),
        cmocka_unit_test(test_pipeline_plans_large_bodies_in_the_pool),
        cmocka_unit_test(test_pipeline_refuses_before_sending),
        cmocka_unit_test(test_pipeline_encodes_texts),
        cmocka_unit_test(test_pipeline_never_answers_in_part_unasked),
    };
    return cmocka_run_group_tests(tests, open_world, close_world);
}
