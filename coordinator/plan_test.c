#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "coordinator/plan_collections.h"
#include "coordinator/plan_fixture.h"
#include "coordinator/plan_points.h"
#include "coordinator/plan_query.h"
#include "coordinator/plan_read.h"

#define C      "/collections/c"
#define POINTS C "/points"

struct row {
    enum gateway_method method;
    const char *path;
    const char *body;
    enum kith_err err;
    const char *says; /* part of the message */
};

static void run_rows(const struct row *rows, size_t n, const char *vector_name, bool has_encoder)
{
    for (size_t i = 0; i < n; i++) {
        struct plan_fixture f;
        enum kith_err err = plan_fixture_run(&f, rows[i].method, rows[i].path, rows[i].body,
                                             strlen(rows[i].body), vector_name, has_encoder);
        if (err != rows[i].err || (rows[i].says && !strstr(f.req.diag.text, rows[i].says)))
            fail_msg("%s %s: got %s \"%s\", expected %s \"%s\"", rows[i].path, rows[i].body,
                     kith_err_name(err), f.req.diag.text, kith_err_name(rows[i].err),
                     rows[i].says ? rows[i].says : "");
        plan_fixture_fini(&f);
    }
}
#define RUN(rows_, name_, encoder_)                                                                \
    run_rows(rows_, sizeof(rows_) / sizeof((rows_)[0]), name_, encoder_)

#define Q   GATEWAY_POST, POINTS "/query"
#define S   GATEWAY_POST, POINTS "/search"
#define P   GATEWAY_PUT, POINTS
#define NEW GATEWAY_PUT, C

