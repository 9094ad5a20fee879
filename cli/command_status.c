/* status, node, version, help: about the installation. */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/verbs.h"

static void row(struct table *table, const char *name, struct kith_json object, const char *key)
{
    struct kith_buf text = {0};
    struct kith_json value;

    if (!kith_json_opt(object, key, &value))
        return;
    cli_text_of(&text, value);
    table_cell(table, name);
    table_cell(table, text.len == 0 ? "" : (const char *)text.data);
    kith_buf_fini(&text);
}

/* The peers of GET /cluster: {id: {"uri": ..., ...}}. */
static void print_nodes(struct kith_json peers)
{
    struct table table = {.columns = 4};
    struct kith_json_iter it = kith_json_iterate(peers);
    struct kith_json peer;
    const char *id;
    size_t n;

    table_cell(&table, "NODE");
    table_cell(&table, "NAME");
    table_cell(&table, "ADDRESS");
    table_cell(&table, "STATE");
    while (kith_json_next_member(&it, &id, &n, &peer)) {
        table_cellf(&table, "%.*s", (int)n, id);
        cli_cell(&table, peer, "name");
        cli_cell(&table, peer, "uri");
        cli_cell(&table, peer, "state");
    }
    cli_print_table(&table);
    table_fini(&table);
}

int command_node(int argc, char **argv)
{
    static const struct flags_spec spec = {
        .usage = "kith node list",
        .about = "The nodes of the cluster.",
        .example = "kith node list --url http://127.0.0.1:7333",
        .words_min = 1,
        .words_max = 1,
    };
    struct cli_answer answer;
    struct kith_json peers;
    const char *word;
    size_t n;
    enum flags_result parsed = flags_parse(&spec, argc, argv, &word, &n);

    if (parsed != FLAGS_OK)
        return parsed == FLAGS_HELP ? CLI_DONE : CLI_USAGE;
    if (strcmp(word, "list") != 0) {
        fprintf(stderr, "kith: node %s: there is only: kith node list\n", word);
        return CLI_USAGE;
    }
    if (!cli_ready())
        return CLI_USAGE;
    if (!cli_ask(&answer, "GET", "/cluster", NULL, 0))
        return CLI_FAILED;
    if (cli.json)
        cli_print_json(answer.result);
    else if (kith_json_get(answer.result, "peers", &peers) && kith_json_count(peers) > 0)
        print_nodes(peers);
    else
        printf("One process, no cluster.\n");
    cli_answer_fini(&answer);
    return CLI_DONE;
}

static uint64_t number_of(struct kith_json object, const char *key)
{
    struct kith_json value;
    uint64_t number = 0;

    if (kith_json_opt(object, key, &value))
        (void)kith_json_u64(value, &number);
    return number;
}

/* "indexing NAME   40000 of 60000 points, building generation 2": only while there is work. */
static bool indexing_row(struct table *table, const char *name)
{
    struct cli_answer answer;
    struct kith_json own, index, phase;
    const char *word = "";
    size_t n;

    if (!cli_ask(&answer, "GET", cli_collection_path(name, ""), NULL, 404))
        return false;
    bool working = answer.response.status == 200 && kith_json_get(answer.result, "kith", &own) &&
                   kith_json_get(own, "index", &index) && kith_json_get(index, "phase", &phase) &&
                   kith_json_str(phase, &word, &n) &&
                   (strcmp(word, "training") == 0 || strcmp(word, "building") == 0);
    if (working) {
        uint64_t generation = number_of(index, "generation");
        table_cellf(table, "indexing %s", name);
        table_cellf(
            table, "%llu of %llu points, %s generation %llu",
            (unsigned long long)number_of(answer.result, "indexed_vectors_count"),
            (unsigned long long)number_of(answer.result, "points_count"), word,
            (unsigned long long)(strcmp(word, "training") == 0 ? generation + 1 : generation));
    }
    cli_answer_fini(&answer);
    return true;
}

/* How many, and those that are being indexed. */
static bool collections_row(struct table *table)
{
    struct cli_answer answer;
    struct kith_json names, item, name;
    bool ok = true;

    if (!cli_ask(&answer, "GET", "/collections", NULL, 0))
        return false;
    if (kith_json_get(answer.result, "collections", &names)) {
        table_cell(table, "collections");
        table_cellf(table, "%zu", kith_json_count(names));
        for (struct kith_json_iter it = kith_json_iterate(names);
             ok && kith_json_next(&it, &item);) {
            const char *text;
            size_t n;
            if (kith_json_get(item, "name", &name) && kith_json_str(name, &text, &n))
                ok = indexing_row(table, text);
        }
    }
    cli_answer_fini(&answer);
    return ok;
}

