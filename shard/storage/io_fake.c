#include "shard/storage/io_fake.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/kith_mem.h"
#include "common/kith_random.h"

/* Files are inodes with two contents: `now`, what reads see, and `safe`, what a crash cannot take;
 * `changes` leads from one to the other. Folders are one flat list of names (path -> inode), the
 * safe ones apart, with a list of changes that each belong to the folder of their path. Small
 * numbers of everything: lists are searched. */

#define PATH_BYTES 256
#define SECTOR     512u

enum change_kind { CHANGE_WRITE, CHANGE_SIZE };

struct change {
    enum change_kind kind;
    uint64_t offset, len; /* SIZE: len = the new size */
    uint8_t *data;
};

struct bytes {
    uint8_t *data;
    size_t len, cap;
};

struct inode {
    struct bytes now, safe;
    struct change *changes;
    size_t n_changes, cap_changes;
    uint32_t refs; /* names, safe names, open files, folder changes */
    bool is_dir;
};

struct name {
    char path[PATH_BYTES];
    struct inode *inode;
};

struct names {
    struct name *list;
    size_t n, cap;
};

/* One change of folders: `set` gets inode (NULL: is removed), `unset` (a rename's source) goes. */
struct dir_change {
    char set[PATH_BYTES], unset[PATH_BYTES];
    struct inode *inode;
};

struct io_file {
    struct inode *inode;
};

struct fake {
    struct io io;
    pthread_mutex_t lock;
    struct names now, safe;
    struct dir_change *changes;
    size_t n_changes, cap_changes;
    uint64_t calls[3], n_changing;
    /* Failures asked for. */
    enum io_fake_call fail_call;
    uint64_t fail_at;
    enum kith_err fail_err;
    bool fail_for_ever;
    /* An image asked for. */
    uint64_t image_at, image_seed;
    io_fake_image_fn on_image;
    void *image_ctx;
};

/* Tests own the disk: memory for it is not what they fail. */
static bool grow(void **ptr, size_t *cap, size_t need, size_t elem)
{
    if (need <= *cap)
        return true;
    size_t want = *cap > 0 ? *cap : 8;
    while (want < need)
        want *= 2;
    void *fresh = kith_xalloc(want * elem);
    if (*ptr != NULL)
        memcpy(fresh, *ptr, *cap * elem);
    kith_free(*ptr);
    *ptr = fresh;
    *cap = want;
    return true;
}

/* ---- contents ---------------------------------------------------------------------------------
 */

static void bytes_resize(struct bytes *bytes, uint64_t len)
{
    void *data = bytes->data;
    (void)grow(&data, &bytes->cap, (size_t)len, 1);
    bytes->data = data;
    if (len > bytes->len)
        memset(bytes->data + bytes->len, 0, (size_t)len - bytes->len);
    bytes->len = (size_t)len;
}

static void bytes_apply(struct bytes *bytes, const struct change *change, uint64_t len)
{
    if (change->kind == CHANGE_SIZE) {
        bytes_resize(bytes, change->len);
        return;
    }
    if (change->offset + len > bytes->len)
        bytes_resize(bytes, change->offset + len);
    if (len > 0)
        memcpy(bytes->data + change->offset, change->data, (size_t)len);
}

static void inode_forget(struct inode *inode)
{
    for (size_t i = 0; i < inode->n_changes; i++)
        kith_free(inode->changes[i].data);
    inode->n_changes = 0;
}

static void inode_unref(struct inode *inode)
{
    if (inode == NULL || --inode->refs > 0)
        return;
    inode_forget(inode);
    kith_free(inode->changes);
    kith_free(inode->now.data);
    kith_free(inode->safe.data);
    kith_free(inode);
}

static void inode_change(struct inode *inode, enum change_kind kind, uint64_t offset,
                         const void *data, uint64_t len)
{
    void *list = inode->changes;
    (void)grow(&list, &inode->cap_changes, inode->n_changes + 1, sizeof *inode->changes);
    inode->changes = list;
    struct change *change = &inode->changes[inode->n_changes++];
    *change = (struct change){.kind = kind, .offset = offset, .len = len};
    if (kind == CHANGE_WRITE) {
        change->data = kith_xalloc((size_t)len);
        memcpy(change->data, data, (size_t)len);
    }
    bytes_apply(&inode->now, change, len);
}

