/* search, count, get, delete: the verbs about points. */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "proto/kith_limits.h"

static const char *limit_text, *offset_text, *fields, *threshold, *coverage, *using_name;
static bool by_id, exact, with_vector, show_coverage, yes;
static struct flags_many filters;

/* "a,b" as ["a","b"]; absent = all. */
static void write_fields(struct kith_json_writer *w)
{
    kith_jw_key(w, "with_payload");
    if (fields == NULL) {
        kith_jw_bool(w, true);
        return;
    }
    kith_jw_begin_array(w);
    for (const char *at = fields; *at != '\0';) {
        size_t n = strcspn(at, ",");
        if (n > 0)
            kith_jw_str(w, at, n);
        at += n + (at[n] == ',');
    }
    kith_jw_end_array(w);
}

static bool write_filter(struct kith_json_writer *w)
{
    if (filters.n == 0)
        return true;
    kith_jw_key(w, "filter");
    return cli_filter(w, &filters);
}

/* The value behind a dotted path. */
static bool field_of(struct kith_json payload, const char *path, size_t n, struct kith_json *out)
{
    char key[KITH_FIELD_PATH_MAX + 1];

    if (n >= sizeof key)
        return false;
    memcpy(key, path, n);
    key[n] = '\0';
    if (kith_json_get(payload, key, out))
        return true;
    for (char *dot; (dot = strchr(key, '.')) != NULL;) {
        *dot = '\0';
        if (!kith_json_get(payload, key, &payload))
            return false;
        memmove(key, dot + 1, strlen(dot + 1) + 1);
    }
    return kith_json_get(payload, key, out);
}

static void cell_json(struct table *table, struct kith_json value)
{
    struct kith_buf text = {0};

    cli_text_of(&text, value);
    table_cell(table, text.len == 0 ? "" : (const char *)text.data);
    kith_buf_fini(&text);
}

static void payload_cells(struct table *table, struct kith_json point)
{
    struct kith_json payload, value;
    bool any = kith_json_opt(point, "payload", &payload);

    if (fields == NULL) {
        if (any)
            cell_json(table, payload);
        else
            table_cell(table, "");
        return;
    }
    for (const char *at = fields; *at != '\0';) {
        size_t n = strcspn(at, ",");
        if (n > 0 && any && field_of(payload, at, n, &value))
            cell_json(table, value);
        else if (n > 0)
            table_cell(table, "-");
        at += n + (at[n] == ',');
    }
}

static void payload_headings(struct table *table)
{
    if (fields == NULL) {
        table_cell(table, "PAYLOAD");
        return;
    }
    for (const char *at = fields; *at != '\0';) {
        size_t n = strcspn(at, ",");
        if (n > 0)
            table_cellf(table, "%.*s", (int)n, at);
        at += n + (at[n] == ',');
    }
}

static size_t field_count(void)
{
    size_t n = fields == NULL ? 1 : 0;

    for (const char *at = fields; at != NULL && *at != '\0';
         at += strcspn(at, ","), at += *at == ',')
        n += *at != ',';
    return n;
}

static void print_points(struct kith_json points, bool scored)
{
    struct table table = {.columns = field_count() + (scored ? 2 : 1) + (with_vector ? 1 : 0)};
    struct kith_json point, value;
    double score;

    table.right[0] = scored;
    table.right[1] = scored;
    if (scored)
        table_cell(&table, "SCORE");
    table_cell(&table, "ID");
    payload_headings(&table);
    if (with_vector)
        table_cell(&table, "VECTOR");
    for (struct kith_json_iter it = kith_json_iterate(points); kith_json_next(&it, &point);) {
        if (scored) {
            if (kith_json_get(point, "score", &value) && kith_json_f64(value, &score))
                table_cellf(&table, "%.4f", score);
            else
                table_cell(&table, "-");
        }
        if (kith_json_get(point, "id", &value))
            cell_json(&table, value);
        else
            table_cell(&table, "-");
        payload_cells(&table, point);
        if (with_vector) {
            if (kith_json_opt(point, "vector", &value))
                cell_json(&table, value);
            else
                table_cell(&table, "-");
        }
    }
    cli_print_table(&table);
    table_fini(&table);
}

