#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <pthread.h>

#include "common/kith_aside.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "shard/storage/io.h"

/* The machine's disk. Every path is resolved by openat & co. against one descriptor of the root, so
 * that a renamed root or a changed working directory cannot send a write elsewhere. */

#define PATH_BYTES_MAX 512 /* slices live three short folders deep */

struct real {
    struct io io;
    int root_fd;
    int lock_fd;
    /* The reserve; fd < 0: none. */
    int reserve_fd;
    pthread_mutex_t reserve_lock;
    off_t reserve_want; /* immutable once there is one */
    bool reserve_whole; /* guarded by reserve_lock */
};

static _Thread_local bool may_use_reserve;

#define DIRECT_ALIGN 4096u

/* A file written as a stream has at most two windows that are not on disk: one filling up, one on
 * its way. Without that a merge leaves hundreds of megabytes dirty, which go to the device all at
 * once when it is synced or when the journal commits, and a log's sync queues behind them. Large
 * enough for a disk's full rate, small enough for a few tens of ms of a slow one. */
#define STREAM_WINDOW (4u << 20)

/* In one call: until the kernel has copied it, nobody else gets the CPU. Streams come in huge
 * pages, of which pieces would leave nothing; but beside searches in pieces, too: a huge page takes
 * 0.2 ms, and in a virtual machine whose host has taken back what was free, 5 ms without an
 * interrupt, and 256 KiB of small pages 0.65 there. */
#define WRITE_PIECE    (256u << 10)
#define SEARCHED_PIECE (64u << 10)

struct io_file {
    int fd;
    bool direct, stream;
    uint64_t window_at; /* stream: where the window that fills up begins; another lies before it */
};

static enum kith_err fail_errno(struct kith_diag *diag, int code, const char *what,
                                const char *path)
{
    enum kith_err err = KITH_IO;
    if (code == ENOSPC || code == EDQUOT ||
        code == EFBIG) /* EFBIG: a limit on the process's files */
        err = KITH_DISK_FULL;
    else if (code == ENOENT)
        err = KITH_NOT_FOUND;
    else if (code == EEXIST)
        err = KITH_EXISTS;
    char text[128];
    return kith_fail(diag, err, "%s%s%s: %s%s", what, *path != '\0' ? " " : "", path,
                     strerror_r(code, text, sizeof text),
                     err == KITH_DISK_FULL ? " (free some: no restart is needed)" : "");
}

static const struct real *of(void *self)
{
    return self;
}

/* ---- the reserve ----------------------------------------------------------------------------- */

bool io_use_reserve(bool may)
{
    bool before = may_use_reserve;
    may_use_reserve = may;
    return before;
}

/* After a full disk: true when space was freed for this thread, and the call is worth another try.
 */
static bool spend_reserve(struct real *real)
{
    if (!may_use_reserve || real->reserve_fd < 0)
        return false;
    (void)pthread_mutex_lock(&real->reserve_lock);
    bool spent = real->reserve_whole && ftruncate(real->reserve_fd, 0) == 0;
    if (spent) {
        real->reserve_whole = false;
        kith_log(WARN, "disk.reserve_used", "bytes=%lld", (long long)real->reserve_want);
    }
    (void)pthread_mutex_unlock(&real->reserve_lock);
    return spent;
}

/* Whether the reserve is whole, or could be made so now. */
static bool fill_reserve(struct real *real)
{
    if (real->reserve_fd < 0)
        return true;
    (void)pthread_mutex_lock(&real->reserve_lock);
    if (!real->reserve_whole) {
        int rc = fallocate(real->reserve_fd, 0, 0, real->reserve_want);
        /* Without fallocate a file system makes no promise that a reserve could be. */
        real->reserve_whole = rc == 0 || errno == EOPNOTSUPP;
        if (real->reserve_whole)
            kith_log(INFO, "disk.reserve_whole", "bytes=%lld", (long long)real->reserve_want);
        else if (ftruncate(real->reserve_fd, 0) != 0) /* half a reserve is nobody's space */
            kith_log(WARN, "disk.reserve_stuck", "errno=%d", errno);
    }
    bool whole = real->reserve_whole;
    (void)pthread_mutex_unlock(&real->reserve_lock);
    return whole;
}

