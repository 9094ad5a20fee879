/* The demo collections of demo/ retrieve sensibly with the ngram encoder: every query of
 * queries.tsv, which users see first, and a floor on hit@1 and hit@5 over the held-out phrasings of
 * eval.tsv. The search here is a plain scan, so a failure is the encoder's or the data's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "coordinator/encode/encoder.h"

#define RECORDS_MAX 8192
#define TOP         5

struct record {
    char key[64]; /* emoji or topic */
    float *vector;
};

struct collection {
    struct record records[RECORDS_MAX];
    size_t n;
};

static struct encoder *encoder;
static uint32_t dim; /* the default, and what demo/CREDITS.md recommends */

static FILE *demo_open(const char *name)
{
    char path[512];
    const char *end = strstr(__FILE__, "coordinator/");
    assert_non_null(end);
    snprintf(path, sizeof path, "%.*sdemo/%s", (int)(end - __FILE__), __FILE__, name);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        fail_msg("cannot open %s", path);
    }
    return file;
}

/* The string after "field": in a JSON line of ours; the only escapes there are \" and \\. */
static void json_text(const char *line, const char *field, char *out, size_t cap)
{
    char mark[32];
    snprintf(mark, sizeof mark, "\"%s\":\"", field);
    const char *at = strstr(line, mark);
    assert_non_null(at);
    size_t n = 0;
    for (at += strlen(mark); *at != '"'; at++) {
        at += *at == '\\';
        assert_true(n + 1 < cap);
        out[n++] = *at;
    }
    out[n] = '\0';
}

static float *encode(const char *text)
{
    float *vector = malloc(dim * sizeof *vector);
    struct kith_diag diag = {0};
    if (encoder_encode(encoder, text, strlen(text), vector, &diag) != KITH_OK) {
        fail_msg("\"%s\": %s", text, diag.text);
    }
    return vector;
}

static struct collection *load(const char *name, const char *key)
{
    struct collection *c = calloc(1, sizeof *c);
    FILE *file = demo_open(name);
    char line[16384];
    char text[8192];
    while (fgets(line, sizeof line, file) != NULL) {
        assert_true(c->n < RECORDS_MAX && strchr(line, '\n') != NULL);
        assert_memory_equal(line, "{\"id\":", 6);
        json_text(line, "text", text, sizeof text);
        json_text(line, key, c->records[c->n].key, sizeof c->records[c->n].key);
        c->records[c->n++].vector = encode(text);
    }
    fclose(file);
    return c;
}

static void collection_free(struct collection *c)
{
    for (size_t i = 0; i < c->n; i++) {
        free(c->records[i].vector);
    }
    free(c);
}

static bool is_listed(const char *key, const char *wanted)
{
    size_t len = strlen(key);
    for (const char *at = wanted; (at = strstr(at, key)) != NULL; at++) {
        if ((at == wanted || at[-1] == ' ') && (at[len] == '\0' || at[len] == ' ')) {
            return true;
        }
    }
    return false;
}

/* The rank of the first record that counts, from 0; TOP when it is not among the first TOP. */
static size_t rank_of(const struct collection *c, const char *query, const char *wanted,
                      const char **best)
{
    double top[TOP];
    size_t ids[TOP] = {0};
    size_t n = 0;
    float *vector = encode(query);
    for (size_t i = 0; i < c->n; i++) {
        double dot = 0;
        for (uint32_t d = 0; d < dim; d++) {
            dot += (double)vector[d] * (double)c->records[i].vector[d];
        }
        size_t at = n < TOP ? n++ : TOP;
        while (at > 0 && top[at - 1] < dot) {
            if (at < TOP) {
                top[at] = top[at - 1];
                ids[at] = ids[at - 1];
            }
            at--;
        }
        if (at < TOP) {
            top[at] = dot;
            ids[at] = i;
        }
    }
    free(vector);
    *best = c->records[ids[0]].key;
    for (size_t i = 0; i < n; i++) {
        if (is_listed(c->records[ids[i]].key, wanted)) {
            return i;
        }
    }
    return TOP;
}

static struct collection *emoji;
static struct collection *faq;

static const struct collection *collection_of(const char *name)
{
    return strcmp(name, "emoji") == 0 ? emoji : faq;
}