/* A text, a vector as JSON, or with --id an id. */
static bool write_query(struct kith_json_writer *w, const char *text)
{
    kith_jw_key(w, "query");
    if (!by_id && text[0] == '[')
        return cli_json_text(w, text, "the query is no vector");
    if (by_id) {
        cli_id(w, text);
    } else {
        kith_jw_begin_object(w);
        kith_jw_key(w, "text");
        kith_jw_cstr(w, text);
        kith_jw_end_object(w);
    }
    return true;
}

static bool search_body(struct kith_json_writer *w, const char *query)
{
    uint64_t limit = 10, offset = 0;
    double score = 0, part = 0;

    if (!flags_u64("limit", limit_text, 1, KITH_K_MAX, &limit) ||
        !flags_u64("offset", offset_text, 0, KITH_K_MAX, &offset) ||
        !flags_f64("score-threshold", threshold, -1e30, 1e30, &score) ||
        !flags_f64("min-coverage", coverage, 0, 1, &part))
        return false;
    kith_jw_begin_object(w);
    if (!write_query(w, query) || !write_filter(w))
        return false;
    kith_jw_key(w, "limit");
    kith_jw_u64(w, limit);
    kith_jw_key(w, "offset");
    kith_jw_u64(w, offset);
    write_fields(w);
    if (with_vector) {
        kith_jw_key(w, "with_vector");
        kith_jw_bool(w, true);
    }
    if (threshold != NULL) {
        kith_jw_key(w, "score_threshold");
        kith_jw_f64(w, score);
    }
    if (using_name != NULL) {
        kith_jw_key(w, "using");
        kith_jw_cstr(w, using_name);
    }
    if (exact || show_coverage || coverage != NULL) {
        kith_jw_key(w, "params");
        kith_jw_begin_object(w);
        if (exact) {
            kith_jw_key(w, "exact");
            kith_jw_bool(w, true);
        }
        if (show_coverage) {
            kith_jw_key(w, "coverage");
            kith_jw_bool(w, true);
        }
        if (coverage != NULL) {
            kith_jw_key(w, "min_coverage");
            kith_jw_f64(w, part);
        }
        kith_jw_end_object(w);
    }
    kith_jw_end_object(w);
    return true;
}

static void search_print(const struct cli_answer *answer)
{
    struct kith_json root = kith_json_root(answer->doc);
    struct kith_json points, value;
    double seconds;

    if (!kith_json_get(answer->result, "points", &points))
        points = answer->result;
    if (kith_json_count(points) == 0)
        printf("No points found.\n");
    else
        print_points(points, true);
    if (cli_width() > 0 && kith_json_get(root, "time", &value) && kith_json_f64(value, &seconds))
        fprintf(stderr, "%zu hits in %.1f ms\n", kith_json_count(points), seconds * 1000);
    if (kith_json_get(root, "coverage", &value))
        cli_print_json(value);
}