static void inode_sync(struct inode *inode)
{
    for (size_t i = 0; i < inode->n_changes; i++)
        bytes_apply(&inode->safe, &inode->changes[i], inode->changes[i].len);
    inode_forget(inode);
}

/* ---- names ------------------------------------------------------------------------------------
 */

static struct name *name_find(struct names *names, const char *path)
{
    for (size_t i = 0; i < names->n; i++)
        if (strcmp(names->list[i].path, path) == 0)
            return &names->list[i];
    return NULL;
}

static void name_set(struct names *names, const char *path, struct inode *inode)
{
    struct name *name = name_find(names, path);
    if (inode != NULL)
        inode->refs++;
    if (name != NULL) {
        inode_unref(name->inode);
        if (inode == NULL)
            *name = names->list[--names->n];
        else
            name->inode = inode;
        return;
    }
    if (inode == NULL)
        return;
    void *list = names->list;
    (void)grow(&list, &names->cap, names->n + 1, sizeof *names->list);
    names->list = list;
    name = &names->list[names->n++];
    (void)snprintf(name->path, sizeof name->path, "%s", path);
    name->inode = inode;
}

static bool lies_in(const char *path, const char *dir)
{
    size_t len = strlen(dir);
    if (len == 0)
        return path[0] != '\0' && strchr(path, '/') == NULL;
    return strncmp(path, dir, len) == 0 && path[len] == '/' && strchr(path + len + 1, '/') == NULL;
}

static void dir_apply(struct names *names, const struct dir_change *change)
{
    struct inode *inode = change->inode;
    if (change->unset[0] != '\0')
        name_set(names, change->unset, NULL);
    name_set(names, change->set, inode);
}

static void dir_change(struct fake *fake, const char *set, const char *unset, struct inode *inode)
{
    void *list = fake->changes;
    (void)grow(&list, &fake->cap_changes, fake->n_changes + 1, sizeof *fake->changes);
    fake->changes = list;
    struct dir_change *change = &fake->changes[fake->n_changes++];
    memset(change, 0, sizeof *change);
    (void)snprintf(change->set, sizeof change->set, "%s", set);
    (void)snprintf(change->unset, sizeof change->unset, "%s", unset);
    change->inode = inode;
    if (inode != NULL)
        inode->refs++;
    dir_apply(&fake->now, change);
}

static struct inode *inode_new(bool is_dir)
{
    struct inode *inode = kith_xalloc(sizeof *inode);
    inode->is_dir = is_dir;
    return inode;
}

/* ---- calls ------------------------------------------------------------------------------------
 */

static void take_image(struct fake *fake)
{
    io_fake_image_fn on_image = fake->on_image;
    uint64_t seed = fake->image_seed;
    void *ctx = fake->image_ctx;
    fake->on_image = NULL;
    pthread_mutex_unlock(&fake->lock);
    on_image(ctx, NULL);
    struct io *image = NULL;
    kith_assert(io_fake_crash(&fake->io, seed, &image, NULL) == KITH_OK);
    on_image(ctx, image);
    pthread_mutex_lock(&fake->lock);
}

/* Every call that changes something begins here, with the lock taken; true: it must fail. */
static bool enter(struct fake *fake, bool sync, bool space, enum kith_err *err,
                  struct kith_diag *diag)
{
    pthread_mutex_lock(&fake->lock);
    if (fake->on_image != NULL && fake->n_changing == fake->image_at)
        take_image(fake);
    fake->n_changing++;
    uint64_t before[3];
    memcpy(before, fake->calls, sizeof before);
    fake->calls[IO_FAKE_ANY]++;
    fake->calls[IO_FAKE_SYNC] += sync;
    fake->calls[IO_FAKE_SPACE] += space;
    bool counts = fake->calls[fake->fail_call] != before[fake->fail_call];
    uint64_t at = before[fake->fail_call];
    if (fake->fail_err == KITH_OK || !counts || at < fake->fail_at ||
        (at > fake->fail_at && !fake->fail_for_ever))
        return false;
    *err = kith_fail(diag, fake->fail_err, "asked to fail");
    return true;
}

static enum kith_err leave(struct fake *fake, enum kith_err err)
{
    pthread_mutex_unlock(&fake->lock);
    return err;
}

