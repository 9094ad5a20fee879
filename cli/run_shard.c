#include "cli/process.h"
#include "cli/verbs.h"

int run_shard(int argc, char **argv)
{
    return process_run(KITH_CONFIG_SHARD, argc, argv);
}