static void test_plan_query_bodies(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {Q, "{\"query\":[1,2,3,4]}", KITH_OK, NULL},
        {Q, "{\"query\":{\"nearest\":[1,2,3,4]},\"limit\":null}", KITH_OK, NULL},
        {Q, "{\"query\":7,\"with_payload\":true}", KITH_OK, NULL},
        {Q, "{\"query\":{\"text\":\"hi\"}}", KITH_OK, NULL},
        {Q, "{\"query\":{\"nearest\":{\"text\":\"hi\",\"model\":\"m\"}}}", KITH_OK, NULL},
        {Q, "{\"query\":\"550e8400-e29b-41d4-a716-446655440000\"}", KITH_OK, NULL},
        {Q, "{\"query\":[1,2,3,4],\"filter\":{\"must\":[{\"key\":\"a\",\"match\":{\"value\":1}}]}}",
         KITH_OK, NULL},
        {Q, "{\"query\":[1,2,3,4],\"params\":{\"hnsw_ef\":64,\"exact\":true,\"min_coverage\":0.5}}",
         KITH_OK, NULL},
        {Q, "", KITH_BAD_REQUEST, "body"},
        {Q, "[1]", KITH_BAD_REQUEST, "body: expected an object"},
        {Q, "{\"query\":[1,2,3]}", KITH_BAD_REQUEST, "query: expected 4 numbers, got 3"},
        {Q, "{\"query\":[1,2,3,\"x\"]}", KITH_BAD_REQUEST, "query[3]"},
        {Q, "{\"query\":[1,2,3,1e39]}", KITH_BAD_REQUEST, "query[3]"},
        {Q, "{\"query\":[[1,2,3,4]]}", KITH_UNSUPPORTED, "query: multivectors"},
        {Q, "{\"query\":{\"indices\":[1],\"values\":[1]}}", KITH_UNSUPPORTED, "query.indices"},
        {Q, "{\"query\":{\"recommend\":{\"positive\":[1]}}}", KITH_UNSUPPORTED, "query.recommend"},
        {Q, "{\"query\":{\"fusion\":\"rrf\"}}", KITH_UNSUPPORTED, "query.fusion"},
        {Q, "{\"query\":{\"order_by\":\"a\"}}", KITH_UNSUPPORTED, "query.order_by"},
        {Q, "{\"query\":{\"sample\":\"random\"}}", KITH_UNSUPPORTED, "query.sample"},
        {Q, "{\"query\":{\"formula\":{}}}", KITH_UNSUPPORTED, "query.formula"},
        {Q, "{\"query\":{\"nearest\":[1,2,3,4],\"mmr\":{}}}", KITH_UNSUPPORTED, "query.mmr"},
        {Q, "{\"query\":[1,2,3,4],\"prefetch\":[{}]}", KITH_UNSUPPORTED, "prefetch"},
        {Q, "{\"query\":[1,2,3,4],\"lookup_from\":{}}", KITH_UNSUPPORTED, "lookup_from"},
        {Q, "{\"query\":[1,2,3,4],\"shard_key\":\"a\"}", KITH_UNSUPPORTED, "shard_key"},
        {Q, "{\"query\":[1,2,3,4],\"limt\":3}", KITH_BAD_REQUEST, "limt: unknown field"},
        {Q, "{\"query\":[1,2,3,4],\"limit\":0}", KITH_BAD_REQUEST, "limit"},
        {Q, "{\"query\":[1,2,3,4],\"limit\":-1}", KITH_BAD_REQUEST, "limit"},
        {Q, "{\"query\":[1,2,3,4],\"limit\":1.5}", KITH_BAD_REQUEST, "limit"},
        {Q, "{\"query\":[1,2,3,4],\"limit\":10001}", KITH_BAD_REQUEST, "limit"},
        {Q, "{\"query\":[1,2,3,4],\"limit\":9000,\"offset\":2000}", KITH_BAD_REQUEST,
         "offset + limit"},
        {Q, "{\"query\":[1,2,3,4],\"using\":\"v\"}", KITH_BAD_REQUEST, "using"},
        {Q, "{\"query\":[1,2,3,4],\"score_threshold\":\"a\"}", KITH_BAD_REQUEST, "score_threshold"},
        {Q, "{\"query\":[1,2,3,4],\"with_payload\":3}", KITH_BAD_REQUEST, "with_payload"},
        {Q, "{\"query\":[1,2,3,4],\"with_vector\":[\"v\"]}", KITH_BAD_REQUEST, "with_vector"},
        {Q,
         "{\"query\":[1,2,3,4],\"filter\":{\"must\":[{\"key\":\"a\",\"range\":{\"gte\":\"x\"}}]}}",
         KITH_BAD_REQUEST, "filter.must[0]"},
        {Q, "{\"query\":[1,2,3,4],\"filter\":{\"muts\":[]}}", KITH_BAD_REQUEST, "filter"},
        {Q, "{\"query\":[1,2,3,4],\"filter\":[]}", KITH_BAD_REQUEST, "filter"},
        {Q, "{\"query\":[1,2,3,4],\"params\":{\"min_coverage\":2}}", KITH_BAD_REQUEST,
         "params.min_coverage"},
        {Q, "{\"query\":[1,2,3,4],\"params\":{\"indexed_only\":true}}", KITH_OK, NULL},
        {Q, "{\"query\":[1,2,3,4],\"params\":{\"recall\":0.9,\"explain\":true,\"exact\":false}}",
         KITH_OK, NULL},
        {Q, "{\"query\":[1,2,3,4],\"params\":{\"recall\":0.4}}", KITH_BAD_REQUEST,
         "params.recall: expected a number from 0.5 to 1"},
        {Q, "{\"query\":[1,2,3,4],\"params\":{\"recall\":1.1}}", KITH_BAD_REQUEST, "params.recall"},
        {Q, "{\"query\":[1,2,3,4],\"params\":{\"recall\":\"x\"}}", KITH_BAD_REQUEST,
         "params.recall"},
        {Q, "{\"query\":[1,2,3,4],\"params\":{\"recall\":0.9,\"hnsw_ef\":64}}", KITH_BAD_REQUEST,
         "params.recall: not together with hnsw_ef"},
        {Q, "{\"query\":[1,2,3,4],\"params\":{\"hnsw_ef\":0}}", KITH_BAD_REQUEST,
         "params.hnsw_ef: must be at least 1"},
        {Q, "{\"query\":[1,2,3,4],\"params\":{\"exact\":1}}", KITH_BAD_REQUEST,
         "params.exact: expected true or false"},
        {Q, "{\"query\":[1,2,3,4],\"params\":{\"explain\":1}}", KITH_BAD_REQUEST, "params.explain"},
        {Q,
         "{\"query\":[1,2,3,4],\"params\":{\"quantization\":{\"ignore\":true,\"rescore\":false,"
         "\"oversampling\":2.5}}}",
         KITH_OK, NULL},
        {Q, "{\"query\":[1,2,3,4],\"params\":{\"quantization\":{\"oversampling\":0.5}}}",
         KITH_BAD_REQUEST, "params.quantization.oversampling"},
        {Q, "{\"query\":[1,2,3,4],\"params\":{\"quantization\":{\"rescore\":3}}}", KITH_BAD_REQUEST,
         "params.quantization.rescore"},
        {Q, "{\"query\":[1,2,3,4],\"params\":{\"quantization\":{\"ignored\":true}}}",
         KITH_BAD_REQUEST, "params.quantization.ignored: unknown field"},
        {Q, "{\"query\":[1,2,3,4],\"params\":{\"idf\":{}}}", KITH_UNSUPPORTED, "params.idf"},
        {Q, "{\"query\":-1}", KITH_BAD_REQUEST, "query: expected a point id"},
        {Q, "{\"query\":\"nope\"}", KITH_BAD_REQUEST, "query: expected a point id"},
        {Q, "{\"query\":true}", KITH_BAD_REQUEST, "query"},
        {Q, "{}", KITH_UNSUPPORTED, "query"},
        {Q, "{\"query\":{\"text\":\"\"}}", KITH_UNPROCESSABLE, "query.text"},
        {Q, "{\"query\":{\"text\":3}}", KITH_BAD_REQUEST, "query.text"},
        {Q, "{\"query\":{\"text\":\"a\",\"options\":{\"x\":1}}}", KITH_UNSUPPORTED,
         "query.options"},
        {Q, "{\"query\":[1,2,3,4],\"query\":[1,2,3,4]}", KITH_BAD_REQUEST, NULL},
        {GATEWAY_POST, POINTS "/query/batch",
         "{\"searches\":[{\"query\":[1,2,3,4]},{\"query\":2}]}", KITH_OK, NULL},
        {GATEWAY_POST, POINTS "/query/batch", "{\"searches\":[]}", KITH_OK, NULL},
        {GATEWAY_POST, POINTS "/query/batch",
         "{\"searches\":[{\"query\":[1,2,3,4]},{\"query\":[1]}]}", KITH_BAD_REQUEST,
         "searches[1].query: expected 4 numbers, got 1"},
        {S, "{\"vector\":[1,2,3,4],\"limit\":3}", KITH_OK, NULL},
        {S, "{\"vector\":[1,2,3,4],\"top\":3}", KITH_OK, NULL},
        {S, "{\"vector\":[1,2,3,4]}", KITH_BAD_REQUEST, "limit"},
        {S, "{\"vector\":{\"name\":\"v\",\"vector\":[1,2,3,4]},\"limit\":3}", KITH_BAD_REQUEST,
         "vector"},
        {S, "{\"vector\":7,\"limit\":3}", KITH_BAD_REQUEST, "vector"},
        {S, "{\"limit\":3}", KITH_BAD_REQUEST, "vector"},
    };
    RUN(rows, "", true);
    static const struct row no_encoder[] = {
        {Q, "{\"query\":{\"text\":\"hi\"}}", KITH_BAD_REQUEST, "no encoder"}};
    RUN(no_encoder, "", false);
    static const struct row named[] = {
        {Q, "{\"query\":[1,2,3,4],\"using\":\"v\"}", KITH_OK, NULL},
        {Q, "{\"query\":[1,2,3,4]}", KITH_BAD_REQUEST, "using"},
        {Q, "{\"query\":[1,2,3,4],\"using\":\"w\"}", KITH_BAD_REQUEST, "using"},
        {S, "{\"vector\":{\"name\":\"v\",\"vector\":[1,2,3,4]},\"limit\":3}", KITH_OK, NULL},
        {S, "{\"vector\":[1,2,3,4],\"limit\":3}", KITH_BAD_REQUEST, "`v`"},
        {P, "{\"points\":[{\"id\":1,\"vector\":{\"v\":[1,2,3,4]}}]}", KITH_OK, NULL},
        {P, "{\"points\":[{\"id\":1,\"vector\":{\"w\":[1,2,3,4]}}]}", KITH_BAD_REQUEST,
         "points[0].vector"},
        {P, "{\"batch\":{\"ids\":[1],\"vectors\":{\"v\":[[1,2,3,4]]}}}", KITH_OK, NULL},
    };
    RUN(named, "v", false);
}

