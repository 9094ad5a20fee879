/* What the disk of io_fake.h holds: files and folders as reads see them, what a crash cannot take,
 * and the changes that lead from one to the other. io_fake.h says which of them a crash keeps.
 *
 * Owns: everything. Threads: the caller's lock. Errors: none; memory for it is not what tests fail.
 */
#ifndef CRASH_DISK_H
#define CRASH_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CRASH_DISK_PATH 256

struct crash_disk_bytes {
    uint8_t *data;
    size_t len, cap;
};

/* A file or a folder. Counted: names and open files hold it. */
struct crash_disk_file {
    struct crash_disk_bytes now, safe;
    struct crash_disk_write *writes; /* from safe to now, as they were made */
    size_t n_writes, cap_writes;
    uint32_t refs;
    bool is_dir;
};

struct crash_disk_name {
    char path[CRASH_DISK_PATH];
    struct crash_disk_file *file;
};

/* One flat list: small numbers of everything, so lists are searched. */
struct crash_disk_names {
    struct crash_disk_name *list;
    size_t n, cap;
};

struct crash_disk {
    struct crash_disk_names now, safe;
    struct crash_disk_move *moves; /* of names, from safe to now; each belongs to one folder */
    size_t n_moves, cap_moves;
};

void crash_disk_fini(struct crash_disk *disk);
/* What a power loss now would leave, into a zeroed disk. The same seed gives the same image. */
void crash_disk_crash(const struct crash_disk *disk, uint64_t seed, struct crash_disk *out);

/* --- names --------------------------------------------------------------------------------------
 */

/* NULL: there is none. */
struct crash_disk_file *crash_disk_find(struct crash_disk *disk, const char *path);
struct crash_disk_file *crash_disk_create(struct crash_disk *disk, const char *path, bool is_dir);
void crash_disk_rename(struct crash_disk *disk, const char *from, const char *to); /* it exists */
void crash_disk_remove(struct crash_disk *disk, const char *path);
/* Makes the folder's names safe, or loses count of what is not safe (`fails`). */
void crash_disk_sync_dir(struct crash_disk *disk, const char *path, bool fails);
bool crash_disk_lies_in(const char *path, const char *dir); /* directly */
/* A file with this content, safe with its name. */
void crash_disk_put(struct crash_disk *disk, const char *path, const void *data, uint64_t len);

/* --- contents -----------------------------------------------------------------------------------
 */

void crash_disk_ref(struct crash_disk_file *file);
void crash_disk_unref(struct crash_disk_file *file); /* NULL allowed */
void crash_disk_write(struct crash_disk_file *file, uint64_t offset, const void *data,
                      uint64_t len);
void crash_disk_resize(struct crash_disk_file *file, uint64_t len);
/* Makes the content safe, or gives up what is not (`fails`), though reads go on showing it. */
void crash_disk_sync(struct crash_disk_file *file, bool fails);

#endif
