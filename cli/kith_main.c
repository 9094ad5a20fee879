/* kith: one binary. The first word is the verb. */
#include <stdio.h>
#include <string.h>

#include "cli/verbs.h"

int main(int argc, char **argv)
{
    static char help_verb[] = "help";
    static char *no_verb[] = {help_verb, NULL};
    if (argc < 2) {
        (void)verbs_find("help")->run(1, no_verb);
        return 2;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        name = "help";
    } else if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        name = "version";
    }
    const struct verb *verb = verbs_find(name);
    if (!verb) {
        fprintf(stderr, "kith: no such verb \"%.80s\" (see kith help)\n", argv[1]);
        return 2;
    }
    return verb->run(argc - 1, argv + 1);
}