static enum kith_err fake_open(void *self, const char *path, enum io_open_mode mode,
                               struct io_file **out, struct kith_diag *diag)
{
    struct fake *fake = self;
    enum kith_err err = KITH_OK;
    if (!io_creates(mode))
        pthread_mutex_lock(&fake->lock);
    else if (enter(fake, false, true, &err, diag))
        return leave(fake, err);
    struct name *name = name_find(&fake->now, path);
    struct inode *inode = name != NULL ? name->inode : NULL;
    if (io_creates(mode) && inode != NULL)
        return leave(fake, kith_fail(diag, KITH_EXISTS, "open %s: exists", path));
    if (!io_creates(mode) && (inode == NULL || inode->is_dir))
        return leave(fake, kith_fail(diag, KITH_NOT_FOUND, "open %s: not there", path));
    if (io_creates(mode)) {
        inode = inode_new(false);
        dir_change(fake, path, "", inode);
    }
    struct io_file *file = kith_xalloc(sizeof *file);
    file->inode = inode;
    inode->refs++;
    *out = file;
    return leave(fake, KITH_OK);
}

static void fake_close(void *self, struct io_file *file)
{
    struct fake *fake = self;
    if (file == NULL)
        return;
    pthread_mutex_lock(&fake->lock);
    inode_unref(file->inode);
    kith_free(file);
    pthread_mutex_unlock(&fake->lock);
}

static enum kith_err fake_size(void *self, struct io_file *file, uint64_t *bytes,
                               struct kith_diag *diag)
{
    (void)diag;
    struct fake *fake = self;
    pthread_mutex_lock(&fake->lock);
    *bytes = file->inode->now.len;
    return leave(fake, KITH_OK);
}

static enum kith_err fake_read(void *self, struct io_file *file, uint64_t offset, void *out,
                               size_t len, struct kith_diag *diag)
{
    struct fake *fake = self;
    pthread_mutex_lock(&fake->lock);
    const struct bytes *now = &file->inode->now;
    if (offset > now->len || len > now->len - offset)
        return leave(fake, kith_fail(diag, KITH_CORRUPT, "file ends before offset %llu",
                                     (unsigned long long)offset + len));
    if (len > 0)
        memcpy(out, now->data + offset, len);
    return leave(fake, KITH_OK);
}

static enum kith_err fake_write(void *self, struct io_file *file, uint64_t offset, const void *data,
                                size_t len, struct kith_diag *diag)
{
    struct fake *fake = self;
    enum kith_err err = KITH_OK;
    bool fails = enter(fake, false, true, &err, diag);
    /* A write that fails may have done its first half. */
    inode_change(file->inode, CHANGE_WRITE, offset, data, fails ? len / 2 : len);
    return leave(fake, err);
}

static enum kith_err fake_allocate(void *self, struct io_file *file, uint64_t bytes,
                                   struct kith_diag *diag)
{
    struct fake *fake = self;
    enum kith_err err = KITH_OK;
    if (!enter(fake, false, true, &err, diag) && bytes > file->inode->now.len)
        inode_change(file->inode, CHANGE_SIZE, 0, NULL, bytes);
    return leave(fake, err);
}

static enum kith_err fake_truncate(void *self, struct io_file *file, uint64_t bytes,
                                   struct kith_diag *diag)
{
    struct fake *fake = self;
    enum kith_err err = KITH_OK;
    if (!enter(fake, false, false, &err, diag))
        inode_change(file->inode, CHANGE_SIZE, 0, NULL, bytes);
    return leave(fake, err);
}

static enum kith_err fake_sync(void *self, struct io_file *file, struct kith_diag *diag)
{
    struct fake *fake = self;
    enum kith_err err = KITH_OK;
    if (enter(fake, true, false, &err, diag))
        inode_forget(file->inode);
    else
        inode_sync(file->inode);
    return leave(fake, err);
}

static enum kith_err fake_map(void *self, struct io_file *file, uint64_t len, const uint8_t **out,
                              struct kith_diag *diag)
{
    struct fake *fake = self;
    uint8_t *copy = kith_alloc_aligned(4096, len);
    if (copy == NULL)
        return kith_fail(diag, KITH_NOMEM, "map");
    enum kith_err err = fake_read(fake, file, 0, copy, len, diag);
    if (err == KITH_OK)
        *out = copy;
    else
        kith_free(copy);
    return err;
}

static void fake_unmap(void *self, const uint8_t *map, uint64_t len)
{
    (void)self;
    (void)len;
    kith_free((void *)(uintptr_t)map);
}

