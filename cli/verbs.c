#include "cli/verbs.h"

#include <stddef.h>
#include <string.h>

#include "cli/commands.h"

const struct verb verbs[] = {
    {"up", "[--data DIR] [--listen HOST:PORT]", "run everything in one process", run_up},
    {"coordinator", "--etcd URL --cluster NAME [--listen HOST:PORT]",
     "run a coordinator of a cluster", run_coordinator},
    {"shard", "--etcd URL --cluster NAME --data DIR [--listen HOST:PORT]",
     "run a shard node of a cluster", run_shard},
    {"status", "", "what is running, and how it is", command_status},
    {"collection", "create|list|info|memory|delete ...", "make, show and drop collections",
     command_collection},
    {"import", "COLLECTION FILE", "load points from JSON lines, npy, fvecs or text",
     command_import},
    {"export", "COLLECTION", "write all points as JSON lines", command_export},
    {"search", "COLLECTION QUERY", "find the nearest points to a text, vector or id",
     command_search},
    {"count", "COLLECTION", "count points, all or those a filter matches", command_count},
    {"get", "COLLECTION ID...", "show points by id", command_get},
    {"delete", "COLLECTION ID...", "delete points by id or filter", command_delete},
    {"node", "list", "the nodes of the cluster", command_node},
    {"plan", "--rows N --dim D", "what a collection will take, before there is one", command_plan},
    {"version", "", "the version of this program", command_version},
    {"help", "[VERB]", "this list, or the help of one verb", command_help},
    {NULL, NULL, NULL, NULL},
};

const struct verb *verbs_find(const char *name)
{
    for (const struct verb *verb = verbs; verb->name != NULL; verb++)
        if (strcmp(verb->name, name) == 0)
            return verb;
    return NULL;
}
