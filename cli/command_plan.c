/* plan: what a collection will take: bytes from the formats, times from a trial with some vectors.
 */
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/plan_times.h"
#include "coordinator/plan_quantization.h"
#include "proto/kith_limits.h"
#include "shard/index/ivf_build.h"

#define ROWS_MAX 100000000000u

/* A sample is read to memory; its rows are copied once, and bytes and codes come on top. */
#define SAMPLE_BYTES_MAX ((size_t)2 << 30)

static const char *rows_text, *dim_text, *metric_text, *quantization, *slices_text, *payload_text,
    *sample_path, *sample_format;
static bool uuids;

static bool metric_of(const char *text, enum kith_metric *out)
{
    *out = KITH_COSINE;
    return text == NULL || kith_metric_of_word(text, out);
}

/* The sample decides the dimension, and is the number of rows where none is given. False: said why.
 */
static bool read_size(struct predict_shape *shape, const struct sample *sample)
{
    uint64_t dim = sample->dim;

    shape->rows = sample->n;
    if (!flags_u64("rows", rows_text, 1, ROWS_MAX, &shape->rows) ||
        !flags_u64("dim", dim_text, 1, KITH_DIM_MAX, &dim))
        return false;
    if (shape->rows == 0 || dim == 0) {
        fprintf(stderr, "kith: give --rows N and --dim D, or --sample FILE\n");
        return false;
    }
    if (sample->n > 0 && dim != sample->dim) {
        fprintf(stderr, "kith: --dim %s, but the vectors of %s have %u numbers\n", dim_text,
                sample_path, sample->dim);
        return false;
    }
    shape->dim = (uint32_t)dim;
    return true;
}

/* False: said why. */
static bool read_shape(struct predict_shape *shape, const struct sample *sample)
{
    struct plan_quantization q;
    struct kith_diag diag = {0};
    uint64_t slices = 1, payload = 0;

    if (!read_size(shape, sample) ||
        !flags_u64("slices", slices_text, 1, KITH_SLICES_PER_COLLECTION_MAX, &slices) ||
        !flags_u64("payload", payload_text, 0, KITH_PAYLOAD_MAX, &payload))
        return false;
    if (!metric_of(metric_text, &shape->metric)) {
        fprintf(stderr, "kith: --metric is cosine, dot, euclid or manhattan\n");
        return false;
    }
    if (!plan_quantization_of_word(quantization != NULL ? quantization : "auto", &q)) {
        fprintf(stderr, "kith: --quantization is auto, none, f16, int8, pq4, scalar, product or "
                        "binary\n");
        return false;
    }
    if (plan_quantization_fits(&q, shape->metric, &diag) != KITH_OK) {
        fprintf(stderr, "kith: %s\n", diag.text);
        return false;
    }
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
                       const struct plan_times *times)
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
    kith_jw_f64(&w, times->query.exact_ns / 1000);
    kith_jw_key(&w, "index_us");
    if (times->query.lists_ns > 0)
        kith_jw_f64(&w, times->query.lists_ns / 1000);
    else
        kith_jw_null(&w);
    put(&w, "tried", times->n_rows);
    kith_jw_key(&w, "recall");
    kith_jw_f64(&w, times->recall);
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

static void point_cell(struct table *table, const struct predict_shape *shape, uint64_t bytes)
{
    table_cellf(table, "%.1f B", (double)bytes / (double)shape->rows);
}

static void print_times(const struct predict_shape *shape, const struct plan_times *times)
{
    printf("One query on one thread of this machine: %.0f us exactly",
           times->query.exact_ns / 1000);
    if (times->query.lists_ns > 0)
        printf(", %.0f us by the index (recall %.2f)", times->query.lists_ns / 1000, times->recall);
    else if (shape->index != KITH_INDEX_NONE && shape->rows >= IVF_TRAIN_ROWS)
        printf("; an index needs %u vectors to be tried", IVF_TRAIN_ROWS);
    printf(".\nTried with %u %s", times->n_rows, times->made_up ? "made-up vectors" : "of yours");
    if (times->n_rows < shape->rows)
        printf(", reckoned up to %llu", (unsigned long long)shape->rows);
    printf(".%s\n", times->made_up ? " --sample FILE tries your own." : "");
}

