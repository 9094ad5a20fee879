#include "cli/journal.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/kith_mem.h"
#include "proto/kith_crc32c.h"
#include "proto/kith_hash.h"

#define HEAD_BYTES 65536u

/* Only names a file; what is inside says whether it fits. */
static uint64_t hash_text(uint64_t hash, const char *text)
{
    return kith_hash_bytes(hash, text, strlen(text) + 1);
}

static bool folder_make(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return false;
        *slash = '/';
    }
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

static bool state_folder(char *out, size_t bytes)
{
    const char *state = getenv("XDG_STATE_HOME");
    const char *home = getenv("HOME");
    int n;

    if (state != NULL && state[0] == '/')
        n = snprintf(out, bytes, "%s/kith", state);
    else if (home != NULL && home[0] == '/')
        n = snprintf(out, bytes, "%s/.local/state/kith", home);
    else
        return false;
    return n > 0 && (size_t)n < bytes && folder_make(out);
}

bool journal_open(struct journal *journal, const char *target, const char *source_path, int fd)
{
    char folder[900];
    char *real = realpath(source_path, NULL);
    uint8_t *head = kith_alloc(HEAD_BYTES);
    struct stat stat_buf;
    ssize_t n;
    uint64_t name;

    journal->path[0] = '\0';
    if (real == NULL || head == NULL || fstat(fd, &stat_buf) != 0 || !S_ISREG(stat_buf.st_mode))
        goto out;
    n = pread(fd, head, HEAD_BYTES, 0);
    if (n < 0 || !state_folder(folder, sizeof folder))
        goto out;
    journal->size = (uint64_t)stat_buf.st_size;
    journal->changed_ns =
        (uint64_t)stat_buf.st_mtim.tv_sec * 1000000000u + (uint64_t)stat_buf.st_mtim.tv_nsec;
    journal->checksum = kith_crc32c(0, head, (size_t)n);
    name = hash_text(hash_text(KITH_HASH_START, target), real);
    snprintf(journal->path, sizeof journal->path, "%s/import-%016" PRIx64, folder, name);
    snprintf(journal->temporary, sizeof journal->temporary, "%s.new", journal->path);
out:
    free(real); /* realpath's own */
    kith_free(head);
    return journal->path[0] != '\0';
}

bool journal_load(const struct journal *journal, struct journal_state *out)
{
    FILE *file = journal->path[0] == '\0' ? NULL : fopen(journal->path, "re");
    struct journal_state state;
    uint64_t size, changed_ns;
    uint32_t checksum;
    int n;

    if (file == NULL)
        return false;
    n = fscanf(file,
               "kith import 1\nsize %" SCNu64 "\nchanged_ns %" SCNu64 "\nchecksum %" SCNx32
               "\noffset %" SCNu64 "\nrow %" SCNu64 "\npoints %" SCNu64 "\nbad %" SCNu64,
               &size, &changed_ns, &checksum, &state.offset, &state.row, &state.points, &state.bad);
    fclose(file);
    if (n != 7 || size != journal->size || changed_ns != journal->changed_ns ||
        checksum != journal->checksum || state.offset > size)
        return false;
    *out = state;
    return true;
}

bool journal_save(const struct journal *journal, const struct journal_state *state)
{
    FILE *file = journal->path[0] == '\0' ? NULL : fopen(journal->temporary, "we");
    bool ok;

    if (file == NULL)
        return false;
    fprintf(file,
            "kith import 1\nsize %" PRIu64 "\nchanged_ns %" PRIu64 "\nchecksum %08" PRIx32
            "\noffset %" PRIu64 "\nrow %" PRIu64 "\npoints %" PRIu64 "\nbad %" PRIu64 "\n",
            journal->size, journal->changed_ns, journal->checksum, state->offset, state->row,
            state->points, state->bad);
    ok = ferror(file) == 0;
    ok = fclose(file) == 0 && ok;
    /* No fsync: after a power loss an older journal, or none, only means sending points again. */
    return ok && rename(journal->temporary, journal->path) == 0;
}

void journal_remove(const struct journal *journal)
{
    if (journal->path[0] != '\0')
        unlink(journal->path);
}