int command_search(int argc, char **argv)
{
    static const struct flag flags[] = {
        {"limit", "N", "how many hits (default 10)", &limit_text, NULL},
        {"offset", "N", "leave out the first N", &offset_text, NULL},
        {"filter", "F", "key=value, key!=value, key>=n, or JSON; may be repeated: all must hold",
         NULL, NULL},
        {"fields", "A,B", "show these fields of the payload (default: all)", &fields, NULL},
        {"score-threshold", "X", "only hits at least this good", &threshold, NULL},
        {"id", NULL, "QUERY is the id of a point: find points like it", NULL, &by_id},
        {"using", "NAME", "which named vector", &using_name, NULL},
        {"exact", NULL, "search exactly, whatever index there is", NULL, &exact},
        {"min-coverage", "X", "accept an answer from this part of the points (0 to 1)", &coverage,
         NULL},
        {"with-vector", NULL, "show vectors, too", NULL, &with_vector},
        {"coverage", NULL, "say how much of the collection was searched", NULL, &show_coverage},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static const struct flags_spec spec = {
        .usage = "kith search COLLECTION QUERY",
        .about = "Finds the nearest points. QUERY is a text (for collections with an encoder), a\n"
                 "vector like [0.1, 0.2], or with --id the id of a point.",
        .example = "kith search faq \"如何退款\" --filter del=false --limit 3 --fields "
                   "question,answer\n"
                   "kith search products 42 --id --filter 'price<100' --json",
        .flags = flags,
        .many = "filter",
        .many_out = &filters,
        .words_min = 2,
        .words_max = 2,
    };
    struct kith_buf body = {0};
    struct kith_json_writer w = {.buf = &body};
    struct cli_answer answer;
    const char *words[2];
    size_t n;
    enum flags_result parsed = flags_parse(&spec, argc, argv, words, &n);
    int exit_status = CLI_USAGE;

    if (parsed != FLAGS_OK)
        return parsed == FLAGS_HELP ? CLI_DONE : CLI_USAGE;
    if (field_count() + 3 > TABLE_COLUMNS_MAX) {
        fprintf(stderr, "kith: --fields: at most %u\n", TABLE_COLUMNS_MAX - 3);
        return CLI_USAGE;
    }
    if (!cli_ready() || !search_body(&w, words[1]))
        goto out;
    exit_status = CLI_FAILED;
    if (!cli_ask(&answer, "POST", cli_collection_path(words[0], "/points/query"), &body, 0))
        goto out;
    if (cli.json)
        cli_print_json(kith_json_root(answer.doc));
    else
        search_print(&answer);
    cli_answer_fini(&answer);
    exit_status = CLI_DONE;
out:
    kith_buf_fini(&body);
    return exit_status;
}

int command_count(int argc, char **argv)
{
    static const struct flag flags[] = {
        {"filter", "F", "count only what matches; see kith search --help", NULL, NULL},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static const struct flags_spec spec = {
        .usage = "kith count COLLECTION",
        .about = "Counts points, exactly, and prints the number.",
        .example = "kith count faq --filter del=false",
        .flags = flags,
        .many = "filter",
        .many_out = &filters,
        .words_min = 1,
        .words_max = 1,
    };
    struct kith_buf body = {0};
    struct kith_json_writer w = {.buf = &body};
    struct cli_answer answer;
    struct kith_json count;
    uint64_t value = 0;
    const char *name;
    size_t n;
    enum flags_result parsed = flags_parse(&spec, argc, argv, &name, &n);
    int exit_status = CLI_USAGE;

    if (parsed != FLAGS_OK)
        return parsed == FLAGS_HELP ? CLI_DONE : CLI_USAGE;
    if (!cli_ready())
        return CLI_USAGE;
    kith_jw_begin_object(&w);
    kith_jw_key(&w, "exact");
    kith_jw_bool(&w, true);
    if (!write_filter(&w))
        goto out;
    kith_jw_end_object(&w);
    exit_status = CLI_FAILED;
    if (!cli_ask(&answer, "POST", cli_collection_path(name, "/points/count"), &body, 0))
        goto out;
    if (cli.json)
        cli_print_json(answer.result);
    else if (kith_json_get(answer.result, "count", &count) && kith_json_u64(count, &value))
        printf("%llu\n", (unsigned long long)value);
    cli_answer_fini(&answer);
    exit_status = CLI_DONE;
out:
    kith_buf_fini(&body);
    return exit_status;
}

#define IDS_MAX 1000u

static void write_ids(struct kith_json_writer *w, const char *key, const char **ids, size_t n)
{
    kith_jw_key(w, key);
    kith_jw_begin_array(w);
    for (size_t i = 0; i < n; i++)
        cli_id(w, ids[i]);
    kith_jw_end_array(w);
}

int command_get(int argc, char **argv)
{
    static const struct flag flags[] = {
        {"fields", "A,B", "show these fields of the payload (default: all)", &fields, NULL},
        {"with-vector", NULL, "show vectors, too", NULL, &with_vector},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static const struct flags_spec spec = {
        .usage = "kith get COLLECTION ID...",
        .about = "Shows points by id. Exit status 1 when one of them is not there.",
        .example = "kith get faq 1 2 --json",
        .flags = flags,
        .words_min = 2,
        .words_max = IDS_MAX + 1,
    };
    static const char *words[IDS_MAX + 1];
    struct kith_buf body = {0};
    struct kith_json_writer w = {.buf = &body};
    struct cli_answer answer;
    size_t n, found;
    enum flags_result parsed = flags_parse(&spec, argc, argv, words, &n);
    bool ok;

    if (parsed != FLAGS_OK)
        return parsed == FLAGS_HELP ? CLI_DONE : CLI_USAGE;
    if (!cli_ready() || field_count() + 3 > TABLE_COLUMNS_MAX)
        return CLI_USAGE;
    kith_jw_begin_object(&w);
    write_ids(&w, "ids", words + 1, n - 1);
    write_fields(&w);
    kith_jw_key(&w, "with_vector");
    kith_jw_bool(&w, with_vector);
    kith_jw_end_object(&w);
    ok = cli_ask(&answer, "POST", cli_collection_path(words[0], "/points"), &body, 0);
    kith_buf_fini(&body);
    if (!ok)
        return CLI_FAILED;
    found = kith_json_count(answer.result);
    if (cli.json)
        cli_print_json(answer.result);
    else if (found > 0)
        print_points(answer.result, false);
    if (found < n - 1)
        fprintf(stderr, "kith: %zu of %zu not found\n", n - 1 - found, n - 1);
    cli_answer_fini(&answer);
    return found < n - 1 ? CLI_FAILED : CLI_DONE;
}

int command_delete(int argc, char **argv)
{
    static const struct flag flags[] = {
        {"filter", "F", "delete what matches; see kith search --help", NULL, NULL},
        {"yes", NULL, "do not ask before deleting by filter", NULL, &yes},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static const struct flags_spec spec = {
        .usage = "kith delete COLLECTION [ID...]",
        .about = "Deletes points by id, or all that match a filter: all of them, or none when "
                 "something\ngoes wrong.",
        .example = "kith delete faq 17 18\nkith delete faq --filter category=old --yes",
        .flags = flags,
        .many = "filter",
        .many_out = &filters,
        .words_min = 1,
        .words_max = IDS_MAX + 1,
    };
    static const char *words[IDS_MAX + 1];
    struct kith_buf body = {0};
    struct kith_json_writer w = {.buf = &body};
    struct cli_answer answer;
    size_t n;
    enum flags_result parsed = flags_parse(&spec, argc, argv, words, &n);
    int exit_status = CLI_USAGE;

    if (parsed != FLAGS_OK)
        return parsed == FLAGS_HELP ? CLI_DONE : CLI_USAGE;
    if (!cli_ready())
        return CLI_USAGE;
    if ((n > 1) == (filters.n > 0)) {
        fprintf(stderr, "kith: give ids, or --filter (to drop all points: kith collection "
                        "delete)\n");
        return CLI_USAGE;
    }
    kith_jw_begin_object(&w);
    if (n > 1)
        write_ids(&w, "points", words + 1, n - 1);
    else if (!write_filter(&w))
        goto out;
    kith_jw_end_object(&w);
    if (filters.n > 0 && !yes && !cli_confirm("Delete all points that match?"))
        goto out;
    exit_status = CLI_FAILED;
    if (!cli_ask(&answer, "POST", cli_collection_path(words[0], "/points/delete?wait=true"), &body,
                 0))
        goto out;
    if (cli.json)
        cli_print_json(answer.result);
    else
        printf("deleted\n");
    cli_answer_fini(&answer);
    exit_status = CLI_DONE;
out:
    kith_buf_fini(&body);
    return exit_status;
}
