/* How long a group of writes waits for seals and merges to catch up: a pure function of how far
 * they are behind.
 *
 * 0 in daily life; from there it rises in step with what is behind, up to KITH_WRITE_PAUSE_MS_MAX
 * just before there is no room left. So a load that is too fast settles where what comes equals
 * what is sealed and merged, and no write pays for it alone. Threads: no state. */
#ifndef WRITE_PACE_H
#define WRITE_PACE_H

#include <stdint.h>

struct write_debt {
    uint32_t heads;     /* full ones that wait to be sealed */
    uint32_t heads_max; /* with so many of them and a full active one writes are refused */
    float fill;         /* of the active head, 0 to 1 and a bit more */
    uint32_t segments;  /* at KITH_SEGMENTS_MAX nothing can be sealed */
};

uint32_t write_pace_us(const struct write_debt *debt);

#endif
