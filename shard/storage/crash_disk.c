#include "shard/storage/crash_disk.h"

#include <stdio.h>
#include <string.h>

#include "common/kith_mem.h"
#include "common/kith_random.h"

/* A change is applied to `now` when it is made, and stays in a list until a sync applies it to
 * `safe`. A crash begins with what is safe and throws dice for each change of the lists. */

#define SECTOR 512u

enum write_kind { WRITE_DATA, WRITE_SIZE };

struct crash_disk_write {
    enum write_kind kind;
    uint64_t offset, len; /* SIZE: len = the new size */
    uint8_t *data;
};

/* `set` gets the file (NULL: is removed), `unset` (a rename's source) goes. */
struct crash_disk_move {
    char set[CRASH_DISK_PATH], unset[CRASH_DISK_PATH];
    struct crash_disk_file *file;
};

static void *grown(void *list, size_t *cap, size_t need, size_t elem)
{
    if (need <= *cap)
        return list;
    size_t want = *cap > 0 ? *cap : 8;
    while (want < need)
        want *= 2;
    void *fresh = kith_xalloc(want * elem);
    if (list != NULL)
        memcpy(fresh, list, *cap * elem);
    kith_free(list);
    *cap = want;
    return fresh;
}

/* ---- contents ------------------------------------------------------------------------------ */

static void bytes_resize(struct crash_disk_bytes *bytes, uint64_t len)
{
    bytes->data = grown(bytes->data, &bytes->cap, (size_t)len, 1);
    if (len > bytes->len)
        memset(bytes->data + bytes->len, 0, (size_t)len - bytes->len);
    bytes->len = (size_t)len;
}

static void bytes_set(struct crash_disk_bytes *bytes, const void *data, uint64_t len)
{
    bytes_resize(bytes, len);
    if (len > 0)
        memcpy(bytes->data, data, (size_t)len);
}

/* len: of a write, how much of it is done. */
static void bytes_apply(struct crash_disk_bytes *bytes, const struct crash_disk_write *write,
                        uint64_t len)
{
    if (write->kind == WRITE_SIZE) {
        bytes_resize(bytes, write->len);
        return;
    }
    if (write->offset + len > bytes->len)
        bytes_resize(bytes, write->offset + len);
    if (len > 0)
        memcpy(bytes->data + write->offset, write->data, (size_t)len);
}

static void forget_writes(struct crash_disk_file *file)
{
    for (size_t i = 0; i < file->n_writes; i++)
        kith_free(file->writes[i].data);
    file->n_writes = 0;
}

static struct crash_disk_file *file_new(bool is_dir)
{
    struct crash_disk_file *file = kith_xalloc(sizeof *file);
    file->is_dir = is_dir;
    return file;
}

void crash_disk_ref(struct crash_disk_file *file)
{
    file->refs++;
}

void crash_disk_unref(struct crash_disk_file *file)
{
    if (file == NULL || --file->refs > 0)
        return;
    forget_writes(file);
    kith_free(file->writes);
    kith_free(file->now.data);
    kith_free(file->safe.data);
    kith_free(file);
}

/* Takes write's data. */
static void add_write(struct crash_disk_file *file, struct crash_disk_write write)
{
    file->writes = grown(file->writes, &file->cap_writes, file->n_writes + 1, sizeof *file->writes);
    file->writes[file->n_writes++] = write;
    bytes_apply(&file->now, &write, write.len);
}

void crash_disk_write(struct crash_disk_file *file, uint64_t offset, const void *data, uint64_t len)
{
    uint8_t *copy = kith_xalloc((size_t)len);
    memcpy(copy, data, (size_t)len);
    add_write(file, (struct crash_disk_write){WRITE_DATA, offset, len, copy});
}

void crash_disk_resize(struct crash_disk_file *file, uint64_t len)
{
    add_write(file, (struct crash_disk_write){.kind = WRITE_SIZE, .len = len});
}

void crash_disk_sync(struct crash_disk_file *file, bool fails)
{
    for (size_t i = 0; i < file->n_writes && !fails; i++)
        bytes_apply(&file->safe, &file->writes[i], file->writes[i].len);
    forget_writes(file);
}

/* ---- names --------------------------------------------------------------------------------- */

static struct crash_disk_name *name_find(struct crash_disk_names *names, const char *path)
{
    for (size_t i = 0; i < names->n; i++)
        if (strcmp(names->list[i].path, path) == 0)
            return &names->list[i];
    return NULL;
}

static void name_set(struct crash_disk_names *names, const char *path, struct crash_disk_file *file)
{
    struct crash_disk_name *name = name_find(names, path);
    if (file != NULL)
        file->refs++;
    if (name != NULL) {
        crash_disk_unref(name->file);
        if (file == NULL)
            *name = names->list[--names->n];
        else
            name->file = file;
        return;
    }
    if (file == NULL)
        return;
    names->list = grown(names->list, &names->cap, names->n + 1, sizeof *names->list);
    name = &names->list[names->n++];
    (void)snprintf(name->path, sizeof name->path, "%s", path);
    name->file = file;
}