/* Splits a line at tabs; false for a comment. */
static bool split(char *line, char **fields, size_t n)
{
    line[strcspn(line, "\n")] = '\0';
    if (line[0] == '#' || line[0] == '\0') {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        fields[i] = line;
        line = strchr(line, '\t');
        if (i + 1 < n) {
            assert_non_null(line);
            *line++ = '\0';
        }
    }
    return true;
}

static void test_encoder_demo_answers_its_queries(void **state)
{
    (void)state;
    FILE *file = demo_open("queries.tsv");
    char line[1024];
    char *field[3];
    int wrong = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        const char *best;
        if (split(line, field, 3) &&
            rank_of(collection_of(field[0]), field[1], field[2], &best) != 0) {
            print_message("%s: \"%s\" gives %s, wanted %s\n", field[0], field[1], best, field[2]);
            wrong++;
        }
    }
    fclose(file);
    assert_int_equal(wrong, 0);
}

struct score {
    const char *collection;
    const char *lang;
    double floor_1;
    double floor_5;
    int n;
    int hit_1;
    int hit_5;
};

static void test_encoder_demo_finds_held_out_phrasings(void **state)
{
    (void)state;
    struct score scores[] = {
        {.collection = "faq", .lang = "zh", .floor_1 = 0.45, .floor_5 = 0.68},
        {.collection = "faq", .lang = "en", .floor_1 = 0.45, .floor_5 = 0.65},
        {.collection = "emoji", .lang = "zh", .floor_1 = 0.80, .floor_5 = 0.87},
        {.collection = "emoji", .lang = "en", .floor_1 = 0.78, .floor_5 = 0.90},
    };
    const size_t scores_n = sizeof scores / sizeof scores[0];
    FILE *file = demo_open("eval.tsv");
    bool loud = getenv("KITH_DEMO_MISSES") != NULL;
    char line[1024];
    char *field[4];
    while (fgets(line, sizeof line, file) != NULL) {
        if (!split(line, field, 4)) {
            continue;
        }
        const char *best;
        size_t rank = rank_of(collection_of(field[0]), field[2], field[3], &best);
        for (size_t i = 0; i < scores_n; i++) {
            if (strcmp(scores[i].collection, field[0]) == 0 &&
                strcmp(scores[i].lang, field[1]) == 0) {
                scores[i].n++;
                scores[i].hit_1 += rank == 0;
                scores[i].hit_5 += rank < TOP;
            }
        }
        if (loud && rank != 0) {
            print_message("miss (%zu): %s -> %s, not %s\n", rank, field[2], best, field[3]);
        }
    }
    fclose(file);
    for (size_t i = 0; i < scores_n; i++) {
        const struct score *s = &scores[i];
        assert_true(s->n > 0);
        double hit_1 = (double)s->hit_1 / s->n;
        double hit_5 = (double)s->hit_5 / s->n;
        print_message("dim %u, %s %s: %d queries, hit@1 %.3f, hit@5 %.3f\n", dim, s->collection,
                      s->lang, s->n, hit_1, hit_5);
        assert_true(hit_1 >= s->floor_1);
        assert_true(hit_5 >= s->floor_5);
    }
}

static int setup(void)
{
    struct encoder_config cfg = {.kind = "ngram", .dim = dim};
    if (encoder_open(&encoder, &cfg, NULL) != KITH_OK) {
        return -1;
    }
    dim = encoder_dim(encoder);
    emoji = load("emoji.jsonl", "emoji");
    faq = load("faq.jsonl", "topic");
    return 0;
}

static int setup_default(void **state)
{
    (void)state;
    dim = 0;
    return setup();
}

static int setup_recommended(void **state)
{
    (void)state;
    dim = 1024;
    return setup();
}

static int teardown(void **state)
{
    (void)state;
    collection_free(emoji);
    collection_free(faq);
    encoder_close(encoder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encoder_demo_answers_its_queries),
        cmocka_unit_test(test_encoder_demo_finds_held_out_phrasings),
    };
    return cmocka_run_group_tests_name("default dim", tests, setup_default, teardown) +
           cmocka_run_group_tests_name("dim 1024", tests, setup_recommended, teardown);
}
