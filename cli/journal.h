/* How far an import got, so that the next run can go on from there.
 *
 * A small text file in the user's state folder ($XDG_STATE_HOME/kith or ~/.local/state/kith), named
 * after what is imported where. It is believed only while the source is the same file: size, time
 * of change and a checksum of its beginning.
 *
 * Owns: nothing open. Threads: one. Errors: an import never fails for its journal; false means that
 * there is none, or that it could not be kept. */
#ifndef JOURNAL_H
#define JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

struct journal_state {
    uint64_t offset; /* everything before it is confirmed */
    uint64_t row;
    uint64_t points; /* confirmed so far, over all runs */
    uint64_t bad;
};

struct journal {
    char path[1024]; /* "" = none */
    char temporary[1040];
    uint64_t size, changed_ns;
    uint32_t checksum;
};

/* Of the source behind fd (a regular file). target: everything else that decides what is written
 * (url, collection, format...). */
bool journal_open(struct journal *journal, const char *target, const char *source_path, int fd);
bool journal_load(const struct journal *journal, struct journal_state *out);
bool journal_save(const struct journal *journal, const struct journal_state *state);
void journal_remove(const struct journal *journal);

#endif
