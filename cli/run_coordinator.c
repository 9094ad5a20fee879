#include "cli/process.h"
#include "cli/verbs.h"

int run_coordinator(int argc, char **argv)
{
    return process_run(KITH_CONFIG_COORDINATOR, argc, argv);
}
