#include "cli/flags.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static const struct flag common_flags[] = {
    {"url", "URL", "where Kith answers (KITH_URL; default " CLI_URL_DEFAULT ")", &cli.url, NULL},
    {"api-key", "KEY", "sent with each request (better: KITH_API_KEY)", &cli.api_key, NULL},
    {"timeout", "SECONDS", "how long to wait for one answer (default 60)", &cli.timeout, NULL},
    {"json", NULL, "print JSON instead of text", NULL, &cli.json},
    {"help", NULL, "this text", NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static void flag_help(const struct flag *flag)
{
    char left[64];

    snprintf(left, sizeof left, "--%s%s%s", flag->name, flag->value == NULL ? "" : " ",
             flag->value == NULL ? "" : flag->value);
    printf("  %-24s %s\n", left, flag->help);
}

static void help(const struct flags_spec *spec)
{
    printf("%s%s\n\n%s\n", spec->usage,
           spec->flags == NULL || spec->flags[0].name == NULL ? "" : " [flags]", spec->about);
    if (spec->flags != NULL && spec->flags[0].name != NULL) {
        printf("\nFlags:\n");
        for (const struct flag *flag = spec->flags; flag->name != NULL; flag++)
            flag_help(flag);
    }
    printf("\nEverywhere:\n");
    for (const struct flag *flag = common_flags; flag->name != NULL; flag++)
        flag_help(flag);
    printf("\nExample:\n  ");
    for (const char *at = spec->example; *at != '\0'; at++)
        fputs(*at == '\n' ? "\n  " : (char[]){*at, '\0'}, stdout);
    putchar('\n');
}

static const struct flag *find(const struct flag *flags, const char *name, size_t n)
{
    for (; flags != NULL && flags->name != NULL; flags++)
        if (strlen(flags->name) == n && memcmp(flags->name, name, n) == 0)
            return flags;
    return NULL;
}

static enum flags_result wrong(const struct flags_spec *spec, const char *what, const char *which)
{
    const char *end = strpbrk(spec->usage, "ABCDEFGHIJKLMNOPQRSTUVWXYZ[");
    size_t n = end == NULL ? strlen(spec->usage) : (size_t)(end - spec->usage);

    while (n > 0 && spec->usage[n - 1] == ' ')
        n--;
    fprintf(stderr, "kith: %s%s\nusage: %s\nMore: %.*s --help\n", what, which, spec->usage, (int)n,
            spec->usage);
    return FLAGS_WRONG;
}

static enum flags_result flag_take(const struct flags_spec *spec, int argc, char **argv, int *i)
{
    const char *name = argv[*i] + 2;
    size_t n = strcspn(name, "=");
    const char *value = name[n] == '=' ? name + n + 1 : NULL;
    const struct flag *flag = find(spec->flags, name, n);

    if (flag == NULL)
        flag = find(common_flags, name, n);
    if (flag == NULL)
        return wrong(spec, "unknown flag ", argv[*i]);
    if (flag->value == NULL) {
        if (value != NULL)
            return wrong(spec, "this flag takes no value: ", argv[*i]);
        if (flag->on == NULL) {
            help(spec);
            return FLAGS_HELP;
        }
        *flag->on = true;
        return FLAGS_OK;
    }
    if (value == NULL) {
        if (*i + 1 >= argc)
            return wrong(spec, "this flag needs a value: ", argv[*i]);
        value = argv[++*i];
    }
    if (flag->text != NULL) {
        *flag->text = value;
    } else if (spec->many_out->n < sizeof spec->many_out->values / sizeof(char *)) {
        spec->many_out->values[spec->many_out->n++] = value;
    } else {
        return wrong(spec, "too often: --", flag->name);
    }
    return FLAGS_OK;
}

enum flags_result flags_parse(const struct flags_spec *spec, int argc, char **argv,
                              const char **words, size_t *words_n)
{
    bool flags_over = false;
    size_t n = 0;

    for (int i = 1; i < argc; i++) {
        bool is_flag = !flags_over && argv[i][0] == '-' && argv[i][1] == '-';

        if (!flags_over && strcmp(argv[i], "-h") == 0) {
            help(spec);
            return FLAGS_HELP;
        }
        if (is_flag && argv[i][2] == '\0') {
            flags_over = true;
        } else if (is_flag) {
            enum flags_result result = flag_take(spec, argc, argv, &i);
            if (result != FLAGS_OK)
                return result;
        } else if (n < spec->words_max) {
            words[n++] = argv[i];
        } else {
            return wrong(spec, "one word too many: ", argv[i]);
        }
    }
    if (n < spec->words_min)
        return wrong(spec, n == 0 ? "an argument is missing" : "an argument is missing after ",
                     n == 0 ? "" : words[n - 1]);
    *words_n = n;
    return FLAGS_OK;
}

bool flags_u64(const char *name, const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    unsigned long long value;
    char *end;

    if (text == NULL)
        return true;
    errno = 0;
    value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value < min ||
        value > max) {
        fprintf(stderr, "kith: --%s %s: want a whole number from %llu to %llu\n", name, text,
                (unsigned long long)min, (unsigned long long)max);
        return false;
    }
    *out = value;
    return true;
}

bool flags_f64(const char *name, const char *text, double min, double max, double *out)
{
    double value;
    char *end;

    if (text == NULL)
        return true;
    value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value) || value < min || value > max) {
        fprintf(stderr, "kith: --%s %s: want a number from %g to %g\n", name, text, min, max);
        return false;
    }
    *out = value;
    return true;
}
