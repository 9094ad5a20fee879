/* Writes points (points.h) as Kith and its peers are given them, to stdout.
 *
 * usage: bench_data FORM --dim D --points N [--first ROW] [--batch B] [--digits G]
 *                   [--base FILE --queries FILE] [--below KEY] [--params JSON]
 *   upsert   bodies of PUT .../points, one a line, B points each
 *   query    bodies of POST .../points/query, one a line (rows that no upsert has)
 *   jsonl    points as JSON lines, for `kith import`
 *   fvecs    vectors in the format of the TEXMEX corpus: int32 dim, then dim f32
 *   npy      a NumPy 1.0 array, f4, C order
 *   chroma-add, chroma-query   bodies of Chroma's POST .../add and .../query, as upsert and query
 *
 * The points are made up, or the rows of two files of f32. Each has a key below 1,000 in its
 * payload;
 * --below selects that many thousandths of them in queries, and --params goes into them as it is.
 *
 * Numbers have 8 decimals, about what f32 needs and what Kith's own export prints. --digits 17 is
 * what Python and JavaScript make of a float32 turned into a double: twice the bytes. */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_buf.h"
#include "points.h"

enum form { UPSERT, QUERY, JSONL, FVECS, NPY, CHROMA_ADD, CHROMA_QUERY, FORMS };
static const char *const forms[FORMS] = {"upsert", "query",      "jsonl",       "fvecs",
                                         "npy",    "chroma-add", "chroma-query"};

struct options {
    enum form form;
    uint64_t n, first;
    uint32_t dim, batch, digits, below;
    const char *base, *queries, *params;
};

/* |value| < 10. printf would take longer than everything else here together. */
static void decimals(struct kith_buf *out, float value)
{
    char text[16];
    uint64_t digits = (uint64_t)((double)(value < 0 ? -value : value) * 1e8 + 0.5);
    size_t at = sizeof text;

    for (int i = 0; i < 8; i++, digits /= 10)
        text[--at] = (char)('0' + digits % 10);
    text[--at] = '.';
    text[--at] = (char)('0' + digits % 10);
    if (value < 0)
        text[--at] = '-';
    kith_buf_append(out, text + at, sizeof text - at);
}

static void vector(struct kith_buf *out, const struct options *options, uint64_t row)
{
    float values[POINTS_DIM_MAX];

    points_row(row, values);
    if (options->form == FVECS || options->form == NPY) {
        kith_buf_append(out, values, options->dim * sizeof *values);
        return;
    }
    kith_buf_byte(out, '[');
    for (uint32_t i = 0; i < options->dim; i++) {
        if (i > 0)
            kith_buf_byte(out, ',');
        if (options->digits == 0 && values[i] > -10 && values[i] < 10)
            decimals(out, values[i]);
        else
            kith_buf_printf(out, "%.*g", options->digits == 0 ? 9 : (int)options->digits,
                            (double)values[i]);
    }
    kith_buf_byte(out, ']');
}

static void payload(struct kith_buf *out, uint64_t row)
{
    kith_buf_printf(out, "{\"group\":%llu,\"key\":%u}", (unsigned long long)(row % 100),
                    points_key(row));
}

static void point(struct kith_buf *out, const struct options *options, uint64_t row)
{
    kith_buf_printf(out, "{\"id\":%llu,\"vector\":", (unsigned long long)row);
    vector(out, options, row);
    kith_buf_text(out, ",\"payload\":");
    payload(out, row);
    kith_buf_byte(out, '}');
}

/* Chroma takes the parts of the points apart. */
static void chroma_add(struct kith_buf *out, const struct options *options, uint64_t row,
                       uint64_t end)
{
    kith_buf_text(out, "{\"ids\":[");
    for (uint64_t i = row; i < end; i++)
        kith_buf_printf(out, "%s\"%llu\"", i > row ? "," : "", (unsigned long long)i);
    kith_buf_text(out, "],\"embeddings\":[");
    for (uint64_t i = row; i < end; i++) {
        if (i > row)
            kith_buf_byte(out, ',');
        vector(out, options, i);
    }
    kith_buf_text(out, "],\"metadatas\":[");
    for (uint64_t i = row; i < end; i++) {
        if (i > row)
            kith_buf_byte(out, ',');
        payload(out, i);
    }
    kith_buf_text(out, "]}\n");
}

