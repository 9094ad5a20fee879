/* How many queries a second each encoder turns into vectors, on one thread, cached and not.
 *
 * usage: bench_encode [--dir DIR --file NAME [--dictionary NAME]]
 *
 * The queries are the questions and held-out phrasings of demo/ (run from the source folder, or
 * set KITH_SOURCE). Without --file the word vectors are a generated table of 50,000 made-up words
 * plus those of the queries, 100 dimensions: right for speed, meaningless for quality. Prints a
 * table, then a JSON line for each row. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/kith_clock.h"
#include "coordinator/encode/encode_cache.h"
#include "coordinator/encode/encoder.h"
#include "proto/kith_limits.h"

#define QUERIES_MAX 2000
#define RUN_NS      1000000000ull

static char *queries[QUERIES_MAX];
static size_t queries_n;

struct row {
    char name[64];
    uint32_t dim;
    double per_second;
    double us;
};

static struct row rows[16];
static size_t rows_n;

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "bench_encode: %s\n", what);
    exit(1);
}

static void load_queries(void)
{
    const char *root = getenv("KITH_SOURCE");
    char path[512];
    char line[2048];
    snprintf(path, sizeof path, "%s/demo/eval.tsv", root != NULL ? root : ".");
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        die("cannot open demo/eval.tsv: run from the source folder or set KITH_SOURCE");
    }
    while (fgets(line, sizeof line, file) != NULL && queries_n < QUERIES_MAX) {
        char *save = NULL;
        if (line[0] == '#' || strtok_r(line, "\t", &save) == NULL ||
            strtok_r(NULL, "\t", &save) == NULL) {
            continue;
        }
        const char *text = strtok_r(NULL, "\t", &save);
        if (text != NULL) {
            queries[queries_n++] = strdup(text);
        }
    }
    fclose(file);
    if (queries_n == 0) {
        die("demo/eval.tsv holds no query");
    }
}

/* A table as large as a small real one; every other query word is in it, the rest fall back. */
static void write_vectors(const char *dir)
{
    char path[512];
    snprintf(path, sizeof path, "%s/made.txt", dir);
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        die("cannot write the generated word vectors");
    }
    uint32_t seed = 1;
    for (size_t i = 0; i < 50000; i++) {
        char word[64];
        snprintf(word, sizeof word, "made%zu", i);
        if (i < queries_n * 2) {
            const char *query = queries[i / 2];
            size_t len = strcspn(query + (i % 2 ? strcspn(query, " ") : 0), " ");
            if (len > 0 && len < sizeof word) {
                snprintf(word, sizeof word, "%.*s", (int)len, query);
            }
        }
        fprintf(file, "%s", word);
        for (int d = 0; d < 100; d++) {
            seed = seed * 1664525u + 1013904223u; /* Numerical Recipes' generator; fixed seed */
            fprintf(file, " %.3f", (double)(seed >> 8) / (1 << 23) - 1.0);
        }
        fputc('\n', file);
    }
    fclose(file);
}

static void record(const char *name, uint32_t dim, uint64_t done, uint64_t ns)
{
    struct row *row = &rows[rows_n++];
    snprintf(row->name, sizeof row->name, "%s", name);
    row->dim = dim;
    row->per_second = (double)done * 1e9 / (double)ns;
    row->us = (double)ns / 1e3 / (double)done;
}

static void measure(const char *name, const struct encoder *enc, struct encode_cache *cache)
{
    static float out[KITH_DIM_MAX];
    uint64_t fingerprint = encoder_fingerprint(enc);
    uint32_t dim = encoder_dim(enc);
    uint64_t start = 0;
    uint64_t done = 0;
    uint64_t now = 0;
    for (int pass = 0; pass == 0 || now - start < RUN_NS; pass++) { /* the first pass warms */
        if (pass == 1) {
            start = kith_now_ns();
            done = 0;
        }
        for (size_t i = 0; i < queries_n; i++) {
            size_t len = strlen(queries[i]);
            done++;
            if (cache != NULL && encode_cache_get(cache, fingerprint, queries[i], len, out, dim)) {
                continue;
            }
            if (encoder_encode(enc, queries[i], len, out, NULL) != KITH_OK) {
                die("a query could not be encoded");
            }
            if (cache != NULL) {
                encode_cache_put(cache, fingerprint, queries[i], len, out, dim);
            }
        }
        now = pass == 0 ? 0 : kith_now_ns();
    }
    record(name, dim, done, now - start);
}

static void run(const char *name, const struct encoder_config *cfg)
{
    struct encoder *enc = NULL;
    struct encode_cache *cache = NULL;
    struct kith_diag diag = {0};
    char label[64];
    uint64_t start = kith_now_ns();
    if (encoder_open(&enc, cfg, &diag) != KITH_OK ||
        encode_cache_new(&cache, KITH_ENCODE_CACHE_ENTRIES, 0, &diag) != KITH_OK) {
        die(diag.text);
    }
    fprintf(stderr, "%s: opened in %.0f ms\n", name, (double)(kith_now_ns() - start) / 1e6);
    measure(name, enc, NULL);
    snprintf(label, sizeof label, "%s cached", name);
    measure(label, enc, cache);
    encode_cache_free(cache);
    encoder_close(enc);
}

static void print_rows(void)
{
    printf("%-24s %6s %14s %10s\n", "encoder", "dim", "queries/s", "us/query");
    for (size_t i = 0; i < rows_n; i++) {
        printf("%-24s %6u %14.0f %10.2f\n", rows[i].name, rows[i].dim, rows[i].per_second,
               rows[i].us);
    }
    for (size_t i = 0; i < rows_n; i++) {
        printf("{\"bench\":\"encode\",\"encoder\":\"%s\",\"dim\":%u,\"queries\":%zu,"
               "\"queries_per_second\":%.0f,\"us_per_query\":%.3f}\n",
               rows[i].name, rows[i].dim, queries_n, rows[i].per_second, rows[i].us);
    }
}

int main(int argc, char **argv)
{
    char made[] = "/tmp/kith-bench-encode-XXXXXX";
    struct encoder_config wordvec = {.kind = "wordvec"};
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--dir") == 0) {
            wordvec.dir = argv[i + 1];
        } else if (strcmp(argv[i], "--file") == 0) {
            wordvec.file = argv[i + 1];
        } else if (strcmp(argv[i], "--dictionary") == 0) {
            wordvec.dictionary = argv[i + 1];
        } else {
            die("usage: bench_encode [--dir DIR --file NAME [--dictionary NAME]]");
        }
    }
    load_queries();
    run("ngram", &(struct encoder_config){.kind = "ngram"});
    run("ngram 1024", &(struct encoder_config){.kind = "ngram", .dim = 1024});
    if (wordvec.file == NULL) {
        if (mkdtemp(made) == NULL) {
            die("cannot make a temporary folder");
        }
        write_vectors(made);
        wordvec.dir = made;
        wordvec.file = "made.txt";
    }
    run("wordvec", &wordvec);
    if (wordvec.dir == made) {
        char path[512];
        snprintf(path, sizeof path, "%s/made.txt", made);
        unlink(path);
        snprintf(path, sizeof path, "%s/made.txt.kwv", made);
        unlink(path);
        rmdir(made);
    }
    print_rows();
    return 0;
}
