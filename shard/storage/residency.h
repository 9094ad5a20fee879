/* Which bytes of maps are in memory, and what the kernel is told of how they will be used.
 *
 * Owns, borrows: nothing; the caller keeps the map. Threads: any. Errors: residency_lock gives
 * KITH_NOMEM (the limit of locked memory, RLIMIT_MEMLOCK, or no memory) and KITH_IO; advice is only
 * that, and never fails. */
#ifndef RESIDENCY_H
#define RESIDENCY_H

#include "proto/kith_err.h"
#include "proto/kith_wire.h"

/* Bytes of it that are in memory now, whole pages but for the ends. */
uint64_t residency_bytes(struct kith_bytes map);

enum residency_use {
    RESIDENCY_RANDOM, /* here and there: nothing is to be read ahead */
    RESIDENCY_SOON,   /* all of it: read it in now, in the background */
    RESIDENCY_HUGE,   /* all of it: read it in and wait; into huge pages, where the file system has
                         them. Later faults read as much at once: for a map that is not kept. */
};
void residency_advise(struct kith_bytes map, enum residency_use use);

/* Reads it in and keeps it there until it is unlocked or unmapped. */
enum kith_err residency_lock(struct kith_bytes map, struct kith_diag *diag);
void residency_unlock(struct kith_bytes map);

#endif
