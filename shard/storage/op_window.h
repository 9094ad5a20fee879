/* The operation ids applied last, so that a retried write is acknowledged again and not applied
 * again.
 *
 * Owns: nothing beyond its own memory: embed it zeroed and call op_window_init. Threads: one owner.
 * Limits: OP_WINDOW_MAX ids; an older one is forgotten. */
#ifndef OP_WINDOW_H
#define OP_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#define OP_WINDOW_MAX     4096u /* at 1,000 writes/s, four seconds of retries; 96 KiB in a manifest */
#define OP_WINDOW_BUCKETS 8192u

struct op_entry {
    uint64_t op_id, seq, affected;
};

struct op_window {
    struct op_entry ring[OP_WINDOW_MAX];
    uint64_t added; /* ring index of the next: added % OP_WINDOW_MAX */
    uint16_t next[OP_WINDOW_MAX];
    uint16_t buckets[OP_WINDOW_BUCKETS]; /* ring index + 1; 0 = empty */
};

void op_window_init(struct op_window *window);
const struct op_entry *op_window_find(const struct op_window *window, uint64_t op_id);
void op_window_add(struct op_window *window, const struct op_entry *entry); /* not present yet */
void op_window_drop_last(struct op_window *window);                         /* undo of one add */
uint32_t op_window_count(const struct op_window *window);
const struct op_entry *op_window_at(const struct op_window *window, uint32_t i); /* 0 = oldest */

#endif
