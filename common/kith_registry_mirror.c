#include "common/kith_registry_mirror.h"

#include <string.h>

#include "common/kith_mem.h"

/* A sorted array: keys come sorted from a full read (appending), changes are rare and small, and
 * reading by prefix is a walk. A tree would buy nothing below the registry's cap of keys. */

static void entry_fini(struct kith_registry_entry *entry)
{
    kith_free(entry->key);
    kith_free(entry->text);
}

void kith_registry_mirror_fini(struct kith_registry_mirror *mirror)
{
    for (size_t i = 0; i < mirror->n; i++) {
        entry_fini(&mirror->entries[i]);
    }
    kith_free(mirror->entries);
    *mirror = (struct kith_registry_mirror){0};
}

size_t kith_registry_mirror_seek(const struct kith_registry_mirror *mirror, const char *key)
{
    size_t low = 0;
    size_t high = mirror->n;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (strcmp(mirror->entries[mid].key, key) < 0) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

static bool is_at(const struct kith_registry_mirror *mirror, size_t at, const char *key)
{
    return at < mirror->n && strcmp(mirror->entries[at].key, key) == 0;
}

const struct kith_registry_entry *
kith_registry_mirror_get(const struct kith_registry_mirror *mirror, const char *key)
{
    const size_t at = kith_registry_mirror_seek(mirror, key);
    return is_at(mirror, at, key) ? &mirror->entries[at] : NULL;
}

static char *dup_text(const char *text, size_t len)
{
    char *copy = kith_alloc(len + 1);
    if (copy && len) {
        memcpy(copy, text, len);
    }
    return copy;
}

bool kith_registry_mirror_put(struct kith_registry_mirror *mirror,
                              const struct kith_registry_entry *entry)
{
    struct kith_registry_entry fresh = *entry;
    fresh.key = kith_strdup(entry->key);
    fresh.text = dup_text(entry->text, entry->len);
    void *entries = mirror->entries;
    if (!fresh.key || !fresh.text ||
        !kith_grow(&entries, &mirror->cap, mirror->n + 1, sizeof *mirror->entries)) {
        entry_fini(&fresh);
        return false;
    }
    mirror->entries = entries;
    const size_t at = kith_registry_mirror_seek(mirror, entry->key);
    if (is_at(mirror, at, entry->key)) {
        entry_fini(&mirror->entries[at]);
    } else {
        memmove(mirror->entries + at + 1, mirror->entries + at,
                (mirror->n - at) * sizeof *mirror->entries);
        mirror->n++;
    }
    mirror->entries[at] = fresh;
    return true;
}

bool kith_registry_mirror_drop(struct kith_registry_mirror *mirror, const char *key)
{
    const size_t at = kith_registry_mirror_seek(mirror, key);
    if (!is_at(mirror, at, key)) {
        return false;
    }
    entry_fini(&mirror->entries[at]);
    mirror->n--;
    memmove(mirror->entries + at, mirror->entries + at + 1,
            (mirror->n - at) * sizeof *mirror->entries);
    return true;
}

bool kith_registry_mirror_copy(const struct kith_registry_mirror *from,
                               struct kith_registry_mirror *into)
{
    for (size_t i = 0; i < from->n; i++) {
        if (!kith_registry_mirror_put(into, &from->entries[i])) {
            kith_registry_mirror_fini(into);
            return false;
        }
    }
    return true;
}
