#include "shard/storage/io_fake.h"

#include <pthread.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/storage/crash_disk.h"

/* The calls of struct io over a crash_disk, which is what they do; here is the lock, what is
 * counted, and the failures and images that a test has asked for. */

struct io_file {
    struct crash_disk_file *file;
};

struct fake {
    struct io io;
    pthread_mutex_t lock;
    struct crash_disk disk;
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
    struct crash_disk_file *found = crash_disk_find(&fake->disk, path);
    if (io_creates(mode) && found != NULL)
        return leave(fake, kith_fail(diag, KITH_EXISTS, "open %s: exists", path));
    if (!io_creates(mode) && (found == NULL || found->is_dir))
        return leave(fake, kith_fail(diag, KITH_NOT_FOUND, "open %s: not there", path));
    if (io_creates(mode))
        found = crash_disk_create(&fake->disk, path, false);
    struct io_file *file = kith_xalloc(sizeof *file);
    file->file = found;
    crash_disk_ref(found);
    *out = file;
    return leave(fake, KITH_OK);
}

static void fake_close(void *self, struct io_file *file)
{
    struct fake *fake = self;
    if (file == NULL)
        return;
    pthread_mutex_lock(&fake->lock);
    crash_disk_unref(file->file);
    kith_free(file);
    pthread_mutex_unlock(&fake->lock);
}

static enum kith_err fake_size(void *self, struct io_file *file, uint64_t *bytes,
                               struct kith_diag *diag)
{
    (void)diag;
    struct fake *fake = self;
    pthread_mutex_lock(&fake->lock);
    *bytes = file->file->now.len;
    return leave(fake, KITH_OK);
}

static enum kith_err fake_read(void *self, struct io_file *file, uint64_t offset, void *out,
                               size_t len, struct kith_diag *diag)
{
    struct fake *fake = self;
    pthread_mutex_lock(&fake->lock);
    const struct crash_disk_bytes *now = &file->file->now;
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
    crash_disk_write(file->file, offset, data, fails ? len / 2 : len);
    return leave(fake, err);
}

static enum kith_err fake_allocate(void *self, struct io_file *file, uint64_t bytes,
                                   struct kith_diag *diag)
{
    struct fake *fake = self;
    enum kith_err err = KITH_OK;
    if (!enter(fake, false, true, &err, diag) && bytes > file->file->now.len)
        crash_disk_resize(file->file, bytes);
    return leave(fake, err);
}

static enum kith_err fake_truncate(void *self, struct io_file *file, uint64_t bytes,
                                   struct kith_diag *diag)
{
    struct fake *fake = self;
    enum kith_err err = KITH_OK;
    if (!enter(fake, false, false, &err, diag))
        crash_disk_resize(file->file, bytes);
    return leave(fake, err);
}

static enum kith_err fake_sync(void *self, struct io_file *file, struct kith_diag *diag)
{
    struct fake *fake = self;
    enum kith_err err = KITH_OK;
    bool fails = enter(fake, true, false, &err, diag);
    crash_disk_sync(file->file, fails);
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
    if (crash_disk_find(&fake->disk, from) == NULL)
        return leave(fake, kith_fail(diag, KITH_NOT_FOUND, "rename %s", from));
    crash_disk_rename(&fake->disk, from, to);
    return leave(fake, KITH_OK);
}

static enum kith_err fake_unlink(void *self, const char *path, struct kith_diag *diag)
{
    struct fake *fake = self;
    enum kith_err err = KITH_OK;
    if (enter(fake, false, false, &err, diag))
        return leave(fake, err);
    if (crash_disk_find(&fake->disk, path) == NULL)
        return leave(fake, kith_fail(diag, KITH_NOT_FOUND, "unlink %s", path));
    crash_disk_remove(&fake->disk, path);
    return leave(fake, KITH_OK);
}

static enum kith_err fake_make_dir(void *self, const char *path, struct kith_diag *diag)
{
    struct fake *fake = self;
    enum kith_err err = KITH_OK;
    if (enter(fake, false, true, &err, diag))
        return leave(fake, err);
    if (crash_disk_find(&fake->disk, path) == NULL)
        (void)crash_disk_create(&fake->disk, path, true);
    return leave(fake, KITH_OK);
}

static enum kith_err fake_remove_dir(void *self, const char *path, struct kith_diag *diag)
{
    struct fake *fake = self;
    for (size_t i = 0; i < fake->disk.now.n; i++)
        if (crash_disk_lies_in(fake->disk.now.list[i].path, path))
            return kith_fail(diag, KITH_IO, "rmdir %s: not empty", path);
    return fake_unlink(self, path, diag);
}

static enum kith_err fake_sync_dir(void *self, const char *path, struct kith_diag *diag)
{
    struct fake *fake = self;
    enum kith_err err = KITH_OK;
    bool fails = enter(fake, true, false, &err, diag);
    crash_disk_sync_dir(&fake->disk, path, fails);
    return leave(fake, err);
}

static enum kith_err fake_list(void *self, const char *path, io_name_fn on_name, void *ctx,
                               struct kith_diag *diag)
{
    (void)diag;
    struct fake *fake = self;
    pthread_mutex_lock(&fake->lock);
    for (size_t i = 0; i < fake->disk.now.n; i++) {
        const char *name = fake->disk.now.list[i].path;
        if (crash_disk_lies_in(name, path))
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
    crash_disk_fini(&fake->disk);
    (void)pthread_mutex_destroy(&fake->lock);
    kith_free(fake);
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
    crash_disk_crash(&fake->disk, seed, &after->disk);
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
    struct crash_disk_file *file = crash_disk_find(&fake->disk, path);
    if (file == NULL || file->is_dir)
        return false;
    *bytes = file->now.data;
    *len = file->now.len;
    return true;
}

enum kith_err io_fake_put(struct io *io, const char *path, const void *data, uint64_t len)
{
    struct fake *fake = io->self;
    crash_disk_put(&fake->disk, path, data, len);
    return KITH_OK;
}