static void names_fini(struct crash_disk_names *names)
{
    for (size_t i = 0; i < names->n; i++)
        crash_disk_unref(names->list[i].file);
    kith_free(names->list);
}

static void move_apply(struct crash_disk_names *names, const struct crash_disk_move *move)
{
    if (move->unset[0] != '\0')
        name_set(names, move->unset, NULL);
    name_set(names, move->set, move->file);
}

static void add_move(struct crash_disk *disk, const char *set, const char *unset,
                     struct crash_disk_file *file)
{
    disk->moves = grown(disk->moves, &disk->cap_moves, disk->n_moves + 1, sizeof *disk->moves);
    struct crash_disk_move *move = &disk->moves[disk->n_moves++];
    memset(move, 0, sizeof *move);
    (void)snprintf(move->set, sizeof move->set, "%s", set);
    (void)snprintf(move->unset, sizeof move->unset, "%s", unset);
    move->file = file;
    if (file != NULL)
        file->refs++;
    move_apply(&disk->now, move);
}

struct crash_disk_file *crash_disk_find(struct crash_disk *disk, const char *path)
{
    struct crash_disk_name *name = name_find(&disk->now, path);
    return name != NULL ? name->file : NULL;
}

struct crash_disk_file *crash_disk_create(struct crash_disk *disk, const char *path, bool is_dir)
{
    struct crash_disk_file *file = file_new(is_dir);
    add_move(disk, path, "", file);
    return file;
}

void crash_disk_rename(struct crash_disk *disk, const char *from, const char *to)
{
    add_move(disk, to, from, crash_disk_find(disk, from));
}

void crash_disk_remove(struct crash_disk *disk, const char *path)
{
    add_move(disk, path, "", NULL);
}

bool crash_disk_lies_in(const char *path, const char *dir)
{
    size_t len = strlen(dir);
    if (len == 0)
        return path[0] != '\0' && strchr(path, '/') == NULL;
    return strncmp(path, dir, len) == 0 && path[len] == '/' && strchr(path + len + 1, '/') == NULL;
}

void crash_disk_sync_dir(struct crash_disk *disk, const char *path, bool fails)
{
    size_t kept = 0;
    for (size_t i = 0; i < disk->n_moves; i++) {
        struct crash_disk_move *move = &disk->moves[i];
        if (!crash_disk_lies_in(move->set, path)) {
            disk->moves[kept++] = *move;
            continue;
        }
        if (!fails)
            move_apply(&disk->safe, move);
        crash_disk_unref(move->file);
    }
    disk->n_moves = kept;
}

void crash_disk_put(struct crash_disk *disk, const char *path, const void *data, uint64_t len)
{
    struct crash_disk_file *file = file_new(false);
    bytes_set(&file->now, data, len);
    bytes_set(&file->safe, data, len);
    name_set(&disk->now, path, file);
    name_set(&disk->safe, path, file);
}

void crash_disk_fini(struct crash_disk *disk)
{
    for (size_t i = 0; i < disk->n_moves; i++)
        crash_disk_unref(disk->moves[i].file);
    kith_free(disk->moves);
    names_fini(&disk->now);
    names_fini(&disk->safe);
}

/* ---- a crash ------------------------------------------------------------------------------- */

/* The content one file has afterwards. */
static struct crash_disk_file *crashed(const struct crash_disk_file *file, uint64_t *random)
{
    struct crash_disk_file *after = file_new(file->is_dir);
    bytes_set(&after->now, file->safe.data, file->safe.len);
    for (size_t i = 0; i < file->n_writes; i++) {
        const struct crash_disk_write *write = &file->writes[i];
        uint64_t dice = kith_random(random);
        if (dice % 4 < 1)
            continue;
        uint64_t len = write->len;
        if (write->kind == WRITE_DATA && dice % 4 == 3) {
            /* Cut at a sector, counted from the file's begin. */
            uint64_t sectors = (write->offset + len) / SECTOR - write->offset / SECTOR;
            uint64_t end = (write->offset / SECTOR + (dice >> 8) % (sectors + 1)) * SECTOR;
            len = end > write->offset ? end - write->offset : 0;
        }
        bytes_apply(&after->now, write, len);
    }
    bytes_set(&after->safe, after->now.data, after->now.len);
    return after;
}

void crash_disk_crash(const struct crash_disk *disk, uint64_t seed, struct crash_disk *out)
{
    struct crash_disk_names names = {0};
    for (size_t i = 0; i < disk->safe.n; i++)
        name_set(&names, disk->safe.list[i].path, disk->safe.list[i].file);
    for (size_t i = 0; i < disk->n_moves; i++)
        if (kith_random(&seed) % 2 == 0)
            move_apply(&names, &disk->moves[i]);
    for (size_t i = 0; i < names.n; i++) {
        struct crash_disk_file *file = crashed(names.list[i].file, &seed);
        name_set(&out->now, names.list[i].path, file);
        name_set(&out->safe, names.list[i].path, file);
    }
    names_fini(&names);
}