static void test_plan_write_bodies(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {P, "{\"points\":[{\"id\":1,\"vector\":[1,2,3,4],\"payload\":{\"a\":[1,{\"b\":null}]}}]}",
         KITH_OK, NULL},
        {P, "{\"points\":[{\"id\":1,\"vector\":{\"text\":\"hi\"},\"payload\":null}]}", KITH_OK,
         NULL},
        {P, "{\"points\":[]}", KITH_OK, NULL},
        {P, "{\"batch\":{\"ids\":[1,2],\"vectors\":[[1,2,3,4],[1,2,3,4]],\"payloads\":[{},null]}}",
         KITH_OK, NULL},
        {P, "{\"points\":[{\"id\":1,\"vector\":[1,2,3,4]},{\"id\":2,\"vector\":[1,2,3]}]}",
         KITH_BAD_REQUEST, "points[1].vector: expected 4 numbers, got 3"},
        {P, "{\"points\":[{\"id\":-1,\"vector\":[1,2,3,4]}]}", KITH_BAD_REQUEST, "points[0].id"},
        {P, "{\"points\":[{\"id\":1.5,\"vector\":[1,2,3,4]}]}", KITH_BAD_REQUEST, "points[0].id"},
        {P, "{\"points\":[{\"id\":\"abc\",\"vector\":[1,2,3,4]}]}", KITH_BAD_REQUEST,
         "points[0].id"},
        {P, "{\"points\":[{\"vector\":[1,2,3,4]}]}", KITH_BAD_REQUEST, "points[0].id"},
        {P, "{\"points\":[{\"id\":1}]}", KITH_BAD_REQUEST, "points[0].vector"},
        {P, "{\"points\":[{\"id\":1,\"vector\":[1,2,3,4],\"payload\":[]}]}", KITH_BAD_REQUEST,
         "points[0].payload"},
        {P, "{\"points\":[{\"id\":1,\"vector\":[1,2,3,4],\"extra\":1}]}", KITH_BAD_REQUEST,
         "points[0].extra"},
        {P, "{\"points\":{}}", KITH_BAD_REQUEST, "points"},
        {P, "{\"points\":[1]}", KITH_BAD_REQUEST, "points[0]"},
        {P, "{}", KITH_BAD_REQUEST, "points"},
        {P, "{\"points\":[],\"batch\":{}}", KITH_BAD_REQUEST, "points"},
        {P, "{\"points\":[],\"update_mode\":\"x\"}", KITH_BAD_REQUEST, "update_mode"},
        {P, "{\"points\":[],\"update_filter\":{}}", KITH_UNSUPPORTED, "update_filter"},
        {P, "{\"batch\":{\"ids\":[1,2],\"vectors\":[[1,2,3,4]]}}", KITH_BAD_REQUEST,
         "batch.vectors"},
        {P, "{\"batch\":{\"ids\":[1,2],\"vectors\":[[1,2,3,4],[1]]}}", KITH_BAD_REQUEST,
         "batch.vectors[1]: expected 4 numbers, got 1"},
        {P, "{\"batch\":{\"ids\":[1],\"vectors\":[[1,2,3,4]],\"payloads\":[]}}", KITH_BAD_REQUEST,
         "batch.payloads"},
        {GATEWAY_POST, POINTS "/delete",
         "{\"points\":[1,\"550e8400-e29b-41d4-a716-446655440000\"]}", KITH_OK, NULL},
        {GATEWAY_POST, POINTS "/delete", "{\"filter\":{\"must\":{\"has_id\":[1]}}}", KITH_OK, NULL},
        {GATEWAY_POST, POINTS "/delete", "{}", KITH_BAD_REQUEST, "points"},
        {GATEWAY_POST, POINTS "/delete", "{\"points\":[1],\"filter\":{}}", KITH_BAD_REQUEST,
         "points"},
        {GATEWAY_POST, POINTS "/delete", "{\"points\":[-1]}", KITH_BAD_REQUEST, "points[0]"},
        {GATEWAY_POST, POINTS "/payload", "{\"payload\":{\"a\":1},\"points\":[1],\"key\":\"b.c\"}",
         KITH_OK, NULL},
        {GATEWAY_POST, POINTS "/payload", "{\"points\":[1]}", KITH_BAD_REQUEST, "payload"},
        {GATEWAY_PUT, POINTS "/payload", "{\"payload\":{},\"filter\":{}}", KITH_OK, NULL},
        {GATEWAY_POST, POINTS "/payload/delete", "{\"keys\":[\"a\"],\"points\":[1]}", KITH_OK,
         NULL},
        {GATEWAY_POST, POINTS "/payload/delete", "{\"keys\":[1],\"points\":[1]}", KITH_BAD_REQUEST,
         "keys[0]"},
        {GATEWAY_POST, POINTS "/payload/delete", "{\"points\":[1]}", KITH_BAD_REQUEST, "keys"},
        {GATEWAY_POST, POINTS "/payload/clear", "{\"points\":[1]}", KITH_OK, NULL},
        {GATEWAY_PUT, POINTS "/vectors", "{\"points\":[{\"id\":1,\"vector\":[1,2,3,4]}]}", KITH_OK,
         NULL},
        {GATEWAY_PUT, POINTS "/vectors",
         "{\"points\":[{\"id\":1,\"vector\":[1,2,3,4],\"payload\":{}}]}", KITH_BAD_REQUEST,
         "points[0].payload"},
        {GATEWAY_POST, POINTS "/batch",
         "{\"operations\":[{\"upsert\":{\"points\":[{\"id\":1,\"vector\":[1,2,3,4]}]}},"
         "{\"delete\":{\"points\":[1]}},{\"clear_payload\":{\"points\":[2]}}]}",
         KITH_OK, NULL},
        {GATEWAY_POST, POINTS "/batch",
         "{\"operations\":[{\"delete\":{\"points\":[1]},\"upsert\":{}}]}", KITH_BAD_REQUEST,
         "operations[0]"},
        {GATEWAY_POST, POINTS "/batch", "{\"operations\":[{\"delete_vectors\":{}}]}",
         KITH_UNSUPPORTED, "operations[0].delete_vectors"},
        {GATEWAY_POST, POINTS "/batch", "{\"operations\":[{\"set_payload\":{\"points\":[1]}}]}",
         KITH_BAD_REQUEST, "operations[0].set_payload.payload"},
    };
    RUN(rows, "", true);
}

