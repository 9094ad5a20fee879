#include "cli/process.h"
#include "cli/verbs.h"

int run_up(int argc, char **argv)
{
    return process_run(KITH_CONFIG_UP, argc, argv);
}
