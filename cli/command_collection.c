#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "proto/kith_limits.h"

static const char *dim_text, *distance, *encoder, *encoder_file, *dictionary, *slices_text;
static const char *quantization;
static const char *index_text;
static bool if_not_exists, yes;

static const char *distance_word(const char *text)
{
    static const char *const words[][2] = {
        {"cosine", "Cosine"}, {"dot", "Dot"}, {"euclid", "Euclid"}, {"manhattan", "Manhattan"}};

    for (size_t i = 0; i < 4; i++)
        if (strcmp(text, words[i][0]) == 0 || strcmp(text, words[i][1]) == 0)
            return words[i][1];
    return NULL;
}

static void write_create(struct kith_json_writer *w, uint64_t dim, uint64_t slices)
{
    kith_jw_begin_object(w);
    if (encoder != NULL) {
        kith_jw_key(w, "encoder");
        kith_jw_begin_object(w);
        kith_jw_key(w, "kind");
        kith_jw_cstr(w, encoder);
        if (dim > 0) {
            kith_jw_key(w, "dim");
            kith_jw_u64(w, dim);
        }
        if (encoder_file != NULL) {
            kith_jw_key(w, "file");
            kith_jw_cstr(w, encoder_file);
        }
        if (dictionary != NULL) {
            kith_jw_key(w, "dictionary");
            kith_jw_cstr(w, dictionary);
        }
        kith_jw_end_object(w);
    } else {
        kith_jw_key(w, "vectors");
        kith_jw_begin_object(w);
        kith_jw_key(w, "size");
        kith_jw_u64(w, dim);
        kith_jw_key(w, "distance");
        kith_jw_cstr(w, distance == NULL ? "Cosine" : distance_word(distance));
        kith_jw_end_object(w);
    }
    if (quantization != NULL) {
        kith_jw_key(w, "quantization");
        kith_jw_cstr(w, quantization);
    }
    if (index_text != NULL) {
        kith_jw_key(w, "index");
        kith_jw_cstr(w, index_text);
    }
    if (slices > 0) {
        kith_jw_key(w, "shard_number");
        kith_jw_u64(w, slices);
    }
    kith_jw_end_object(w);
}

/* Whether the flags make a collection; says what is missing. */
static bool is_whole(uint64_t dim)
{
    if (encoder == NULL && dim == 0) {
        fprintf(stderr,
                "kith: give --encoder KIND (it takes text) or --dim N (it takes vectors)\n");
        return false;
    }
    if (distance != NULL && (distance_word(distance) == NULL || encoder != NULL)) {
        fprintf(stderr,
                "kith: --distance is cosine, dot, euclid or manhattan; encoders bring their "
                "own (cosine)\n");
        return false;
    }
    return true;
}