static void test_plan_read_bodies(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {GATEWAY_POST, POINTS, "{\"ids\":[1,2],\"with_payload\":[\"a\"],\"with_vector\":true}",
         KITH_OK, NULL},
        {GATEWAY_POST, POINTS, "{\"ids\":[1,true]}", KITH_BAD_REQUEST, "ids[1]"},
        {GATEWAY_POST, POINTS, "{}", KITH_BAD_REQUEST, "ids"},
        {GATEWAY_GET, POINTS "/17", "", KITH_OK, NULL},
        {GATEWAY_GET, POINTS "/550e8400-e29b-41d4-a716-446655440000", "", KITH_OK, NULL},
        {GATEWAY_GET, POINTS "/18446744073709551615", "", KITH_OK, NULL},
        {GATEWAY_GET, POINTS "/18446744073709551616", "", KITH_BAD_REQUEST, "id"},
        {GATEWAY_GET, POINTS "/abc", "", KITH_BAD_REQUEST, "id"},
        {GATEWAY_POST, POINTS "/count", "{\"exact\":true}", KITH_OK, NULL},
        {GATEWAY_POST, POINTS "/count", "{\"filter\":3}", KITH_BAD_REQUEST, "filter"},
        {GATEWAY_POST, POINTS "/scroll", "{}", KITH_OK, NULL},
        {GATEWAY_POST, POINTS "/scroll", "{\"order_by\":\"a\"}", KITH_OK, NULL},
        {GATEWAY_POST, POINTS "/scroll", "{\"order_by\":{\"key\":\"a\",\"direction\":\"up\"}}",
         KITH_BAD_REQUEST, "order_by.direction"},
        {GATEWAY_POST, POINTS "/scroll", "{\"order_by\":\"a\",\"offset\":3}", KITH_BAD_REQUEST,
         "offset"},
        {GATEWAY_POST, POINTS "/scroll", "{\"limit\":0}", KITH_BAD_REQUEST, "limit"},
        {GATEWAY_POST, C "/facet", "{\"key\":\"a\"}", KITH_OK, NULL},
        {GATEWAY_POST, C "/facet", "{}", KITH_BAD_REQUEST, "key"},
    };
    RUN(rows, "", false);
}

