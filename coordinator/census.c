#include "coordinator/census.h"

#include <stddef.h>

#include "common/kith_mem.h"

struct census_entry {
    struct census_entry *next;
    uint64_t collection;
    uint64_t points[KITH_SLICES_PER_COLLECTION_MAX];
    bool known[KITH_SLICES_PER_COLLECTION_MAX];
};

static struct census_entry **bucket_of(struct census *census, uint64_t collection)
{
    uint64_t hash = collection * UINT64_C(0x9e3779b97f4a7c15);
    return &census->buckets[(hash >> 32) % CENSUS_BUCKETS];
}

static struct census_entry *find(const struct census *census, uint64_t collection)
{
    struct census_entry *entry = *bucket_of((struct census *)(uintptr_t)census, collection);
    while (entry && entry->collection != collection)
        entry = entry->next;
    return entry;
}

void census_note(struct census *census, uint64_t collection, uint32_t slice, uint64_t points)
{
    if (slice >= KITH_SLICES_PER_COLLECTION_MAX)
        return;
    struct census_entry *entry = find(census, collection);
    if (!entry) {
        entry = census->n < KITH_COLLECTIONS_MAX ? kith_alloc(sizeof(*entry)) : NULL;
        if (!entry)
            return;
        struct census_entry **bucket = bucket_of(census, collection);
        entry->collection = collection;
        entry->next = *bucket;
        *bucket = entry;
        census->n++;
    }
    entry->points[slice] = points;
    entry->known[slice] = true;
}

bool census_get(const struct census *census, uint64_t collection, uint32_t slice, uint64_t *points)
{
    const struct census_entry *entry = find(census, collection);
    if (!entry || slice >= KITH_SLICES_PER_COLLECTION_MAX || !entry->known[slice])
        return false;
    *points = entry->points[slice];
    return true;
}

void census_forget(struct census *census, uint64_t collection)
{
    for (struct census_entry **at = bucket_of(census, collection); *at; at = &(*at)->next) {
        if ((*at)->collection != collection)
            continue;
        struct census_entry *gone = *at;
        *at = gone->next;
        kith_free(gone);
        census->n--;
        return;
    }
}

void census_fini(struct census *census)
{
    for (uint32_t i = 0; i < CENSUS_BUCKETS; i++) {
        while (census->buckets[i]) {
            struct census_entry *gone = census->buckets[i];
            census->buckets[i] = gone->next;
            kith_free(gone);
        }
    }
    census->n = 0;
}
