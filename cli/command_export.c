#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "common/kith_clock.h"
#include "proto/kith_limits.h"

static const char *output, *batch;
static bool no_vectors;
static struct flags_many filters;

/* The body of one page; offset is a JSON value or an empty text. */
static bool page_body(struct kith_buf *body, const struct kith_buf *offset, uint64_t limit)
{
    struct kith_json_writer w = {.buf = body};

    kith_buf_reset(body);
    kith_jw_begin_object(&w);
    kith_jw_key(&w, "limit");
    kith_jw_u64(&w, limit);
    kith_jw_key(&w, "with_payload");
    kith_jw_bool(&w, true);
    kith_jw_key(&w, "with_vector");
    kith_jw_bool(&w, !no_vectors);
    if (filters.n > 0) {
        kith_jw_key(&w, "filter");
        if (!cli_filter(&w, &filters))
            return false;
    }
    if (offset->len > 0) {
        kith_jw_key(&w, "offset");
        kith_buf_append(body, offset->data, offset->len);
        w.after_key = false;
    }
    kith_jw_end_object(&w);
    return true;
}

/* {"id":..., "vector":..., "payload":...}, in this order and without what is null. */
static void line_write(struct kith_buf *line, struct kith_json point)
{
    static const char *const keys[] = {"id", "vector", "payload"};
    struct kith_json_writer w = {.buf = line};
    struct kith_json value;

    kith_buf_reset(line);
    kith_jw_begin_object(&w);
    for (size_t i = 0; i < 3; i++) {
        if (kith_json_opt(point, keys[i], &value)) {
            kith_jw_key(&w, keys[i]);
            cli_json_copy(&w, value);
        }
    }
    kith_jw_end_object(&w);
    kith_buf_byte(line, '\n');
}

static bool page_write(FILE *out, struct kith_json points, struct kith_buf *line, uint64_t *total)
{
    struct kith_json point;

    for (struct kith_json_iter it = kith_json_iterate(points); kith_json_next(&it, &point);) {
        line_write(line, point);
        if (line->failed || fwrite(line->data, 1, line->len, out) != line->len) {
            fprintf(stderr, "kith: %s\n", line->failed ? "out of memory" : strerror(errno));
            return false;
        }
        ++*total;
    }
    return true;
}

static void progress(const char *name, uint64_t total, uint64_t start_ms, bool last)
{
    double seconds = (double)(kith_now_ms() - start_ms) / 1000.0 + 1e-9;

    if (isatty(STDERR_FILENO) && cli_colour(stderr))
        fprintf(stderr, "\r\x1b[K%s  %llu points  %.0f/s%s", name, (unsigned long long)total,
                (double)total / seconds, last ? "\n" : "");
    else if (last)
        fprintf(stderr, "%s: %llu points in %.1f s\n", name, (unsigned long long)total, seconds);
}

static bool export_pages(const char *name, FILE *out, uint64_t limit)
{
    struct kith_buf body = {0}, offset = {0}, line = {0};
    uint64_t total = 0, start_ms = kith_now_ms();
    bool more = true;
    bool ok = true;

    while (ok && more) {
        struct kith_json_writer w = {.buf = &offset};
        struct kith_json points, next;
        struct cli_answer answer;

        ok = page_body(&body, &offset, limit) &&
             cli_ask(&answer, "POST", cli_collection_path(name, "/points/scroll"), &body, 0);
        if (!ok)
            break;
        ok = kith_json_get(answer.result, "points", &points) &&
             page_write(out, points, &line, &total);
        more = kith_json_opt(answer.result, "next_page_offset", &next);
        kith_buf_reset(&offset);
        if (more)
            cli_json_copy(&w, next);
        cli_answer_fini(&answer);
        progress(name, total, start_ms, !more);
    }
    kith_buf_fini(&body);
    kith_buf_fini(&offset);
    kith_buf_fini(&line);
    return ok;
}

int command_export(int argc, char **argv)
{
    static const struct flag flags[] = {
        {"output", "FILE", "write there instead of standard output", &output, NULL},
        {"filter", "F", "only what matches; see kith search --help", NULL, NULL},
        {"no-vectors", NULL, "ids and payloads only", NULL, &no_vectors},
        {"batch", "N", "points per request (default 500)", &batch, NULL},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static const struct flags_spec spec = {
        .usage = "kith export COLLECTION",
        .about = "Writes all points as JSON lines, in the order of their ids; kith import reads "
                 "them back.\nVectors are as stored (cosine collections keep them at length 1).",
        .example = "kith export faq --output faq.jsonl\nkith export faq --filter lang=zh | wc -l",
        .flags = flags,
        .many = "filter",
        .many_out = &filters,
        .words_min = 1,
        .words_max = 1,
    };
    uint64_t limit = 500;
    const char *name;
    size_t n;
    FILE *out;
    enum flags_result parsed = flags_parse(&spec, argc, argv, &name, &n);
    bool ok;

    if (parsed != FLAGS_OK)
        return parsed == FLAGS_HELP ? CLI_DONE : CLI_USAGE;
    if (!cli_ready() || !flags_u64("batch", batch, 1, KITH_K_MAX, &limit))
        return CLI_USAGE;
    out = output == NULL ? stdout : fopen(output, "we");
    if (out == NULL) {
        fprintf(stderr, "kith: %s: %s\n", output, strerror(errno));
        return CLI_FAILED;
    }
    ok = export_pages(name, out, limit);
    if ((output == NULL ? fflush(out) : fclose(out)) != 0) {
        fprintf(stderr, "kith: %s: %s\n", output == NULL ? "standard output" : output,
                strerror(errno));
        ok = false;
    }
    return ok ? CLI_DONE : CLI_FAILED;
}