static void test_plan_collection_bodies(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {NEW, "{\"vectors\":{\"size\":4,\"distance\":\"Cosine\"}}", KITH_OK, NULL},
        {NEW, "{\"vectors\":{\"v\":{\"size\":4,\"distance\":\"Dot\"}}}", KITH_OK, NULL},
        {NEW, "{\"encoder\":{\"kind\":\"ngram\",\"dim\":512}}", KITH_OK, NULL},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Euclid\",\"datatype\":\"float16\",\"on_disk\":"
         "true},"
         "\"hnsw_config\":{\"m\":8},\"shard_number\":3,\"quantization_config\":null,"
         "\"metadata\":{\"a\":1}}",
         KITH_OK, NULL},
        {NEW, "{}", KITH_BAD_REQUEST, "vectors"},
        {NEW, "{\"vectors\":{}}", KITH_BAD_REQUEST, "vectors.size"},
        {NEW, "{\"vectors\":{\"size\":0,\"distance\":\"Cosine\"}}", KITH_BAD_REQUEST,
         "vectors.size"},
        {NEW, "{\"vectors\":{\"size\":8193,\"distance\":\"Cosine\"}}", KITH_BAD_REQUEST,
         "vectors.size"},
        {NEW, "{\"vectors\":{\"size\":4,\"distance\":\"L3\"}}", KITH_BAD_REQUEST,
         "vectors.distance"},
        {NEW, "{\"vectors\":{\"size\":4}}", KITH_BAD_REQUEST, "vectors.distance"},
        {NEW, "{\"vectors\":{\"a\":{\"size\":4,\"distance\":\"Dot\"},\"b\":{}}}", KITH_UNSUPPORTED,
         "vectors"},
        {NEW, "{\"vectors\":{\"size\":4,\"distance\":\"Dot\",\"datatype\":\"uint8\"}}",
         KITH_UNSUPPORTED, "vectors.datatype"},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization_config\":{\"scalar\":{}}}",
         KITH_BAD_REQUEST, "quantization_config.scalar.type: required"},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization_config\":{\"scalar\":{"
         "\"type\":\"int4\"}}}",
         KITH_BAD_REQUEST, "quantization_config.scalar.type: expected int8"},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization_config\":{\"scalar\":{"
         "\"type\":\"int8\",\"quantile\":0.4}}}",
         KITH_BAD_REQUEST, "quantization_config.scalar.quantile"},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization_config\":{\"scalar\":{"
         "\"type\":\"int8\",\"always_ram\":1}}}",
         KITH_BAD_REQUEST, "quantization_config.scalar.always_ram: expected true or false"},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization_config\":{\"scalar\":{"
         "\"type\":\"int8\",\"quantil\":1}}}",
         KITH_BAD_REQUEST, "quantization_config.scalar.quantil: unknown field"},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization_config\":{\"product\":{}}}",
         KITH_BAD_REQUEST, "quantization_config.product.compression: required"},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization_config\":{\"product\":{"
         "\"compression\":\"x5\"}}}",
         KITH_BAD_REQUEST, "quantization_config.product.compression"},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization_config\":{\"product\":{"
         "\"compression\":\"x64\"}}}",
         KITH_OK, NULL},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization_config\":{\"binary\":{"
         "\"encoding\":\"three\"}}}",
         KITH_BAD_REQUEST, "quantization_config.binary.encoding"},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization_config\":{\"binary\":{"
         "\"always_ram\":true}}}",
         KITH_OK, NULL},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization_config\":{\"turbo\":{}}}",
         KITH_UNSUPPORTED, "quantization_config.turbo"},
        {NEW, "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization_config\":{}}",
         KITH_BAD_REQUEST, "quantization_config: expected one of"},
        {NEW, "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization_config\":\"int8\"}",
         KITH_BAD_REQUEST, "quantization_config: expected an object"},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization_config\":{\"binary\":{},"
         "\"product\":{\"compression\":\"x4\"}}}",
         KITH_BAD_REQUEST, "quantization_config: expected one of"},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization\":\"int8\",\"quantization_"
         "config\":{\"binary\":{}}}",
         KITH_BAD_REQUEST, "quantization: not together"},
        {NEW, "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"index\":\"hnsw\"}",
         KITH_BAD_REQUEST, "index: expected \"faiss:\" and a factory string"},
        {NEW, "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"index\":\"faiss:\"}",
         KITH_BAD_REQUEST, "index: expected"},
        {NEW, "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"index\":7}", KITH_BAD_REQUEST,
         "index: expected a text"},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"index\":\"faiss:SQ8\","
         "\"quantization\":\"int8\"}",
         KITH_BAD_REQUEST, "index: not together with quantization"},
        {NEW, "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization\":\"int9\"}",
         KITH_BAD_REQUEST, "quantization: expected auto, none"},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"quantization\":\"pq4\",\"hnsw_config\":{"
         "\"m\":0}}",
         KITH_BAD_REQUEST, "hnsw_config.m: 0 means no index"},
        {NEW, "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"hnsw_config\":7}", KITH_BAD_REQUEST,
         "hnsw_config: expected an object"},
        {NEW, "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"hnsw_config\":{\"m\":-1}}",
         KITH_BAD_REQUEST, "hnsw_config.m"},
        {NEW, "{\"vectors\":{\"size\":4,\"distance\":\"Manhattan\"},\"quantization\":\"pq4\"}",
         KITH_UNSUPPORTED, "quantization: product codes are not supported with Manhattan"},
        {NEW,
         "{\"vectors\":{\"size\":4,\"distance\":\"Dot\",\"datatype\":\"float32\"},"
         "\"quantization\":\"f16\"}",
         KITH_BAD_REQUEST, "quantization: f16 is not float32"},
        {NEW, "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"sparse_vectors\":{\"s\":{}}}",
         KITH_UNSUPPORTED, "sparse_vectors"},
        {NEW, "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"replication_factor\":2}",
         KITH_UNSUPPORTED, "replication_factor"},
        {NEW, "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"shard_number\":257}",
         KITH_BAD_REQUEST, "shard_number"},
        {NEW, "{\"encoder\":{\"kind\":\"magic\"}}", KITH_BAD_REQUEST, "encoder.kind"},
        {NEW, "{\"encoder\":{\"kind\":\"wordvec\"}}", KITH_BAD_REQUEST, "encoder.file"},
        {NEW, "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"},\"metadata\":3}", KITH_BAD_REQUEST,
         "metadata"},
        {GATEWAY_PUT, "/collections/a.b", "{\"vectors\":{\"size\":4,\"distance\":\"Dot\"}}",
         KITH_BAD_REQUEST, "collection_name"},
        {GATEWAY_PATCH, C, "{\"optimizers_config\":{}}", KITH_OK, NULL},
        {GATEWAY_PUT, C "/index", "{\"field_name\":\"a\",\"field_schema\":\"keyword\"}", KITH_OK,
         NULL},
        {GATEWAY_PUT, C "/index", "{\"field_name\":\"a\",\"field_schema\":{\"type\":\"integer\"}}",
         KITH_OK, NULL},
        {GATEWAY_PUT, C "/index", "{\"field_name\":\"a\",\"field_schema\":\"geo\"}",
         KITH_UNSUPPORTED, "field_schema"},
        {GATEWAY_PUT, C "/index", "{}", KITH_BAD_REQUEST, "field_name"},
        {GATEWAY_POST, "/collections/aliases", "{}", KITH_UNSUPPORTED, "not supported yet"},
    };
    RUN(rows, "", false);
}