static enum kith_err fake_rename(void *self, const char *from, const char *to,
                                 struct kith_diag *diag)
{
    struct fake *fake = self;
    enum kith_err err = KITH_OK;
    if (enter(fake, false, true, &err, diag))
        return leave(fake, err);
    struct name *name = name_find(&fake->now, from);
    if (name == NULL)
        return leave(fake, kith_fail(diag, KITH_NOT_FOUND, "rename %s", from));
    dir_change(fake, to, from, name->inode);
    return leave(fake, KITH_OK);
}

static enum kith_err fake_unlink(void *self, const char *path, struct kith_diag *diag)
{
    struct fake *fake = self;
    enum kith_err err = KITH_OK;
    if (enter(fake, false, false, &err, diag))
        return leave(fake, err);
    if (name_find(&fake->now, path) == NULL)
        return leave(fake, kith_fail(diag, KITH_NOT_FOUND, "unlink %s", path));
    dir_change(fake, path, "", NULL);
    return leave(fake, KITH_OK);
}

static enum kith_err fake_make_dir(void *self, const char *path, struct kith_diag *diag)
{
    struct fake *fake = self;
    enum kith_err err = KITH_OK;
    if (enter(fake, false, true, &err, diag))
        return leave(fake, err);
    if (name_find(&fake->now, path) == NULL)
        dir_change(fake, path, "", inode_new(true));
    return leave(fake, KITH_OK);
}

static enum kith_err fake_remove_dir(void *self, const char *path, struct kith_diag *diag)
{
    struct fake *fake = self;
    for (size_t i = 0; i < fake->now.n; i++)
        if (lies_in(fake->now.list[i].path, path))
            return kith_fail(diag, KITH_IO, "rmdir %s: not empty", path);
    return fake_unlink(self, path, diag);
}

static enum kith_err fake_sync_dir(void *self, const char *path, struct kith_diag *diag)
{
    struct fake *fake = self;
    enum kith_err err = KITH_OK;
    bool fails = enter(fake, true, false, &err, diag);
    size_t kept = 0;
    for (size_t i = 0; i < fake->n_changes; i++) {
        struct dir_change *change = &fake->changes[i];
        if (!lies_in(change->set, path)) {
            fake->changes[kept++] = *change;
            continue;
        }
        if (!fails)
            dir_apply(&fake->safe, change);
        inode_unref(change->inode);
    }
    fake->n_changes = kept;
    return leave(fake, err);
}

static enum kith_err fake_list(void *self, const char *path, io_name_fn on_name, void *ctx,
                               struct kith_diag *diag)
{
    (void)diag;
    struct fake *fake = self;
    pthread_mutex_lock(&fake->lock);
    for (size_t i = 0; i < fake->now.n; i++) {
        const char *name = fake->now.list[i].path;
        if (lies_in(name, path))
            on_name(ctx, path[0] != '\0' ? name + strlen(path) + 1 : name);
    }
    return leave(fake, KITH_OK);
}

/* ---- for tests --------------------------------------------------------------------------------
 */

enum kith_err io_fake_new(struct io **out, struct kith_diag *diag)
{
    (void)diag;
    struct fake *fake = kith_xalloc(sizeof *fake);
    kith_assert(pthread_mutex_init(&fake->lock, NULL) == 0);
    fake->io = (struct io){
        .self = fake,
        .open = fake_open,
        .close = fake_close,
        .size = fake_size,
        .read = fake_read,
        .write = fake_write,
        .allocate = fake_allocate,
        .truncate = fake_truncate,
        .sync = fake_sync,
        .map = fake_map,
        .unmap = fake_unmap,
        .rename = fake_rename,
        .unlink = fake_unlink,
        .make_dir = fake_make_dir,
        .remove_dir = fake_remove_dir,
        .sync_dir = fake_sync_dir,
        .list = fake_list,
    };
    *out = &fake->io;
    return KITH_OK;
}

void io_fake_free(struct io *io)
{
    if (io == NULL)
        return;
    struct fake *fake = io->self;
    for (size_t i = 0; i < fake->n_changes; i++)
        inode_unref(fake->changes[i].inode);
    for (size_t i = 0; i < fake->now.n; i++)
        inode_unref(fake->now.list[i].inode);
    for (size_t i = 0; i < fake->safe.n; i++)
        inode_unref(fake->safe.list[i].inode);
    kith_free(fake->changes);
    kith_free(fake->now.list);
    kith_free(fake->safe.list);
    (void)pthread_mutex_destroy(&fake->lock);
    kith_free(fake);
}

