/* --filter: JSON for those who need everything, `key=value` for the rest. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

struct comparison {
    const char *text;
    const char *range; /* NULL: a match */
    bool negated;
};

/* Longer ones first. */
static const struct comparison operators[] = {
    {"!=", NULL, true}, {">=", "gte", false}, {"<=", "lte", false},
    {"=", NULL, false}, {">", "gt", false},   {"<", "lt", false},
};

static const struct comparison *find_operator(const char *text, size_t *at)
{
    *at = strcspn(text, "=!<>");
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++)
        if (strncmp(text + *at, operators[i].text, strlen(operators[i].text)) == 0)
            return &operators[i];
    return NULL;
}

/* true, false and whole numbers are themselves, the rest is text; quotes force text. */
static void write_value(struct kith_json_writer *w, const char *text)
{
    size_t n = strlen(text);
    char *end;
    long long number = strtoll(text, &end, 10);

    if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0)
        kith_jw_bool(w, text[0] == 't');
    else if (n > 0 && n < 19 && *end == '\0')
        kith_jw_i64(w, number);
    else if (n >= 2 && text[0] == '"' && text[n - 1] == '"')
        kith_jw_str(w, text + 1, n - 2);
    else
        kith_jw_cstr(w, text);
}

/* A range compares numbers, or times given as RFC 3339. */
static void write_bound(struct kith_json_writer *w, const char *text)
{
    char *end;
    double number = strtod(text, &end);

    if (end != text && *end == '\0' && isfinite(number))
        kith_jw_f64(w, number);
    else
        kith_jw_cstr(w, text);
}

static bool write_condition(struct kith_json_writer *w, const char *text)
{
    size_t at;
    const struct comparison *found = find_operator(text, &at);

    if (found == NULL || at == 0) {
        fprintf(stderr,
                "kith: --filter %s: want JSON, or key=value, key!=value, key>=number, <=, >, <\n",
                text);
        return false;
    }
    kith_jw_begin_object(w);
    kith_jw_key(w, "key");
    kith_jw_str(w, text, at);
    kith_jw_key(w, found->range == NULL ? "match" : "range");
    kith_jw_begin_object(w);
    text += at + strlen(found->text);
    if (found->range == NULL) {
        kith_jw_key(w, "value");
        write_value(w, text);
    } else {
        kith_jw_key(w, found->range);
        write_bound(w, text);
    }
    kith_jw_end_object(w);
    kith_jw_end_object(w);
    return true;
}

static bool is_negated(const char *text)
{
    size_t at;
    const struct comparison *found = find_operator(text, &at);

    return text[0] != '{' && found != NULL && found->negated;
}

bool cli_filter(struct kith_json_writer *w, const struct flags_many *filters)
{
    bool ok = true;

    if (filters->n == 0)
        return true;
    kith_jw_begin_object(w);
    for (int negated = 0; negated < 2; negated++) {
        kith_jw_key(w, negated ? "must_not" : "must");
        kith_jw_begin_array(w);
        for (size_t i = 0; ok && i < filters->n; i++) {
            const char *text = filters->values[i];
            if (is_negated(text) == (negated == 1))
                ok = text[0] == '{' ? cli_json_text(w, text, "--filter") : write_condition(w, text);
        }
        kith_jw_end_array(w);
    }
    kith_jw_end_object(w);
    return ok;
}