static enum kith_err create(const char *more, enum kith_index *index, enum kith_row_type *rows)
{
    struct plan_fixture f;
    char body[512];
    (void)snprintf(body, sizeof body, "{\"vectors\":{\"size\":4,\"distance\":%s}", more);
    enum kith_err err = plan_fixture_run(&f, NEW, body, strlen(body), "", false);
    if (err == KITH_OK) {
        const struct create_plan *plan = f.req.plan;
        *index = plan->spec.index;
        *rows = plan->spec.rows;
    }
    plan_fixture_fini(&f);
    return err;
}

static void test_plan_create_maps_words_to_indexes(void **state)
{
    (void)state;
    static const struct {
        const char *more;
        enum kith_index index;
        enum kith_row_type rows;
    } cases[] = {
        {"\"Dot\"}", KITH_INDEX_PQ4, KITH_ROWS_F32},
        {"\"Manhattan\"}", KITH_INDEX_INT8, KITH_ROWS_F32},
        {"\"Dot\"},\"quantization\":\"auto\"", KITH_INDEX_PQ4, KITH_ROWS_F32},
        {"\"Dot\"},\"quantization\":\"none\"", KITH_INDEX_ROWS, KITH_ROWS_F32},
        {"\"Dot\"},\"quantization\":\"f16\"", KITH_INDEX_ROWS, KITH_ROWS_F16},
        {"\"Dot\"},\"quantization\":\"int8\"", KITH_INDEX_INT8, KITH_ROWS_F32},
        {"\"Dot\",\"datatype\":\"float16\"},\"quantization\":\"pq4\"", KITH_INDEX_PQ4,
         KITH_ROWS_F16},
        {"\"Dot\"},\"hnsw_config\":{\"m\":0}", KITH_INDEX_NONE, KITH_ROWS_F32},
        {"\"Dot\",\"hnsw_config\":{\"m\":0}},\"hnsw_config\":{\"m\":8}", KITH_INDEX_NONE,
         KITH_ROWS_F32},
        {"\"Dot\"},\"quantization_config\":{\"scalar\":{\"type\":\"int8\"}}", KITH_INDEX_INT8,
         KITH_ROWS_F32},
        {"\"Dot\"},\"quantization_config\":{\"product\":{\"compression\":\"x4\"}}", KITH_INDEX_INT8,
         KITH_ROWS_F32},
        {"\"Dot\"},\"quantization_config\":{\"product\":{\"compression\":\"x16\"}}", KITH_INDEX_PQ4,
         KITH_ROWS_F32},
        {"\"Dot\",\"quantization_config\":{\"scalar\":{\"type\":\"int8\"}}},"
         "\"quantization_config\":{\"binary\":{}}",
         KITH_INDEX_INT8, KITH_ROWS_F32},
        {"\"Dot\"},\"index\":\"faiss:HNSW32,Flat\"", KITH_INDEX_FAISS, KITH_ROWS_F32},
        {"\"Dot\",\"index\":\"faiss:SQ8\",\"datatype\":\"float16\"}", KITH_INDEX_FAISS,
         KITH_ROWS_F16},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        enum kith_index index = KITH_INDEX_NONE;
        enum kith_row_type rows = KITH_ROWS_F32;
        assert_int_equal(create(cases[i].more, &index, &rows), KITH_OK);
        assert_int_equal(index, cases[i].index);
        assert_int_equal(rows, cases[i].rows);
    }
}