static void print_table(const struct predict_shape *shape, const struct memory_use *uses,
                        const struct plan_times *times)
{
    struct table table = {.columns = 4, .right = {false, true, true, true}};
    uint64_t file = 0, mapped = 0;

    table_cell(&table, "SECTION");
    table_cell(&table, "DISK");
    table_cell(&table, "MEMORY");
    table_cell(&table, "A POINT");
    for (int i = 0; i < MEMORY_KINDS; i++) {
        if (uses[i].file == 0 && uses[i].mapped == 0)
            continue;
        table_cell(&table, memory_name((enum memory_kind)i));
        bytes_cell(&table, uses[i].file);
        bytes_cell(&table, uses[i].mapped);
        point_cell(&table, shape, uses[i].mapped);
        file += uses[i].file;
        mapped += uses[i].mapped;
    }
    table_cell(&table, "total");
    bytes_cell(&table, file);
    bytes_cell(&table, mapped);
    point_cell(&table, shape, mapped);
    cli_print_table(&table);
    table_fini(&table);
    printf("\nMemory that searches need all the time: %.1f MiB.\n",
           (double)predict_hot_bytes(shape, uses) / (1 << 20));
    print_times(shape, times);
}

static int plan(const struct sample *sample)
{
    struct predict_shape shape;
    struct memory_use uses[MEMORY_KINDS];
    struct plan_times times;
    struct kith_diag diag = {0};

    if (!read_shape(&shape, sample))
        return CLI_USAGE;
    if (sample->cut)
        fprintf(stderr, "the first %u vectors of %s are tried, there are more\n", sample->n,
                sample_path);
    if (plan_times_measure(&shape, sample, &times, &diag) != KITH_OK) {
        if (diag.err == KITH_CANCELLED)
            fprintf(stderr, "kith: stopped; nothing is left behind\n");
        else
            fprintf(stderr, "kith: %s\n", diag.text);
        return CLI_FAILED;
    }
    predict_bytes(&shape, uses);
    if (cli.json)
        print_json(&shape, uses, &times);
    else
        print_table(&shape, uses, &times);
    return CLI_DONE;
}

int command_plan(int argc, char **argv)
{
    static const struct flag flags[] = {
        {"rows", "N", "points", &rows_text, NULL},
        {"dim", "D", "numbers per vector", &dim_text, NULL},
        {"sample", "FILE", "of your vectors, as for import: tries queries", &sample_path, NULL},
        {"format", "NAME", "of the sample: jsonl, npy or fvecs (default: as it looks)",
         &sample_format, NULL},
        {"quantization", "WORD", "auto (default), none, f16, int8, pq4, scalar...", &quantization,
         NULL},
        {"metric", "NAME", "cosine (default), dot, euclid or manhattan", &metric_text, NULL},
        {"slices", "N", "of the collection, all on one node (1)", &slices_text, NULL},
        {"payload", "BYTES", "packed payload of a point (0)", &payload_text, NULL},
        {"uuids", NULL, "ids are UUIDs, not numbers", NULL, &uuids},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static const struct flags_spec spec = {
        .usage = "kith plan --rows N --dim D | --sample FILE [--rows N]",
        .about = "What a collection will take: disk, memory, and the time of a query on this\n"
                 "machine. Asks no server.",
        .example = "kith plan --rows 1000000 --dim 768\n"
                   "kith plan --rows 10000000 --dim 128 --quantization int8 --metric euclid\n"
                   "kith plan --sample vectors.npy --rows 5000000",
        .flags = flags,
    };
    struct sample sample = {.n = 0};
    enum source_format format = SOURCE_AUTO;
    struct kith_diag diag = {0};
    enum flags_result parsed = flags_parse(&spec, argc, argv, NULL, &(size_t){0});

    if (parsed != FLAGS_OK)
        return parsed == FLAGS_HELP ? CLI_DONE : CLI_USAGE;
    if (sample_format != NULL && !source_format_named(sample_format, &format)) {
        fprintf(stderr, "kith: --format %s: want jsonl, npy or fvecs\n", sample_format);
        return CLI_USAGE;
    }
    if (sample_path != NULL &&
        sample_read(&sample, sample_path, format, SAMPLE_BYTES_MAX, &diag) != KITH_OK) {
        fprintf(stderr, "kith: %s: %s\n", sample_path, diag.text);
        return CLI_FAILED;
    }
    int code = plan(&sample);
    sample_fini(&sample);
    return code;
}
