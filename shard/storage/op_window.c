#include "shard/storage/op_window.h"

#include <string.h>

#include "proto/kith_err.h"

/* A ring in order of arrival with hash chains through it; op_id 0 marks a place that was undone. */

static uint16_t *bucket_of(struct op_window *window, uint64_t op_id)
{
    return &window->buckets[(op_id * 0x9e3779b97f4a7c15ull >> 40) % OP_WINDOW_BUCKETS];
}

void op_window_init(struct op_window *window)
{
    memset(window, 0, sizeof *window);
}

const struct op_entry *op_window_find(const struct op_window *window, uint64_t op_id)
{
    uint16_t at = *bucket_of((struct op_window *)(uintptr_t)window, op_id);
    for (; at != 0; at = window->next[at - 1])
        if (window->ring[at - 1].op_id == op_id)
            return &window->ring[at - 1];
    return NULL;
}

static void unlink_at(struct op_window *window, uint32_t at)
{
    uint16_t *link = bucket_of(window, window->ring[at].op_id);
    while (*link != at + 1) {
        kith_assert(*link != 0);
        link = &window->next[*link - 1];
    }
    *link = window->next[at];
}

void op_window_add(struct op_window *window, const struct op_entry *entry)
{
    kith_assert(entry->op_id != 0);
    uint32_t at = (uint32_t)(window->added % OP_WINDOW_MAX);
    if (window->ring[at].op_id != 0)
        unlink_at(window, at);
    window->ring[at] = *entry;
    uint16_t *bucket = bucket_of(window, entry->op_id);
    window->next[at] = *bucket;
    *bucket = (uint16_t)(at + 1);
    window->added++;
}

void op_window_drop_last(struct op_window *window)
{
    kith_assert(window->added > 0);
    window->added--;
    uint32_t at = (uint32_t)(window->added % OP_WINDOW_MAX);
    unlink_at(window, at);
    window->ring[at].op_id = 0;
}

uint32_t op_window_count(const struct op_window *window)
{
    return window->added < OP_WINDOW_MAX ? (uint32_t)window->added : OP_WINDOW_MAX;
}

const struct op_entry *op_window_at(const struct op_window *window, uint32_t i)
{
    uint64_t first = window->added - op_window_count(window);
    return &window->ring[(first + i) % OP_WINDOW_MAX];
}