/* The content one file has after the crash. */
static struct inode *crashed(const struct inode *inode, uint64_t *random)
{
    struct inode *after = inode_new(inode->is_dir);
    bytes_resize(&after->now, inode->safe.len);
    if (inode->safe.len > 0)
        memcpy(after->now.data, inode->safe.data, inode->safe.len);
    for (size_t i = 0; i < inode->n_changes; i++) {
        const struct change *change = &inode->changes[i];
        uint64_t dice = kith_random(random);
        if (dice % 4 < 1)
            continue;
        uint64_t len = change->len;
        if (change->kind == CHANGE_WRITE && dice % 4 == 3) {
            /* Cut at a sector, counted from the file's begin. */
            uint64_t sectors = (change->offset + len) / SECTOR - change->offset / SECTOR;
            uint64_t end = (change->offset / SECTOR + (dice >> 8) % (sectors + 1)) * SECTOR;
            len = end > change->offset ? end - change->offset : 0;
        }
        bytes_apply(&after->now, change, len);
    }
    bytes_resize(&after->safe, after->now.len);
    if (after->now.len > 0)
        memcpy(after->safe.data, after->now.data, after->now.len);
    return after;
}

enum kith_err io_fake_crash(struct io *io, uint64_t seed, struct io **out, struct kith_diag *diag)
{
    struct fake *fake = io->self;
    struct io *image = NULL;
    enum kith_err err = io_fake_new(&image, diag);
    if (err != KITH_OK)
        return err;
    struct fake *after = image->self;
    pthread_mutex_lock(&fake->lock);
    struct names names = {0};
    for (size_t i = 0; i < fake->safe.n; i++)
        name_set(&names, fake->safe.list[i].path, fake->safe.list[i].inode);
    for (size_t i = 0; i < fake->n_changes; i++)
        if (kith_random(&seed) % 2 == 0)
            dir_apply(&names, &fake->changes[i]);
    for (size_t i = 0; i < names.n; i++) {
        struct inode *inode = crashed(names.list[i].inode, &seed);
        name_set(&after->now, names.list[i].path, inode);
        name_set(&after->safe, names.list[i].path, inode);
        inode_unref(names.list[i].inode);
    }
    kith_free(names.list);
    pthread_mutex_unlock(&fake->lock);
    *out = image;
    return KITH_OK;
}

void io_fake_crash_at(struct io *io, uint64_t n, uint64_t seed, io_fake_image_fn on_image,
                      void *ctx)
{
    struct fake *fake = io->self;
    pthread_mutex_lock(&fake->lock);
    fake->image_at = fake->n_changing + n;
    fake->image_seed = seed;
    fake->on_image = on_image;
    fake->image_ctx = ctx;
    pthread_mutex_unlock(&fake->lock);
}

void io_fake_fail(struct io *io, enum io_fake_call call, uint64_t n, enum kith_err err,
                  bool for_ever)
{
    struct fake *fake = io->self;
    pthread_mutex_lock(&fake->lock);
    fake->fail_call = call;
    fake->fail_at = fake->calls[call] + n;
    fake->fail_err = err;
    fake->fail_for_ever = for_ever;
    pthread_mutex_unlock(&fake->lock);
}

void io_fake_heal(struct io *io)
{
    io_fake_fail(io, IO_FAKE_ANY, 0, KITH_OK, false);
}

uint64_t io_fake_calls(struct io *io, enum io_fake_call call)
{
    struct fake *fake = io->self;
    pthread_mutex_lock(&fake->lock);
    uint64_t n = fake->calls[call];
    pthread_mutex_unlock(&fake->lock);
    return n;
}

bool io_fake_peek(struct io *io, const char *path, uint8_t **bytes, uint64_t *len)
{
    struct fake *fake = io->self;
    struct name *name = name_find(&fake->now, path);
    if (name == NULL || name->inode->is_dir)
        return false;
    *bytes = name->inode->now.data;
    *len = name->inode->now.len;
    return true;
}

enum kith_err io_fake_put(struct io *io, const char *path, const void *data, uint64_t len)
{
    struct fake *fake = io->self;
    struct inode *inode = inode_new(false);
    bytes_resize(&inode->now, len);
    bytes_resize(&inode->safe, len);
    if (len > 0) {
        memcpy(inode->now.data, data, (size_t)len);
        memcpy(inode->safe.data, data, (size_t)len);
    }
    name_set(&fake->now, path, inode);
    name_set(&fake->safe, path, inode);
    return KITH_OK;
}
