#include "cli/slice_map.h"

#include <stdio.h>

#include "common/kith_mem.h"

struct reading {
    struct kith_registry *registry;
    struct node_map *map;
    size_t cap_nodes, cap_slices;
    /* The collection that is being read: keys of one come one after the other. */
    uint64_t collection;
    size_t first_slice, first_node; /* of what it has added */
    bool ours, too_many;
    bool failed;
};

/* What a collection added goes again unless this node has a part in it. */
static void end_collection(struct reading *reading)
{
    struct node_map *map = reading->map;
    if (!reading->ours || reading->too_many) {
        map->n_slices = reading->first_slice;
        map->n_nodes = reading->first_node;
    }
    reading->first_slice = map->n_slices;
    reading->first_node = map->n_nodes;
    reading->ours = reading->too_many = false;
}

static uint32_t find_node(struct reading *reading, uint64_t id)
{
    struct node_map *map = reading->map;
    for (size_t i = 0; i < map->n_nodes; i++) {
        if (map->nodes[i].id == id) {
            return (uint32_t)i;
        }
    }
    if (map->n_nodes == KITH_NODES_MAX) {
        reading->too_many = true;
        return 0;
    }
    if (!kith_grow((void **)&map->nodes, &reading->cap_nodes, map->n_nodes + 1,
                   sizeof *map->nodes)) {
        reading->failed = true;
        return 0;
    }
    map->nodes[map->n_nodes] = (struct node_map_node){.id = id};
    return (uint32_t)map->n_nodes++;
}

static void add_slice(void *ctx, const char *key, const struct kith_registry_value *text)
{
    struct reading *reading = ctx;
    struct node_map *map = reading->map;
    struct kith_slice_value value;
    uint64_t collection = 0;
    uint32_t slice = 0;
    if (reading->failed || !kith_keys_parse_slice(key, &collection, &slice) ||
        slice >= KITH_SLICES_PER_COLLECTION_MAX ||
        kith_keys_read_slice(text->text, text->len, &value)) {
        return;
    }
    if (collection != reading->collection) {
        end_collection(reading);
        reading->collection = collection;
    }
    if (!kith_grow((void **)&map->slices, &reading->cap_slices, map->n_slices + 1,
                   sizeof *map->slices)) {
        reading->failed = true;
        return;
    }
    reading->ours |= value.primary == map->self;
    map->slices[map->n_slices++] =
        (struct node_map_slice){collection, slice, find_node(reading, value.primary)};
}

static void find_addresses(struct reading *reading)
{
    char key[KITH_KEY_BYTES];
    struct kith_registry_value text;
    struct kith_node_value value;
    for (size_t i = 0; i < reading->map->n_nodes; i++) {
        struct node_map_node *node = &reading->map->nodes[i];
        kith_keys_node(key, node->id);
        if (kith_registry_get(reading->registry, key, &text) &&
            !kith_keys_read_node(text.text, text.len, &value)) {
            snprintf(node->url, sizeof node->url, "%s", value.url);
        }
    }
}

enum kith_err slice_map_read(struct node_map *out, struct kith_registry *registry, uint64_t self,
                             struct kith_diag *diag)
{
    *out = (struct node_map){.self = self};
    struct reading reading = {.registry = registry, .map = out};
    kith_registry_each(registry, KITH_KEYS_SLICES, add_slice, &reading);
    end_collection(&reading);
    if (reading.failed) {
        slice_map_fini(out);
        return kith_fail(diag, KITH_NOMEM, "the map of slices");
    }
    find_addresses(&reading);
    return KITH_OK;
}

void slice_map_fini(struct node_map *map)
{
    kith_free(map->nodes);
    kith_free(map->slices);
    *map = (struct node_map){0};
}
