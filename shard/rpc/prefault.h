/* Before a node says that it is ready: what every search reads, the indexes of all segments, is
 * read into memory and verified, so that the first searches are as fast as the others.
 *
 * As far as half of the machine's memory goes; the rest is left to the searches. Opening slices
 * needs none of this: they can be searched meanwhile. Progress is in the log every few seconds
 * (node.prefault) and can be asked for.
 *
 * Borrows: the slices. Threads: prefault_run: one; the rest: any. Errors: none; a damaged segment
 * says so itself. */
#ifndef PREFAULT_H
#define PREFAULT_H

#include <stdatomic.h>

#include "shard/rpc/slice_table.h"

struct prefault {
    struct slice_table *slices;
    /* Relaxed: numbers by themselves, and a wish. */
    _Atomic uint64_t bytes_total, bytes_done;
    atomic_bool stopped;
    uint64_t told_ns; /* of prefault_run */
};

void prefault_run(struct prefault *prefault);
void prefault_stop(struct prefault *prefault); /* the node closes */

#endif
