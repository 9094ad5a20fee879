/* Maps of files that stop being readable: a cut file, a disk that fails under a page.
 *
 * Touching such a page is a signal (SIGBUS) that would end the process. For a map that is
 * registered here the handler marks it lost, puts pages of zeros in the place of everything from
 * the bad page on, and lets the reader go on. So no reader is interrupted and none needs a way out;
 * in return a reader must be safe on zeros that appear under its hands, and must look at `lost`
 * before it believes what it read. docs/decisions/map-faults.md has the alternative that lost.
 *
 * Owns: the process's SIGBUS action, from the first registration on; a fault outside the registered
 * maps goes to the action that was there before. Threads: any; the handler takes no lock. A thread
 * that reads maps must not block SIGBUS. Errors: KITH_NOMEM when all places are taken.
 * Limits: KITH_MAPS_MAX maps. */
#ifndef MAP_GUARD_H
#define MAP_GUARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"

struct map_guard {
    atomic_bool lost;        /* some of it could not be read, and reads as zeros now */
    _Atomic uint64_t offset; /* where the last such page begins; set before `lost` */
    uint32_t place;          /* map_guard.c's */
};

/* The guard must stay where it is until map_guard_remove, which comes before the unmapping. */
enum kith_err map_guard_add(struct map_guard *guard, const uint8_t *map, uint64_t bytes,
                            struct kith_diag *diag);
void map_guard_remove(struct map_guard *guard); /* of one that was added */

#endif
