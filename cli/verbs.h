/* The verbs of `kith`: one table, so that dispatch and help cannot disagree.
 *
 * A verb gets what follows its name (argv[0] is the verb itself) and returns the exit status: 0
 * done, 1 failed, 2 wrong usage. Threads: main. */
#ifndef VERBS_H
#define VERBS_H

struct verb {
    const char *name; /* "up"; a group of verbs ("collection") dispatches its own words */
    const char *args; /* "--data DIR [--listen HOST:PORT]" */
    const char *help; /* one line */
    int (*run)(int argc, char **argv);
};

extern const struct verb verbs[]; /* ends with name == NULL; verbs.c */

/* NULL: no such verb. */
const struct verb *verbs_find(const char *name);

/* The processes (run_*.c). */
int run_up(int argc, char **argv);
int run_coordinator(int argc, char **argv);
int run_shard(int argc, char **argv);

#endif
