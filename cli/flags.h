/* Flags and help of one verb, from one description: what is parsed is what --help shows.
 *
 * "--name VALUE", "--name=VALUE", "--switch"; "--" ends flags; flags and words may be mixed; a
 * negative number is a word. Owns: nothing; texts point into argv. Threads: main. Errors: a message
 * on stderr that names the flag and how to get help. */
#ifndef FLAGS_H
#define FLAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct flag {
    const char *name;  /* without the dashes */
    const char *value; /* "N"; NULL = a switch */
    const char *help;
    const char **text; /* where a value goes; the last one wins */
    bool *on;          /* where a switch goes */
};

/* --filter may be given more than once: values gather here. */
struct flags_many {
    const char *values[32];
    size_t n;
};

struct flags_spec {
    const char *usage;        /* "kith search COLLECTION QUERY" */
    const char *about;        /* a sentence or a few */
    const char *example;      /* one or more lines, each a command */
    const struct flag *flags; /* ends with name == NULL; NULL = none */
    const char *many; /* the flag that may repeat, listed in flags with text == NULL; or NULL */
    struct flags_many *many_out;
    size_t words_min, words_max;
};

enum flags_result { FLAGS_OK, FLAGS_HELP /* shown; exit 0 */, FLAGS_WRONG /* said; exit 2 */ };

/* words gets up to words_max texts. argv[0] is the verb and skipped. The flags of cli.h (--url,
 * --json...) are known everywhere. */
enum flags_result flags_parse(const struct flags_spec *spec, int argc, char **argv,
                              const char **words, size_t *words_n);

/* A whole number within bounds; false (and a message that names the flag) otherwise. NULL text:
 * *out keeps its value. */
bool flags_u64(const char *name, const char *text, uint64_t min, uint64_t max, uint64_t *out);
bool flags_f64(const char *name, const char *text, double min, double max, double *out);

#endif