/* A wider beam never asks for less, and an answer as wide as the beam for the least. */
static void test_plan_effort_grows_with_the_beam(void **state)
{
    (void)state;
    float before = 0;
    for (uint32_t ef = 1; ef < 100000; ef += 1 + ef / 7) {
        float recall = plan_effort_of_beam(ef, 10);
        assert_true(recall >= before && recall >= 0.849f && recall < 1);
        before = recall;
    }
    assert_true(plan_effort_of_beam(30, 10) > 0.949f && plan_effort_of_beam(30, 10) < 0.951f);
    assert_true(plan_effort_of_beam(100, 0) < 1 && plan_effort_of_beam(UINT32_MAX, 1) < 1);
}

static void test_plan_query_reads_what_was_said(void **state)
{
    (void)state;
    static const char body[] =
        "{\"searches\":[{\"query\":[1,2,3,4],\"limit\":5,\"offset\":2,\"score_threshold\":0.5,"
        "\"with_payload\":{\"exclude\":[\"a[].b\"]},\"params\":{\"min_coverage\":0.5}},"
        "{\"query\":9,\"params\":{\"min_coverage\":0.7,\"coverage\":true,\"deadline_ms\":250}}]}";
    struct plan_fixture f;
    assert_int_equal(
        plan_fixture_run(&f, GATEWAY_POST, POINTS "/query/batch", body, strlen(body), "", false),
        KITH_OK);
    const struct query_plan *plan = f.req.plan;
    assert_int_equal(plan->n, 2);
    assert_int_equal(plan->queries[0].k, 7);
    assert_true(plan->queries[0].has_threshold && plan->queries[0].threshold == 0.5F);
    assert_true(plan->queries[0].vector[3] == 4.0F);
    assert_int_equal(plan->queries[0].payload.kind, SELECTOR_EXCLUDE);
    assert_string_equal(plan->queries[0].payload.paths[0], "a.b");
    assert_int_equal(plan->queries[1].k, 11); /* one more: the point itself is left out */
    assert_int_equal(f.req.n_lookups, 1);
    assert_true(f.req.allow_partial && f.req.min_coverage == 0.7 && f.req.want_coverage);
    assert_int_equal(f.req.timeout_ms, 250);
    plan_fixture_fini(&f);
}

