/* What it costs to read a query's vector from JSON: Kith's reader (simdjson), jansson when it was
 * found, and strtof alone as the floor of a parser that converts digits one number at a time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_json.h"
#ifdef HAVE_JANSSON
#include <jansson.h>
#endif

#define DIM    768
#define ROUNDS 9
#define TIMES  2000

static char text[64 * 1024];
static size_t text_len;
static float vector[DIM];

static void make_query(void)
{
    unsigned seed = 1;
    size_t at = (size_t)snprintf(text, sizeof text, "{\"query\":[");
    for (int i = 0; i < DIM; i++)
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%.8g", i > 0 ? "," : "",
                               (double)rand_r(&seed) / RAND_MAX * 0.2 - 0.1);
    text_len = at + (size_t)snprintf(text + at, sizeof text - at, "],\"limit\":10}");
}

static float read_kith(void)
{
    struct kith_json_doc *doc = NULL;
    struct kith_json query;
    if (kith_json_open(&doc, text, text_len, NULL) != KITH_OK ||
        !kith_json_get(kith_json_root(doc), "query", &query) ||
        kith_json_f32s(query, vector, DIM, "query", NULL) != KITH_OK)
        abort();
    kith_json_close(doc);
    return vector[DIM - 1];
}

#ifdef HAVE_JANSSON
static float read_jansson(void)
{
    json_t *root = json_loadb(text, text_len, 0, NULL);
    json_t *query = json_object_get(root, "query");
    for (size_t i = 0; i < DIM; i++)
        vector[i] = (float)json_number_value(json_array_get(query, i));
    json_decref(root);
    return vector[DIM - 1];
}
#endif

static float read_strtof(void)
{
    char *at = strchr(text, '[');
    for (int i = 0; i < DIM; i++)
        vector[i] = strtof(at + 1, &at);
    return vector[DIM - 1];
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_us(float (*read)(void))
{
    double us[ROUNDS];
    volatile float sink = 0;
    for (int r = 0; r < ROUNDS; r++) {
        uint64_t start = kith_now_ns();
        for (int i = 0; i < TIMES; i++)
            sink = sink + read();
        us[r] = (double)(kith_now_ns() - start) / 1000 / TIMES;
    }
    qsort(us, ROUNDS, sizeof us[0], by_value);
    return us[ROUNDS / 2];
}

static void report(const char *name, double us, double ours)
{
    fprintf(stderr, "%-24s %8.1f us   %5.1f x\n", name, us, us / ours);
    printf("{\"bench\":\"json\",\"case\":\"%s\",\"value\":%.2f,\"unit\":\"us\",\"ratio\":%.2f}\n",
           name, us, us / ours);
}

int main(void)
{
    make_query();
    fprintf(stderr, "a query of %d floats, %zu bytes, median of %d rounds\n", DIM, text_len,
            ROUNDS);
    double ours = median_us(read_kith);
    report("kith", ours, ours);
#ifdef HAVE_JANSSON
    report("jansson", median_us(read_jansson), ours);
#else
    fprintf(stderr, "jansson was not found (apt-get install libjansson-dev)\n");
#endif
    report("strtof alone", median_us(read_strtof), ours);
    return 0;
}
