#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/routes.h"

static enum kith_err find(enum gateway_method method, const char *a, const char *b, const char *c,
                          const char *d, const struct route **out, char *allow)
{
    const char *segments[] = {a, b, c, d};
    uint32_t n = 0;
    while (n < 4 && segments[n])
        n++;
    return routes_find(method, segments, n, out, allow);
}

static void test_routes_find_what_is_served(void **state)
{
    (void)state;
    char allow[ROUTES_ALLOW_BYTES];
    const struct route *route;
    assert_int_equal(find(GATEWAY_GET, NULL, NULL, NULL, NULL, &route, allow), KITH_OK);
    assert_ptr_equal(route->plan, plan_system_root);
    assert_int_equal(find(GATEWAY_GET, "collections", "x", NULL, NULL, &route, allow), KITH_OK);
    assert_ptr_equal(route->plan, plan_collections_info);
    assert_int_equal(find(GATEWAY_POST, "collections", "x", "points", "count", &route, allow),
                     KITH_OK);
    assert_ptr_equal(route->plan, plan_read_count);
    assert_int_equal(find(GATEWAY_GET, "collections", "x", "points", "17", &route, allow), KITH_OK);
    assert_ptr_equal(route->plan, plan_read_get);
    assert_int_equal(find(GATEWAY_PUT, "collections", "x", "points", "payload", &route, allow),
                     KITH_OK);
    assert_ptr_equal(route->plan, plan_points_overwrite_payload);
    assert_int_equal(find(GATEWAY_GET, "readyz", NULL, NULL, NULL, &route, allow), KITH_OK);
    assert_ptr_equal(route->plan, plan_system_ready);
}

static void test_routes_tell_404_from_405(void **state)
{
    (void)state;
    char allow[ROUTES_ALLOW_BYTES];
    const struct route *route = NULL;
    assert_int_equal(find(GATEWAY_GET, "nothing", NULL, NULL, NULL, &route, allow), KITH_NOT_FOUND);
    assert_int_equal(find(GATEWAY_GET, "collections", "x", "nothing", NULL, &route, allow),
                     KITH_NOT_FOUND);
    assert_int_equal(find(GATEWAY_POST, "collections", "x", NULL, NULL, &route, allow),
                     KITH_METHOD);
    assert_string_equal(allow, "PUT, GET, PATCH, DELETE");
    assert_int_equal(find(GATEWAY_DELETE, "collections", "x", "points", "query", &route, allow),
                     KITH_METHOD);
    assert_null(route);
}

/* No two routes are the same, and every collection route that needs one captures it at segment 1.
 */
static void test_routes_table_is_sound(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < routes_count(); i++) {
        const struct route *route = routes_at(i);
        assert_int_equal(routes_index(route), i);
        if (route->needs_collection)
            assert_non_null(strstr(route->pattern, "/collections/{collection}"));
        for (uint32_t j = i + 1; j < routes_count(); j++)
            assert_false(route->method == routes_at(j)->method &&
                         strcmp(route->pattern, routes_at(j)->pattern) == 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_routes_find_what_is_served),
        cmocka_unit_test(test_routes_tell_404_from_405),
        cmocka_unit_test(test_routes_table_is_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