/* Everything that is one write of the output: rows [row, end). */
static void piece(struct kith_buf *out, const struct options *options, uint64_t row, uint64_t end)
{
    switch (options->form) {
    case UPSERT:
        kith_buf_text(out, "{\"points\":[");
        for (uint64_t i = row; i < end; i++) {
            if (i > row)
                kith_buf_byte(out, ',');
            point(out, options, i);
        }
        kith_buf_text(out, "]}\n");
        break;
    case QUERY:
        kith_buf_text(out, "{\"query\":");
        vector(out, options, POINTS_QUERIES + row);
        if (options->below > 0)
            kith_buf_printf(out, ",\"filter\":{\"must\":[{\"key\":\"key\",\"range\":{\"lt\":%u}}]}",
                            options->below);
        if (options->params != NULL)
            kith_buf_printf(out, ",\"params\":%s", options->params);
        kith_buf_text(out, ",\"limit\":10}\n");
        break;
    case JSONL:
        point(out, options, row);
        kith_buf_byte(out, '\n');
        break;
    case FVECS:
        kith_buf_append(out, &options->dim, sizeof options->dim);
        vector(out, options, row);
        break;
    case NPY:
        vector(out, options, row);
        break;
    case CHROMA_ADD:
        chroma_add(out, options, row, end);
        break;
    case CHROMA_QUERY:
        kith_buf_text(out, "{\"query_embeddings\":[");
        vector(out, options, POINTS_QUERIES + row);
        kith_buf_byte(out, ']');
        if (options->below > 0)
            kith_buf_printf(out, ",\"where\":{\"key\":{\"$lt\":%u}}", options->below);
        kith_buf_text(out, ",\"n_results\":10,\"include\":[\"distances\"]}\n");
        break;
    case FORMS:
        break;
    }
}

/* The header's length is a multiple of 64 (numpy.lib.format, version 1.0). */
static void npy_head(const struct options *options)
{
    char text[119];
    int n = snprintf(text, sizeof text,
                     "{'descr': '<f4', 'fortran_order': False, 'shape': (%llu, %u), }",
                     (unsigned long long)options->n, options->dim);

    printf("\x93NUMPY%c%c%c%c%-117s\n", 1, 0, 118, 0, n > 0 ? text : "");
}

static uint64_t number(const char *text, uint64_t max)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);

    if (*text == '\0' || *end != '\0' || value > max) {
        fprintf(stderr, "bench_data: %s is no number up to %llu\n", text, (unsigned long long)max);
        exit(2);
    }
    return value;
}

static bool options_parse(struct options *options, int argc, char **argv)
{
    static const struct option known[] = {
        {"dim", 1, NULL, 'd'},     {"points", 1, NULL, 'n'}, {"first", 1, NULL, 'f'},
        {"batch", 1, NULL, 'b'},   {"digits", 1, NULL, 'g'}, {"base", 1, NULL, 'B'},
        {"queries", 1, NULL, 'Q'}, {"below", 1, NULL, 'k'},  {"params", 1, NULL, 'p'},
        {NULL, 0, NULL, 0},
    };
    int form = 0;

    while (argc > 1 && form < FORMS && strcmp(argv[1], forms[form]) != 0)
        form++;
    if (argc < 2 || form == FORMS)
        return false;
    *options = (struct options){.form = (enum form)form, .batch = POINTS_PER_WRITE};
    for (int c; (c = getopt_long(argc - 1, argv + 1, "", known, NULL)) != -1;) {
        if (c == 'd')
            options->dim = (uint32_t)number(optarg, POINTS_DIM_MAX);
        else if (c == 'n')
            options->n = number(optarg, 100000000);
        else if (c == 'f')
            options->first = number(optarg, 100000000);
        else if (c == 'b')
            options->batch = (uint32_t)number(optarg, 10000);
        else if (c == 'g')
            options->digits = (uint32_t)number(optarg, 17);
        else if (c == 'B')
            options->base = optarg;
        else if (c == 'Q')
            options->queries = optarg;
        else if (c == 'k')
            options->below = (uint32_t)number(optarg, POINTS_KEYS);
        else if (c == 'p')
            options->params = optarg;
        else
            return false;
    }
    return options->dim > 0 && options->batch > 0 &&
           (options->base == NULL) == (options->queries == NULL);
}

int main(int argc, char **argv)
{
    struct options options;
    struct kith_buf out = {0};

    if (!options_parse(&options, argc, argv)) {
        fputs(
            "usage: bench_data upsert|query|jsonl|fvecs|npy|chroma-add|chroma-query --dim D "
            "--points N [--first ROW] "
            "[--batch B] [--digits G] [--base FILE --queries FILE] [--below KEY] [--params JSON]\n",
            stderr);
        return 2;
    }
    if (options.base != NULL)
        points_init_files(options.dim, options.base, options.queries);
    else
        points_init(options.dim);
    if (options.form == NPY)
        npy_head(&options);
    uint64_t end = options.first + options.n;
    uint64_t step = options.form == UPSERT || options.form == CHROMA_ADD ? options.batch : 1;
    for (uint64_t row = options.first; row < end; row += step) {
        kith_buf_reset(&out);
        piece(&out, &options, row, row + step < end ? row + step : end);
        if (out.failed || fwrite(out.data, 1, out.len, stdout) != out.len) {
            fputs("bench_data: cannot write\n", stderr);
            return 1;
        }
    }
    kith_buf_fini(&out);
    return fflush(stdout) == 0 ? 0 : 1;
}
