/* plan: what a collection will take, from the formats and a measurement of this machine. */
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "coordinator/plan_quantization.h"
#include "proto/kith_limits.h"
#include "shard/query/predict.h"

#define ROWS_MAX 100000000000u

static const char *rows_text, *dim_text, *metric_text, *quantization, *slices_text, *payload_text;
static bool uuids;

static bool metric_of(const char *text, enum kith_metric *out)
{
    static const struct {
        const char *word;
        enum kith_metric metric;
    } words[] = {{"cosine", KITH_COSINE},
                 {"dot", KITH_DOT},
                 {"euclid", KITH_EUCLID},
                 {"manhattan", KITH_MANHATTAN}};

    *out = KITH_COSINE;
    for (size_t i = 0; text != NULL && i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(text, words[i].word) == 0) {
            *out = words[i].metric;
            return true;
        }
    }
    return text == NULL;
}

/* False: said why. */
static bool read_shape(struct predict_shape *shape)
{
    struct plan_quantization q;
    struct kith_diag diag = {0};
    uint64_t dim = 0, slices = 1, payload = 0;

    shape->rows = 0;
    if (!flags_u64("rows", rows_text, 1, ROWS_MAX, &shape->rows) ||
        !flags_u64("dim", dim_text, 1, KITH_DIM_MAX, &dim) ||
        !flags_u64("slices", slices_text, 1, KITH_SLICES_PER_COLLECTION_MAX, &slices) ||
        !flags_u64("payload", payload_text, 0, KITH_PAYLOAD_MAX, &payload))
        return false;
    if (shape->rows == 0 || dim == 0) {
        fprintf(stderr, "kith: give --rows N and --dim D\n");
        return false;
    }
    if (!metric_of(metric_text, &shape->metric)) {
        fprintf(stderr, "kith: --metric is cosine, dot, euclid or manhattan\n");
        return false;
    }
    if (!plan_quantization_of_word(quantization != NULL ? quantization : "auto", &q)) {
        fprintf(stderr, "kith: --quantization is auto, none, f16, int8 or pq4\n");
        return false;
    }
    if (plan_quantization_fits(&q, shape->metric, &diag) != KITH_OK) {
        fprintf(stderr, "kith: %s\n", diag.text);
        return false;
    }
    shape->dim = (uint32_t)dim;
    shape->n_slices = (uint32_t)slices;
    shape->payload_bytes = (uint32_t)payload;
    shape->uuids = uuids;
    shape->row_type = q.has_rows ? q.rows : KITH_ROWS_F32;
    shape->index = q.has_index ? q.index : kith_index_default(shape->metric);
    return true;
}

static void put(struct kith_json_writer *w, const char *key, uint64_t value)
{
    kith_jw_key(w, key);
    kith_jw_u64(w, value);
}

static void print_json(const struct predict_shape *shape, const struct memory_use *uses,
                       const struct predict_times *times)
{
    struct kith_buf buf = {0};
    struct kith_json_writer w = {.buf = &buf};
    uint64_t file = 0, mapped = 0;

    kith_jw_begin_object(&w);
    kith_jw_key(&w, "sections");
    kith_jw_begin_object(&w);
    for (int i = 0; i < MEMORY_KINDS; i++) {
        kith_jw_key(&w, memory_name((enum memory_kind)i));
        kith_jw_begin_object(&w);
        put(&w, "file", uses[i].file);
        put(&w, "mapped", uses[i].mapped);
        kith_jw_end_object(&w);
        file += uses[i].file;
        mapped += uses[i].mapped;
    }
    kith_jw_end_object(&w);
    put(&w, "disk", file);
    put(&w, "memory", mapped);
    put(&w, "memory_least", predict_hot_bytes(shape, uses));
    kith_jw_key(&w, "exact_us");
    kith_jw_f64(&w, times->exact_ns / 1000);
    kith_jw_key(&w, "index_us");
    if (times->lists_ns > 0)
        kith_jw_f64(&w, times->lists_ns / 1000);
    else
        kith_jw_null(&w);
    kith_jw_end_object(&w);
    if (!buf.failed)
        printf("%.*s\n", (int)buf.len, (const char *)buf.data);
    kith_buf_fini(&buf);
}

static void bytes_cell(struct table *table, uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;

    for (; value >= 1024 && unit + 1 < sizeof units / sizeof units[0]; unit++)
        value /= 1024;
    table_cellf(table, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

static void print_table(const struct predict_shape *shape, const struct memory_use *uses,
                        const struct predict_times *times)
{
    struct table table = {.columns = 3, .right = {false, true, true}};
    uint64_t file = 0, mapped = 0;

    table_cell(&table, "SECTION");
    table_cell(&table, "DISK");
    table_cell(&table, "MEMORY");
    for (int i = 0; i < MEMORY_KINDS; i++) {
        if (uses[i].file == 0 && uses[i].mapped == 0)
            continue;
        table_cell(&table, memory_name((enum memory_kind)i));
        bytes_cell(&table, uses[i].file);
        bytes_cell(&table, uses[i].mapped);
        file += uses[i].file;
        mapped += uses[i].mapped;
    }
    table_cell(&table, "total");
    bytes_cell(&table, file);
    bytes_cell(&table, mapped);
    cli_print_table(&table);
    table_fini(&table);
    printf("\nMemory that searches need all the time: %.1f MiB.\n",
           (double)predict_hot_bytes(shape, uses) / (1 << 20));
    printf("One query on one thread of this machine, about: %.0f us exactly",
           times->exact_ns / 1000);
    if (times->lists_ns > 0)
        printf(", %.0f us by the index", times->lists_ns / 1000);
    printf(".\n");
}

int command_plan(int argc, char **argv)
{
    static const struct flag flags[] = {
        {"rows", "N", "points", &rows_text, NULL},
        {"dim", "D", "numbers per vector", &dim_text, NULL},
        {"quantization", "WORD", "auto (default), none, f16, int8 or pq4", &quantization, NULL},
        {"metric", "NAME", "cosine (default), dot, euclid or manhattan", &metric_text, NULL},
        {"slices", "N", "of the collection, all on one node (1)", &slices_text, NULL},
        {"payload", "BYTES", "packed payload of a point (0)", &payload_text, NULL},
        {"uuids", NULL, "ids are UUIDs, not numbers", NULL, &uuids},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static const struct flags_spec spec = {
        .usage = "kith plan --rows N --dim D",
        .about = "What a collection will take: disk, memory, and the time of a query on this\n"
                 "machine. Asks no server.",
        .example = "kith plan --rows 1000000 --dim 768\n"
                   "kith plan --rows 10000000 --dim 128 --quantization int8 --metric euclid",
        .flags = flags,
    };
    struct predict_shape shape;
    struct memory_use uses[MEMORY_KINDS];
    struct predict_times times;
    struct kith_diag diag = {0};
    enum flags_result parsed = flags_parse(&spec, argc, argv, NULL, &(size_t){0});

    if (parsed != FLAGS_OK)
        return parsed == FLAGS_HELP ? CLI_DONE : CLI_USAGE;
    if (!read_shape(&shape))
        return CLI_USAGE;
    predict_bytes(&shape, uses);
    if (predict_times(&shape, &times, &diag) != KITH_OK) {
        cli_say_error(diag.err, diag.text);
        return CLI_FAILED;
    }
    if (cli.json)
        print_json(&shape, uses, &times);
    else
        print_table(&shape, uses, &times);
    return CLI_DONE;
}