static bool ready_row(struct table *table, bool *ready)
{
    struct cli_answer answer;

    if (!cli_ask(&answer, "GET", "/readyz", NULL, 503))
        return false;
    *ready = answer.response.status == 200;
    table_cell(table, "ready");
    if (*ready)
        table_cell(table, "yes");
    else
        table_cellf(table, "no: %s",
                    answer.doc != NULL ? cli_refusal(&answer.response, &answer.doc)
                                       : (const char *)answer.response.body.data);
    cli_answer_fini(&answer);
    return true;
}

static bool cluster_rows(struct table *table)
{
    struct cli_answer answer;
    struct kith_json peers;

    if (!cli_ask(&answer, "GET", "/cluster", NULL, 0))
        return false;
    row(table, "cluster", answer.result, "status");
    if (kith_json_get(answer.result, "peers", &peers)) {
        table_cell(table, "nodes");
        table_cellf(table, "%zu", kith_json_count(peers));
    }
    cli_answer_fini(&answer);
    return true;
}

static void status_json(const struct table *table, bool ready)
{
    struct kith_buf buf = {0};
    struct kith_json_writer w = {.buf = &buf};

    kith_jw_begin_object(&w);
    for (size_t i = 2; i + 1 < table->cells_n; i += 2) {
        const char *name = table->cells[i], *value = table->cells[i + 1];

        if (name == NULL || value == NULL)
            continue;
        kith_jw_key(&w, name);
        if (strcmp(name, "ready") == 0)
            kith_jw_bool(&w, ready);
        else if (strcmp(name, "collections") == 0 || strcmp(name, "nodes") == 0)
            kith_jw_u64(&w, strtoull(value, NULL, 10));
        else
            kith_jw_cstr(&w, value);
    }
    kith_jw_end_object(&w);
    if (!buf.failed)
        printf("%.*s\n", (int)buf.len, (const char *)buf.data);
    kith_buf_fini(&buf);
}

int command_status(int argc, char **argv)
{
    static const struct flags_spec spec = {
        .usage = "kith status",
        .about = "What answers at --url, and whether it can serve. Exit status 1 when it cannot.",
        .example = "kith status",
    };
    struct table table = {.columns = 2};
    struct cli_answer answer;
    bool ready = false;
    bool ok;
    enum flags_result parsed = flags_parse(&spec, argc, argv, NULL, &(size_t){0});

    if (parsed != FLAGS_OK)
        return parsed == FLAGS_HELP ? CLI_DONE : CLI_USAGE;
    if (!cli_ready())
        return CLI_USAGE;
    if (!cli_ask(&answer, "GET", "/", NULL, 0))
        return CLI_FAILED;
    table_cell(&table, "WHAT");
    table_cell(&table, "VALUE");
    table_cell(&table, "url");
    table_cell(&table, cli_url());
    row(&table, "server", answer.result, "title");
    row(&table, "version", answer.result, "kith_version");
    row(&table, "compatible with", answer.result, "version");
    cli_answer_fini(&answer);
    ok = ready_row(&table, &ready) && cluster_rows(&table) && collections_row(&table);
    if (ok && cli.json)
        status_json(&table, ready);
    else if (ok)
        cli_print_table(&table);
    table_fini(&table);
    return ok && ready ? CLI_DONE : CLI_FAILED;
}

int command_version(int argc, char **argv)
{
    static const struct flags_spec spec = {
        .usage = "kith version",
        .about = "The version of this program; `kith status` shows the server's.",
        .example = "kith version",
    };
    enum flags_result parsed = flags_parse(&spec, argc, argv, NULL, &(size_t){0});

    if (parsed != FLAGS_OK)
        return parsed == FLAGS_HELP ? CLI_DONE : CLI_USAGE;
    if (cli.json)
        printf("{\"version\":\"%s\"}\n", KITH_VERSION);
    else
        printf("kith %s\n", KITH_VERSION);
    return CLI_DONE;
}

int command_help(int argc, char **argv)
{
    const struct verb *verb = argc > 1 ? verbs_find(argv[1]) : NULL;

    if (verb != NULL && verb->run != command_help) {
        char help[] = "--help";
        /* "kith help collection create" is "kith collection create --help". */
        char *args[] = {argv[1], argc > 2 ? argv[2] : help, help, NULL};
        return verb->run(argc > 2 ? 3 : 2, args);
    }
    if (argc > 1 && verb == NULL && argv[1][0] != '-') {
        fprintf(stderr, "kith: no verb %s; these there are:\n", argv[1]);
    }
    printf("Kith: semantic search.\n\nusage: kith VERB ...\n\n");
    for (const struct verb *v = verbs; v->name != NULL; v++)
        printf("  %-12s %s\n", v->name, v->help);
    printf("\n`kith help VERB` says more, with examples. Verbs talk to --url or KITH_URL\n"
           "(default %s). Exit status: 0 done, 1 failed, 2 wrong usage, 3 done in\n"
           "part (an import that left lines out).\n",
           CLI_URL_DEFAULT);
    return argc > 1 && verb == NULL && argv[1][0] != '-' ? CLI_USAGE : CLI_DONE;
}