enum kith_err io_real_reserve(struct io *io, uint64_t bytes, struct kith_diag *diag)
{
    struct real *real = io->self;
    struct statvfs fs;
    if (fstatvfs(real->root_fd, &fs) != 0)
        return fail_errno(diag, errno, "statvfs", "");
    uint64_t most = (uint64_t)fs.f_blocks * fs.f_frsize / 16;
    real->reserve_want = (off_t)(bytes < most ? bytes : most);
    real->reserve_fd = openat(real->root_fd, "RESERVE", O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (real->reserve_fd < 0)
        return errno == ENOSPC ? KITH_OK : fail_errno(diag, errno, "open", "RESERVE");
    if (!fill_reserve(real))
        kith_log(WARN, "disk.no_reserve", "bytes=%lld", (long long)real->reserve_want);
    return KITH_OK;
}

/* ---- files ----------------------------------------------------------------------------------- */

static enum kith_err real_open(void *self, const char *path, enum io_open_mode mode,
                               struct io_file **out, struct kith_diag *diag)
{
    int flags = O_CLOEXEC | O_NOFOLLOW;
    if (mode == IO_READ || mode == IO_READ_DISK)
        flags |= O_RDONLY;
    else if (mode == IO_WRITE)
        flags |= O_RDWR;
    else
        flags |= O_RDWR | O_CREAT | O_EXCL;
    struct io_file *file = kith_alloc(sizeof *file);
    if (file == NULL)
        return kith_fail(diag, KITH_NOMEM, "open %s", path);
    file->direct = mode == IO_READ_DISK;
    file->stream = mode == IO_CREATE_STREAM;
    file->fd = openat(of(self)->root_fd, path, flags | (file->direct ? O_DIRECT : 0), 0640);
    if (file->fd < 0 && errno == EINVAL && file->direct) { /* tmpfs has no disk to go to */
        file->direct = false;
        file->fd = openat(of(self)->root_fd, path, flags, 0640);
    }
    if (file->fd < 0 && errno == ENOSPC && spend_reserve(self))
        file->fd = openat(of(self)->root_fd, path, flags, 0640);
    if (file->fd < 0) {
        int code = errno;
        kith_free(file);
        return fail_errno(diag, code, "open", path);
    }
    *out = file;
    return KITH_OK;
}

static void real_close(void *self, struct io_file *file)
{
    (void)self;
    if (file == NULL)
        return;
    (void)close(file->fd); /* what mattered was synced before, and sync reported its errors */
    kith_free(file);
}

static enum kith_err real_size(void *self, struct io_file *file, uint64_t *bytes,
                               struct kith_diag *diag)
{
    (void)self;
    struct stat st;
    if (fstat(file->fd, &st) != 0)
        return fail_errno(diag, errno, "fstat", "");
    *bytes = (uint64_t)st.st_size;
    return KITH_OK;
}

static enum kith_err real_read(void *self, struct io_file *file, uint64_t offset, void *out,
                               size_t len, struct kith_diag *diag)
{
    (void)self;
    uint8_t *to = out;
    while (len > 0) {
        size_t want = file->direct ? (len + DIRECT_ALIGN - 1) / DIRECT_ALIGN * DIRECT_ALIGN : len;
        ssize_t n = pread(file->fd, to, want, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno(diag, errno, "read", "");
        if (n == 0)
            return kith_fail(diag, KITH_CORRUPT, "file ends before offset %llu",
                             (unsigned long long)offset + len);
        if ((size_t)n >= len)
            break;
        to += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return KITH_OK;
}

/* Never retried, not even on EINTR: after a failed sync the kernel may have dropped the pages, and
 * a second call would report a success that is not there. */
static enum kith_err fail_sync(struct kith_diag *diag, const char *what)
{
    int code = errno;
    (void)fail_errno(diag, code, what, "");
    return code == ENOSPC || code == EDQUOT || code == EFBIG
               ? kith_fail(diag, KITH_IO, "%s: disk full", what)
               : KITH_IO;
}

/* Sends a full window on its way and waits for the one before it. That one's errors are told here
 * and, by the kernel's rules, not again by the sync at the end: they are as final. */
static enum kith_err push_window(struct io_file *file, uint64_t end, struct kith_diag *diag)
{
    if (!file->stream || end < file->window_at + STREAM_WINDOW)
        return KITH_OK;
    off_t at = (off_t)file->window_at;
    int rc = sync_file_range(file->fd, at, (off_t)end - at, SYNC_FILE_RANGE_WRITE);
    if (rc == 0 && at > 0) /* a length of 0 would mean all of it */
        rc = sync_file_range(file->fd, 0, at, SYNC_FILE_RANGE_WAIT_BEFORE);
    file->window_at = end;
    if (rc == 0)
        return KITH_OK;
    if (errno != EINVAL && errno != ENOSYS && errno != EPERM && errno != ESPIPE)
        return fail_sync(diag, "sync_file_range");
    file->stream = false; /* a file system, or a sandbox, that does not know it */
    return KITH_OK;
}

static enum kith_err real_write(void *self, struct io_file *file, uint64_t offset, const void *data,
                                size_t len, struct kith_diag *diag)
{
    const uint8_t *from = data;
    while (len > 0) {
        (void)kith_aside_stand();
        size_t most = file->stream ? SIZE_MAX : WRITE_PIECE;
        if (len > SEARCHED_PIECE && kith_aside_searched())
            most = SEARCHED_PIECE;
        size_t piece = len < most ? len : most;
        ssize_t n = pwrite(file->fd, from, piece, (off_t)offset);
        if (n < 0 && (errno == EINTR || (errno == ENOSPC && spend_reserve(self))))
            continue;
        if (n < 0)
            return fail_errno(diag, errno, "write", "");
        from += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return push_window(file, offset, diag);
}

static enum kith_err real_allocate(void *self, struct io_file *file, uint64_t bytes,
                                   struct kith_diag *diag)
{
    int rc;
    if (!may_use_reserve && !fill_reserve(self))
        return fail_errno(diag, ENOSPC, "fallocate", "");
    do
        rc = fallocate(file->fd, 0, 0, (off_t)bytes);
    while (rc != 0 && (errno == EINTR || (errno == ENOSPC && spend_reserve(self))));
    /* A file system without fallocate: posix_fallocate writes the blocks, slow but true. */
    if (rc != 0 && errno == EOPNOTSUPP) {
        errno = posix_fallocate(file->fd, 0, (off_t)bytes);
        rc = errno == 0 ? 0 : -1;
    }
    return rc == 0 ? KITH_OK : fail_errno(diag, errno, "fallocate", "");
}

static enum kith_err real_truncate(void *self, struct io_file *file, uint64_t bytes,
                                   struct kith_diag *diag)
{
    (void)self;
    return ftruncate(file->fd, (off_t)bytes) == 0 ? KITH_OK
                                                  : fail_errno(diag, errno, "truncate", "");
}

static enum kith_err real_sync(void *self, struct io_file *file, struct kith_diag *diag)
{
    (void)self;
    return fdatasync(file->fd) == 0 ? KITH_OK : fail_sync(diag, "fdatasync");
}

static enum kith_err real_map(void *self, struct io_file *file, uint64_t len, const uint8_t **out,
                              struct kith_diag *diag)
{
    (void)self;
    void *map = mmap(NULL, len, PROT_READ, MAP_SHARED, file->fd, 0);
    if (map == MAP_FAILED)
        return errno == ENOMEM
                   ? kith_fail(diag, KITH_NOMEM, "mmap of %llu bytes", (unsigned long long)len)
                   : fail_errno(diag, errno, "mmap", "");
    *out = map;
    return KITH_OK;
}

static void real_unmap(void *self, const uint8_t *map, uint64_t len)
{
    (void)self;
    if (map != NULL)
        (void)munmap((void *)(uintptr_t)map, len);
}

static enum kith_err real_rename(void *self, const char *from, const char *to,
                                 struct kith_diag *diag)
{
    int root = of(self)->root_fd;
    int rc = renameat(root, from, root, to);
    if (rc != 0 && errno == ENOSPC && spend_reserve(self))
        rc = renameat(root, from, root, to);
    return rc == 0 ? KITH_OK : fail_errno(diag, errno, "rename", from);
}

static enum kith_err real_unlink(void *self, const char *path, struct kith_diag *diag)
{
    return unlinkat(of(self)->root_fd, path, 0) == 0 ? KITH_OK
                                                     : fail_errno(diag, errno, "unlink", path);
}

static enum kith_err real_make_dir(void *self, const char *path, struct kith_diag *diag)
{
    if (mkdirat(of(self)->root_fd, path, 0750) == 0 || errno == EEXIST)
        return KITH_OK;
    return fail_errno(diag, errno, "mkdir", path);
}

static enum kith_err real_remove_dir(void *self, const char *path, struct kith_diag *diag)
{
    return unlinkat(of(self)->root_fd, path, AT_REMOVEDIR) == 0
               ? KITH_OK
               : fail_errno(diag, errno, "rmdir", path);
}

static int open_dir(const struct real *real, const char *path)
{
    return openat(real->root_fd, path[0] != '\0' ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static enum kith_err real_sync_dir(void *self, const char *path, struct kith_diag *diag)
{
    int fd = open_dir(of(self), path);
    if (fd < 0)
        return fail_errno(diag, errno, "open folder", path);
#ifdef KITH_BUG_NO_DIR_FSYNC
    int rc = 0;
#else
    int rc = fsync(fd);
#endif
    int code = errno;
    (void)close(fd);
    if (rc == 0)
        return KITH_OK;
    (void)fail_errno(diag, code, "fsync folder", path);
    return KITH_IO;
}

static enum kith_err real_list(void *self, const char *path, io_name_fn on_name, void *ctx,
                               struct kith_diag *diag)
{
    int fd = open_dir(of(self), path);
    if (fd < 0)
        return fail_errno(diag, errno, "open folder", path);
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        int code = errno;
        (void)close(fd);
        return fail_errno(diag, code, "read folder", path);
    }
    int code = 0;
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(dir);
        if (entry == NULL) {
            code = errno;
            break;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            on_name(ctx, entry->d_name);
    }
    (void)closedir(dir);
    return code == 0 ? KITH_OK : fail_errno(diag, code, "read folder", path);
}

/* mkdir -p, each new entry synced into its parent: a root that a power loss undoes is no root. */
static enum kith_err make_root(const char *root, struct kith_diag *diag)
{
    char path[PATH_BYTES_MAX];
    size_t len = strlen(root);
    if (len == 0 || len >= sizeof path)
        return kith_fail(diag, KITH_BAD_REQUEST, "data folder: a path of 1 to %zu bytes is needed",
                         sizeof path - 1);
    memcpy(path, root, len + 1);
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        path[i] = '\0';
        if (mkdir(path, 0750) == 0) {
            char parent[PATH_BYTES_MAX + 4];
            (void)snprintf(parent, sizeof parent, "%s/..", path);
            int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            if (fd >= 0) {
                (void)fsync(fd);
                (void)close(fd);
            }
        } else if (errno != EEXIST) {
            return fail_errno(diag, errno, "mkdir", path);
        }
        if (i < len)
            path[i] = '/';
    }
    return KITH_OK;
}

enum kith_err io_real_open(struct io **out, const char *root, struct kith_diag *diag)
{
    enum kith_err err = make_root(root, diag);
    if (err != KITH_OK)
        return err;
    struct real *real = kith_alloc(sizeof *real);
    if (real == NULL)
        return kith_fail(diag, KITH_NOMEM, "open %s", root);
    /* A file that would pass a limit is an error of the call, not the end of the process. */
    (void)signal(SIGXFSZ, SIG_IGN);
    real->lock_fd = real->reserve_fd = -1;
    (void)pthread_mutex_init(&real->reserve_lock, NULL);
    real->root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (real->root_fd < 0) {
        err = fail_errno(diag, errno, "open", root);
        goto out;
    }
    real->lock_fd = openat(real->root_fd, "LOCK", O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (real->lock_fd < 0) {
        err = fail_errno(diag, errno, "open LOCK in", root);
        goto out;
    }
    if (flock(real->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        err = kith_fail(diag, KITH_BUSY, "%s is in use by another process", root);
        goto out;
    }
    real->io = (struct io){
        .self = real,
        .open = real_open,
        .close = real_close,
        .size = real_size,
        .read = real_read,
        .write = real_write,
        .allocate = real_allocate,
        .truncate = real_truncate,
        .sync = real_sync,
        .map = real_map,
        .unmap = real_unmap,
        .rename = real_rename,
        .unlink = real_unlink,
        .make_dir = real_make_dir,
        .remove_dir = real_remove_dir,
        .sync_dir = real_sync_dir,
        .list = real_list,
    };
    *out = &real->io;
    real = NULL;
out:
    if (real != NULL)
        io_real_close(&real->io);
    return err;
}

void io_real_close(struct io *io)
{
    if (io == NULL)
        return;
    struct real *real = (struct real *)(void *)io; /* io is the first member */
    if (real->reserve_fd >= 0)
        (void)close(real->reserve_fd);
    if (real->lock_fd >= 0)
        (void)close(real->lock_fd);
    (void)pthread_mutex_destroy(&real->reserve_lock);
    if (real->root_fd >= 0)
        (void)close(real->root_fd);
    kith_free(real);
}