static int create(int argc, char **argv)
{
    static const struct flag flags[] = {
        {"encoder", "KIND", "how text becomes a vector: ngram or wordvec", &encoder, NULL},
        {"encoder-file", "NAME", "a file in the coordinator's encoders folder (wordvec)",
         &encoder_file, NULL},
        {"encoder-dictionary", "NAME", "words to cut Chinese text by, in the same folder (wordvec)",
         &dictionary, NULL},
        {"dim", "N", "numbers per vector; needed without an encoder", &dim_text, NULL},
        {"distance", "NAME", "cosine (default), dot, euclid or manhattan", &distance, NULL},
        {"quantization", "WORD",
         "what the index keeps of vectors: auto (default), none, f16, int8 or pq4", &quantization,
         NULL},
        {"index", "faiss:STRING", "an index by Faiss instead of ours, from its factory string",
         &index_text, NULL},
        {"slices", "N", "into how many pieces to cut it (default: the server's)", &slices_text,
         NULL},
        {"if-not-exists", NULL, "no error when it is there already", NULL, &if_not_exists},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static const struct flags_spec spec = {
        .usage = "kith collection create NAME",
        .about =
            "Makes a collection. Give it an encoder, and it takes text; or give it --dim, and\n"
            "it takes vectors.",
        .example = "kith collection create faq --encoder ngram\n"
                   "kith collection create products --dim 768 --distance dot",
        .flags = flags,
        .words_min = 1,
        .words_max = 1,
    };
    const char *name;
    size_t n;
    uint64_t dim = 0, slices = 0;
    struct kith_buf body = {0};
    struct kith_json_writer w = {.buf = &body};
    struct cli_answer answer;
    enum flags_result parsed = flags_parse(&spec, argc, argv, &name, &n);
    bool ok;

    if (parsed != FLAGS_OK)
        return parsed == FLAGS_HELP ? CLI_DONE : CLI_USAGE;
    if (!cli_ready() || !flags_u64("dim", dim_text, 1, KITH_DIM_MAX, &dim) ||
        !flags_u64("slices", slices_text, 1, KITH_SLICES_PER_COLLECTION_MAX, &slices) ||
        !is_whole(dim))
        return CLI_USAGE;
    write_create(&w, dim, slices);
    ok = cli_ask(&answer, "PUT", cli_collection_path(name, ""), &body, if_not_exists ? 409 : 0);
    kith_buf_fini(&body);
    if (!ok)
        return CLI_FAILED;
    if (cli.json)
        cli_print_json(kith_json_root(answer.doc));
    else
        printf("%s: %s\n", name, answer.response.status == 409 ? "was there already" : "created");
    cli_answer_fini(&answer);
    return CLI_DONE;
}

/* result.config.params.vectors of an info, or of its only named vector. */
static bool vectors_of(struct kith_json info, struct kith_json *vectors)
{
    struct kith_json config, params, size;

    if (!kith_json_get(info, "config", &config) || !kith_json_get(config, "params", &params) ||
        !kith_json_get(params, "vectors", vectors))
        return false;
    if (!kith_json_get(*vectors, "size", &size)) {
        struct kith_json_iter it = kith_json_iterate(*vectors);
        const char *key;
        size_t n;
        return kith_json_next_member(&it, &key, &n, vectors);
    }
    return true;
}

static bool info_row(struct table *table, const char *name)
{
    struct cli_answer answer;
    struct kith_json vectors, own, index;

    if (!cli_ask(&answer, "GET", cli_collection_path(name, ""), NULL, 0))
        return false;
    table_cell(table, name);
    cli_cell(table, answer.result, "points_count");
    cli_cell(table, answer.result, "indexed_vectors_count");
    if (vectors_of(answer.result, &vectors)) {
        cli_cell(table, vectors, "size");
        cli_cell(table, vectors, "distance");
    } else {
        table_cell(table, "-");
        table_cell(table, "-");
    }
    if (kith_json_get(answer.result, "kith", &own) && kith_json_get(own, "index", &index))
        cli_cell(table, index, "phase");
    else
        table_cell(table, "-");
    cli_cell(table, answer.result, "status");
    cli_answer_fini(&answer);
    return true;
}

static int list(int argc, char **argv)
{
    static const struct flags_spec spec = {
        .usage = "kith collection list",
        .about = "All collections, with their points, vectors and how far their indexes are.",
        .example = "kith collection list --json",
    };
    struct table table = {.columns = 7, .right = {false, true, true, true}};
    struct cli_answer answer;
    struct kith_json names, item, name;
    enum flags_result parsed = flags_parse(&spec, argc, argv, NULL, &(size_t){0});
    int exit_status = CLI_DONE;

    if (parsed != FLAGS_OK)
        return parsed == FLAGS_HELP ? CLI_DONE : CLI_USAGE;
    if (!cli_ready())
        return CLI_USAGE;
    if (!cli_ask(&answer, "GET", "/collections", NULL, 0))
        return CLI_FAILED;
    if (cli.json) {
        cli_print_json(answer.result);
    } else if (kith_json_get(answer.result, "collections", &names)) {
        table_cell(&table, "NAME");
        table_cell(&table, "POINTS");
        table_cell(&table, "INDEXED");
        table_cell(&table, "DIM");
        table_cell(&table, "DISTANCE");
        table_cell(&table, "INDEX");
        table_cell(&table, "STATUS");
        for (struct kith_json_iter it = kith_json_iterate(names); kith_json_next(&it, &item);) {
            const char *text;
            size_t n;
            if (kith_json_get(item, "name", &name) && kith_json_str(name, &text, &n) &&
                !info_row(&table, text))
                exit_status = CLI_FAILED;
        }
        if (kith_json_count(names) == 0)
            printf(
                "No collections yet. `kith collection create NAME --encoder ngram` makes one.\n");
        else
            cli_print_table(&table);
    }
    table_fini(&table);
    cli_answer_fini(&answer);
    return exit_status;
}

/* Nested objects as dotted keys. */
static void info_lines(struct table *table, const char *prefix, struct kith_json object)
{
    struct kith_json_iter it = kith_json_iterate(object);
    struct kith_json value;
    const char *key;
    size_t n;

    while (kith_json_next_member(&it, &key, &n, &value)) {
        char path[256];

        snprintf(path, sizeof path, "%s%s%.*s", prefix, prefix[0] == '\0' ? "" : ".", (int)n, key);
        if (kith_json_type(value) == KITH_JSON_OBJECT && kith_json_count(value) > 0) {
            info_lines(table, path, value);
        } else if (kith_json_type(value) != KITH_JSON_NULL) {
            struct kith_buf text = {0};
            cli_text_of(&text, value);
            table_cell(table, path);
            table_cell(table, text.len == 0 ? "" : (const char *)text.data);
            kith_buf_fini(&text);
        }
    }
}

static int info(int argc, char **argv)
{
    static const struct flags_spec spec = {
        .usage = "kith collection info NAME",
        .about = "Everything the server says about a collection.",
        .example = "kith collection info faq",
        .words_min = 1,
        .words_max = 1,
    };
    struct table table = {.columns = 2};
    struct cli_answer answer;
    const char *name;
    size_t n;
    enum flags_result parsed = flags_parse(&spec, argc, argv, &name, &n);

    if (parsed != FLAGS_OK)
        return parsed == FLAGS_HELP ? CLI_DONE : CLI_USAGE;
    if (!cli_ready())
        return CLI_USAGE;
    if (!cli_ask(&answer, "GET", cli_collection_path(name, ""), NULL, 0))
        return CLI_FAILED;
    if (cli.json) {
        cli_print_json(answer.result);
    } else {
        table_cell(&table, "FIELD");
        table_cell(&table, "VALUE");
        info_lines(&table, "", answer.result);
        cli_print_table(&table);
    }
    table_fini(&table);
    cli_answer_fini(&answer);
    return CLI_DONE;
}

static int memory(int argc, char **argv)
{
    static const struct flags_spec spec = {
        .usage = "kith collection memory NAME",
        .about =
            "Where the bytes of a collection are: on disk, mapped, in memory now, locked there.",
        .example = "kith collection memory faq",
        .words_min = 1,
        .words_max = 1,
    };
    static const char *const columns[] = {"file", "mapped", "resident", "locked"};
    struct table table = {.columns = 5, .right = {false, true, true, true, true}};
    struct cli_answer answer;
    struct kith_json sections, use;
    const char *name, *section;
    size_t n;
    enum flags_result parsed = flags_parse(&spec, argc, argv, &name, &n);

    if (parsed != FLAGS_OK)
        return parsed == FLAGS_HELP ? CLI_DONE : CLI_USAGE;
    if (!cli_ready())
        return CLI_USAGE;
    if (!cli_ask(&answer, "GET", cli_own_collection_path(name, "/memory"), NULL, 0))
        return CLI_FAILED;
    if (cli.json) {
        cli_print_json(answer.result);
    } else if (kith_json_get(answer.result, "sections", &sections)) {
        table_cell(&table, "SECTION");
        table_cell(&table, "FILE");
        table_cell(&table, "MAPPED");
        table_cell(&table, "RESIDENT");
        table_cell(&table, "LOCKED");
        for (struct kith_json_iter it = kith_json_iterate(sections);
             kith_json_next_member(&it, &section, &n, &use);) {
            table_cellf(&table, "%.*s", (int)n, section);
            for (size_t i = 0; i < 4; i++)
                cli_cell(&table, use, columns[i]);
        }
        table_cell(&table, "total");
        for (size_t i = 0; i < 4 && kith_json_get(answer.result, "total", &use); i++)
            cli_cell(&table, use, columns[i]);
        cli_print_table(&table);
    }
    table_fini(&table);
    cli_answer_fini(&answer);
    return CLI_DONE;
}

static int drop(int argc, char **argv)
{
    static const struct flag flags[] = {
        {"yes", NULL, "do not ask", NULL, &yes},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static const struct flags_spec spec = {
        .usage = "kith collection delete NAME",
        .about = "Deletes a collection and all its points. This cannot be undone; `kith export`\n"
                 "makes a copy.",
        .example = "kith collection delete old --yes",
        .flags = flags,
        .words_min = 1,
        .words_max = 1,
    };
    struct cli_answer answer;
    char question[256];
    const char *name;
    size_t n;
    enum flags_result parsed = flags_parse(&spec, argc, argv, &name, &n);

    if (parsed != FLAGS_OK)
        return parsed == FLAGS_HELP ? CLI_DONE : CLI_USAGE;
    if (!cli_ready())
        return CLI_USAGE;
    snprintf(question, sizeof question, "Delete collection %s with all its points?", name);
    if (!yes && !cli_confirm(question))
        return CLI_USAGE;
    /* Deleting what is not there is no error for the server: ask first. */
    if (!cli_ask(&answer, "GET", cli_collection_path(name, ""), NULL, 0))
        return CLI_FAILED;
    cli_answer_fini(&answer);
    if (!cli_ask(&answer, "DELETE", cli_collection_path(name, ""), NULL, 0))
        return CLI_FAILED;
    if (cli.json)
        cli_print_json(kith_json_root(answer.doc));
    else
        printf("%s: deleted\n", name);
    cli_answer_fini(&answer);
    return CLI_DONE;
}

int command_collection(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
        const char *help;
    } words[] = {
        {"create", create, "NAME (--encoder KIND | --dim N) ...  make one"},
        {"list", list, "  all of them"},
        {"info", info, "NAME  everything about one"},
        {"memory", memory, "NAME  where its bytes are"},
        {"delete", drop, "NAME  drop one, with its points"},
    };
    bool help = argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0;

    for (size_t i = 0; !help && i < sizeof words / sizeof words[0]; i++)
        if (strcmp(argv[1], words[i].name) == 0)
            return words[i].run(argc - 1, argv + 1);
    if (!help)
        fprintf(stderr, "kith: collection %s: no such word\n", argv[1]);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        fprintf(help && argc > 1 ? stdout : stderr, "kith collection %-7s %s\n", words[i].name,
                words[i].help);
    return help && argc > 1 ? CLI_DONE : CLI_USAGE;
}