/* Every allocation may fail: a plan then says so and leaks nothing. */
static void test_plan_survives_each_oom(void **state)
{
    (void)state;
    static const char upsert[] =
        "{\"points\":[{\"id\":1,\"vector\":{\"text\":\"hi\"},\"payload\":{\"a\":1}},"
        "{\"id\":2,\"vector\":[1,2,3,4]}]}";
    static const char query[] = "{\"query\":{\"text\":\"a\"},\"filter\":{\"must\":[]},"
                                "\"with_payload\":[\"a\",\"b\"]}";
    long live = kith_mem_live();
    for (long n = 0; n < 40; n++) {
        struct plan_fixture f;
        for (int which = 0; which < 2; which++) {
            const char *body = which ? query : upsert;
            kith_mem_fail_after(n);
            enum kith_err err =
                plan_fixture_run(&f, which ? GATEWAY_POST : GATEWAY_PUT,
                                 which ? POINTS "/query" : POINTS, body, strlen(body), "", true);
            kith_mem_fail_after(-1);
            assert_true(err == KITH_OK || err == KITH_NOMEM);
            plan_fixture_fini(&f);
        }
    }
    assert_true(kith_mem_live() <= live + 1); /* a parser kept for reuse */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_query_bodies),
        cmocka_unit_test(test_plan_write_bodies),
        cmocka_unit_test(test_plan_read_bodies),
        cmocka_unit_test(test_plan_collection_bodies),
        cmocka_unit_test(test_plan_create_maps_words_to_indexes),
        cmocka_unit_test(test_plan_effort_grows_with_the_beam),
        cmocka_unit_test(test_plan_query_reads_what_was_said),
        cmocka_unit_test(test_plan_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
