#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/importer.h"
#include "proto/kith_limits.h"

static const char *format, *text_field, *first_id, *batch, *parallel, *errors_max, *retry_s;
static bool strict, restart;

static bool options_read(struct source_options *source, struct importer_options *options)
{
    uint64_t batch_n = 500, parallel_n = 4, retry_n = 120;

    if (format != NULL && !source_format_named(format, &source->format)) {
        fprintf(stderr, "kith: --format %s: want jsonl, npy, fvecs or text\n", format);
        return false;
    }
    source->text_field = text_field;
    source->has_first_id = first_id != NULL;
    options->errors_max = 1000;
    options->strict = strict;
    if (!flags_u64("first-id", first_id, 0, UINT64_MAX / 2, &source->first_id) ||
        !flags_u64("batch", batch, 1, KITH_POINTS_PER_BATCH_MAX, &batch_n) ||
        !flags_u64("parallel", parallel, 1, 64, &parallel_n) ||
        !flags_u64("retry", retry_s, 0, 86400, &retry_n) ||
        !flags_u64("max-errors", errors_max, 1, UINT64_MAX, &options->errors_max))
        return false;
    options->batch = (uint32_t)batch_n;
    options->parallel = (uint32_t)parallel_n;
    options->retry_ms = retry_n * 1000;
    return true;
}

/* What an import means: two that differ in it must not share a journal. */
static void target_text(char *out, size_t bytes, const char *collection,
                        const struct source_options *options)
{
    snprintf(out, bytes, "%s\n%s\n%d\n%s\n%llu", cli_url(), collection, (int)options->format,
             options->text_field == NULL ? "" : options->text_field,
             (unsigned long long)options->first_id);
}

static void summary(const char *collection, const struct journal_state *state,
                    const struct journal_state *start, double seconds, const char *how)
{
    uint64_t points = state->points - start->points;

    if (cli.json) {
        printf("{\"collection\":\"%s\",\"status\":\"%s\",\"points\":%llu,\"bad\":%llu,"
               "\"seconds\":%.3f,\"points_per_s\":%.1f}\n",
               collection, how, (unsigned long long)state->points, (unsigned long long)state->bad,
               seconds, (double)points / (seconds + 1e-9));
        return;
    }
    printf("%s: %llu points in %.1f s (%.0f/s)", collection, (unsigned long long)points, seconds,
           (double)points / (seconds + 1e-9));
    if (start->points > 0)
        printf(", %llu with the earlier run", (unsigned long long)state->points);
    if (state->bad > 0)
        printf(", %llu left out", (unsigned long long)state->bad);
    printf(strcmp(how, "done") == 0 ? "\n" : ": %s\n", how);
}

static int finish(const char *collection, const struct journal *journal, enum importer_end end,
                  const struct journal_state *state, const struct journal_state *start,
                  double seconds)
{
    if (end == IMPORTER_DONE) {
        journal_remove(journal);
        summary(collection, state, start, seconds, "done");
        return state->bad > 0 ? CLI_PARTLY : CLI_DONE;
    }
    if (state->offset > 0 && journal_save(journal, state))
        fprintf(stderr,
                "kith: got as far as %llu; the same command goes on from there, --restart "
                "begins again\n",
                (unsigned long long)state->row);
    summary(collection, state, start, seconds,
            end == IMPORTER_INTERRUPTED ? "interrupted" : "failed");
    return CLI_FAILED;
}

static int import_file(const char *collection, const char *path,
                       struct source_options *source_options, struct importer_options *options)
{
    struct source *source = NULL;
    struct journal journal = {0};
    struct journal_state state = {0}, start = {0};
    struct kith_diag diag = {0};
    struct cli_answer answer;
    char target[3072];
    double seconds = 0;
    enum importer_end end;
    int exit_status;

    if (source_open(&source, path, source_options, &diag) != KITH_OK) {
        fprintf(stderr, "kith: %s: %s\n", path, diag.text);
        return CLI_FAILED;
    }
    exit_status = CLI_FAILED;
    /* One clear error now, instead of one per batch. */
    if (!cli_ask(&answer, "GET", cli_collection_path(collection, ""), NULL, 404))
        goto out;
    if (answer.response.status == 404) {
        fprintf(stderr,
                "kith: there is no collection %s yet. `kith collection create %s --encoder ngram`\n"
                "makes one that takes text, `--dim N` instead one that takes vectors.\n",
                collection, collection);
        cli_answer_fini(&answer);
        goto out;
    }
    cli_answer_fini(&answer);
    target_text(target, sizeof target, collection, source_options);
    if (source_bytes(source) > 0)
        (void)journal_open(&journal, target, path, source_fd(source));
    if (restart) {
        journal_remove(&journal);
    } else if (journal_load(&journal, &state)) {
        if (source_seek(source, state.offset, state.row))
            fprintf(stderr, "going on behind %s %llu (--restart begins again)\n",
                    source_is_lines(source) ? "line" : "row", (unsigned long long)state.row);
        else
            state = start;
    }
    start = state;
    end = importer_run(source, &journal, options, &state, &seconds);
    exit_status = finish(collection, &journal, end, &state, &start, seconds);
out:
    source_close(source);
    return exit_status;
}

int command_import(int argc, char **argv)
{
    static const struct flag flags[] = {
        {"format", "NAME", "jsonl, npy, fvecs or text (default: by content and name)", &format,
         NULL},
        {"text-field", "FIELD", "jsonl: encode this field, keep the object as payload", &text_field,
         NULL},
        {"first-id", "N", "where ids begin that the file does not give (lines 1, rows 0)",
         &first_id, NULL},
        {"batch", "N", "points per request (default 500)", &batch, NULL},
        {"parallel", "N", "requests in flight (default 4)", &parallel, NULL},
        {"strict", NULL, "stop at the first bad line", NULL, &strict},
        {"max-errors", "N", "give up after so many bad lines (default 1000)", &errors_max, NULL},
        {"retry", "SECONDS", "how long to wait for a busy or absent server (default 120)", &retry_s,
         NULL},
        {"restart", NULL, "begin again, whatever an earlier run did", NULL, &restart},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static const struct flags_spec spec = {
        .usage = "kith import COLLECTION FILE",
        .about =
            "Loads points. FILE (- is standard input) is one of\n"
            "  jsonl  {\"id\": 1, \"vector\": [...] or {\"text\": \"...\"}, \"payload\": {...}} "
            "per line\n"
            "  npy    a float32 matrix (NumPy), ids are row numbers\n"
            "  fvecs  the same as in Faiss's and TEXMEX's data sets\n"
            "  text   one text per line, to be encoded; ids are line numbers\n"
            "Bad lines are reported by number and left out (exit status 3). An import that was\n"
            "interrupted goes on where it was when the same command is given again.",
        .example = "kith import faq demo/faq.jsonl\n"
                   "kith import docs articles.jsonl --text-field title\n"
                   "kith import products embeddings.npy --first-id 1000",
        .flags = flags,
        .words_min = 2,
        .words_max = 2,
    };
    struct source_options source_options = {0};
    struct importer_options options = {0};
    const char *words[2];
    size_t n;
    enum flags_result parsed = flags_parse(&spec, argc, argv, words, &n);

    if (parsed != FLAGS_OK)
        return parsed == FLAGS_HELP ? CLI_DONE : CLI_USAGE;
    if (!cli_ready() || !options_read(&source_options, &options))
        return CLI_USAGE;
    options.collection = words[0];
    options.name = words[0];
    return import_file(words[0], words[1], &source_options, &options);
}
