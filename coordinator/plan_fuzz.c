/* HTTP body -> plan. The first byte picks the route and the kind of collection; the rest is the
 * body. */
#include "coordinator/plan_fixture.h"

static const struct {
    enum gateway_method method;
    const char *path;
} routes[] = {
    {GATEWAY_PUT, "/collections/c"},
    {GATEWAY_PATCH, "/collections/c"},
    {GATEWAY_PUT, "/collections/c/index"},
    {GATEWAY_PUT, "/collections/c/points"},
    {GATEWAY_POST, "/collections/c/points"},
    {GATEWAY_POST, "/collections/c/points/delete"},
    {GATEWAY_POST, "/collections/c/points/payload"},
    {GATEWAY_PUT, "/collections/c/points/payload"},
    {GATEWAY_POST, "/collections/c/points/payload/delete"},
    {GATEWAY_POST, "/collections/c/points/payload/clear"},
    {GATEWAY_PUT, "/collections/c/points/vectors"},
    {GATEWAY_POST, "/collections/c/points/batch"},
    {GATEWAY_POST, "/collections/c/points/count"},
    {GATEWAY_POST, "/collections/c/points/scroll"},
    {GATEWAY_POST, "/collections/c/points/query"},
    {GATEWAY_POST, "/collections/c/points/query/batch"},
    {GATEWAY_POST, "/collections/c/points/search"},
    {GATEWAY_POST, "/collections/c/points/search/batch"},
    {GATEWAY_POST, "/collections/c/facet"},
};
#define N_ROUTES (sizeof(routes) / sizeof(routes[0]))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct plan_fixture fixture;
    size_t at = data[0] % N_ROUTES;
    bool named = (data[0] / N_ROUTES) & 1, encoder = (data[0] / N_ROUTES) & 2;
    enum kith_err err =
        plan_fixture_run(&fixture, routes[at].method, routes[at].path, (const char *)data + 1,
                         size - 1, named ? "v" : "", encoder);
    /* A refusal says why; a plan knows what to do. */
    kith_assert(err ? fixture.req.diag.text[0] != '\0' : fixture.req.work != NULL);
    plan_fixture_fini(&fixture);
    return 0;
}
