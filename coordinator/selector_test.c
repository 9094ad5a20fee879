#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "coordinator/plan_fixture.h"
#include "coordinator/plan_read.h"

static const char payload[] =
    "{\"a\":1,\"b\":{\"c\":2,\"d\":{\"e\":3}},\"l\":[{\"x\":1,\"y\":2},{\"y\":3},4],"
    "\"ab\":5}";

/* The payload as the selector of a retrieve request shows it. */
static void expect(const char *selector, const char *shown)
{
    struct plan_fixture f;
    char body[512];
    snprintf(body, sizeof(body), "{\"ids\":[1],\"with_payload\":%s,\"params\":{}}", selector);
    enum kith_err err =
        plan_fixture_run(&f, GATEWAY_POST, "/collections/c/points", body, strlen(body), "", false);
    assert_int_equal(err, KITH_OK);
    const struct retrieve_plan *plan = f.req.plan;

    char padded[sizeof(payload) + KITH_JSON_PADDING];
    memset(padded, 0, sizeof(padded));
    memcpy(padded, payload, sizeof(payload));
    struct kith_json_doc *doc = NULL;
    struct kith_bytes bytes;
    assert_int_equal(kith_json_open(&doc, padded, strlen(payload), NULL), KITH_OK);
    assert_int_equal(plan_msgpack(&f.req, kith_json_root(doc), &bytes, NULL), KITH_OK);
    kith_json_close(doc);

    struct kith_buf out = {.data = NULL};
    struct kith_json_writer w = {.buf = &out};
    selector_write(&plan->payload, bytes, &w);
    kith_buf_byte(&out, 0);
    assert_string_equal((const char *)out.data, shown);
    kith_buf_fini(&out);
    plan_fixture_fini(&f);
}

static void test_selector_includes(void **state)
{
    (void)state;
    expect("true", payload);
    expect("[\"a\"]", "{\"a\":1}");
    expect("[\"b.c\"]", "{\"b\":{\"c\":2}}");
    expect("[\"b.d\"]", "{\"b\":{\"d\":{\"e\":3}}}");
    expect("{\"include\":[\"l[].x\",\"ab\"]}", "{\"l\":[{\"x\":1},{},4],\"ab\":5}");
    expect("[\"nothing\"]", "{}");
    expect("[]", "{}");
}

static void test_selector_excludes(void **state)
{
    (void)state;
    expect("{\"exclude\":[\"a\",\"l\",\"b.d\"]}", "{\"b\":{\"c\":2},\"ab\":5}");
    expect("{\"exclude\":[\"l.y\",\"b\"]}", "{\"a\":1,\"l\":[{\"x\":1},{},4],\"ab\":5}");
    expect("{\"exclude\":[]}", payload);
}

static void test_selector_shows_an_empty_payload(void **state)
{
    (void)state;
    struct kith_buf out = {.data = NULL};
    struct kith_json_writer w = {.buf = &out};
    struct selector all = {.kind = SELECTOR_ALL};
    selector_write(&all, (struct kith_bytes){NULL, 0}, &w);
    assert_int_equal(out.len, 2);
    assert_memory_equal(out.data, "{}", 2);
    kith_buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_selector_includes),
        cmocka_unit_test(test_selector_excludes),
        cmocka_unit_test(test_selector_shows_an_empty_payload),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
