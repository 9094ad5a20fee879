#include "tests/fault/fault_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shard/storage/store_testing.h"

#define EXT4_IOC_SHUTDOWN     _IOR('X', 125, uint32_t)
#define SHUTDOWN_NO_LOG_FLUSH 2u

#define IDS      40u
#define SLICE    "slices/c-0"
#define EXIT_OK  0
#define EXIT_BAD 3

struct script {
    const char *name;
    uint32_t writes, head_rows, maintain_every, reopen_every;
    uint64_t wal_file_bytes;
    bool destroy;
};

static const struct script scripts[] = {
    {.name = "append", .writes = 12, .head_rows = 1000},
    {.name = "rotate",
     .writes = 16,
     .head_rows = 1000,
     .wal_file_bytes = 6000,
     .maintain_every = 5},
    {.name = "checkpoint", .writes = 16, .head_rows = 20, .maintain_every = 3, .reopen_every = 4},
    {.name = "seal", .writes = 16, .head_rows = 10, .maintain_every = 4},
    {.name = "merge", .writes = 40, .head_rows = 8, .maintain_every = 2},
    {.name = "delete", .writes = 12, .head_rows = 10, .maintain_every = 4, .destroy = true},
};
const char *const fault_workloads[] = {"append", "rotate", "checkpoint", "seal",
                                       "merge",  "delete", NULL};

static const struct script *script_of(const char *name)
{
    for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++)
        if (strcmp(scripts[i].name, name) == 0)
            return &scripts[i];
    abort();
}

static int shared_fd = -1; /* of the first one: children of fault_strace inherit it */

static struct fault_shared *map_shared(int fd)
{
    struct fault_shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED)
        abort();
    return shared;
}

struct fault_shared *fault_shared_new(void)
{
    int fd = memfd_create("fault", 0);
    if (fd < 0 || ftruncate(fd, sizeof(struct fault_shared)) != 0)
        abort();
    if (shared_fd < 0)
        shared_fd = fd;
    return map_shared(fd);
}

/* ---- the io that fails ------------------------------------------------------------------------
 */

struct faulty {
    struct io io;
    struct io *real;
    const char *root;
    struct fault fault;
    struct fault_shared *shared;
};

static void power_off(const char *root)
{
    uint32_t how = SHUTDOWN_NO_LOG_FLUSH;
    int fd = open(root, O_RDONLY | O_DIRECTORY);
    if (fd < 0 || ioctl(fd, EXT4_IOC_SHUTDOWN, &how) != 0)
        _exit(EXIT_BAD);
    _exit(EXIT_OK + 1);
}

static bool is_now(struct faulty *f)
{
    return atomic_load(&f->shared->calls) == f->fault.at;
}

static void before(struct faulty *f)
{
    atomic_fetch_add(&f->shared->calls, 1);
    if (!is_now(f))
        return;
    if (f->fault.mode == FAULT_KILL || f->fault.mode == FAULT_KILL_HALF)
        (void)kill(getpid(), SIGKILL);
    else if (f->fault.mode == FAULT_POWER)
        power_off(f->root);
}

static void after(struct faulty *f)
{
    if (is_now(f) && f->fault.mode == FAULT_KILL_AFTER)
        (void)kill(getpid(), SIGKILL);
}

static bool is_full(const struct faulty *f)
{
    return f->fault.mode == FAULT_SPACE && atomic_load(&f->shared->calls) >= f->fault.at;
}

#define CALL(name_, params_, args_, space_)                                                        \
    static enum kith_err faulty_##name_ params_                                                    \
    {                                                                                              \
        struct faulty *f = self;                                                                   \
        self = f->real->self;                                                                      \
        before(f);                                                                                 \
        if ((space_) && is_full(f))                                                                \
            return kith_fail(diag, KITH_DISK_FULL, "asked to be full");                            \
        enum kith_err err = f->real->name_ args_;                                                  \
        after(f);                                                                                  \
        return err;                                                                                \
    }

CALL(open,
     (void *self, const char *path, enum io_open_mode mode, struct io_file **out,
      struct kith_diag *diag),
     (self, path, mode, out, diag), io_creates(mode))
CALL(size, (void *self, struct io_file *file, uint64_t *bytes, struct kith_diag *diag),
     (self, file, bytes, diag), false)
CALL(read,
     (void *self, struct io_file *file, uint64_t offset, void *out, size_t len,
      struct kith_diag *diag),
     (self, file, offset, out, len, diag), false)
CALL(allocate, (void *self, struct io_file *file, uint64_t bytes, struct kith_diag *diag),
     (self, file, bytes, diag), true)
CALL(truncate, (void *self, struct io_file *file, uint64_t bytes, struct kith_diag *diag),
     (self, file, bytes, diag), false)
CALL(map,
     (void *self, struct io_file *file, uint64_t len, const uint8_t **out, struct kith_diag *diag),
     (self, file, len, out, diag), false)
CALL(rename, (void *self, const char *from, const char *to, struct kith_diag *diag),
     (self, from, to, diag), true)
CALL(unlink, (void *self, const char *path, struct kith_diag *diag), (self, path, diag), false)
CALL(make_dir, (void *self, const char *path, struct kith_diag *diag), (self, path, diag), true)
CALL(remove_dir, (void *self, const char *path, struct kith_diag *diag), (self, path, diag), false)
CALL(list, (void *self, const char *path, io_name_fn on_name, void *ctx, struct kith_diag *diag),
     (self, path, on_name, ctx, diag), false)

static enum kith_err faulty_write(void *self, struct io_file *file, uint64_t offset,
                                  const void *data, size_t len, struct kith_diag *diag)
{
    struct faulty *f = self;
    if (f->fault.mode == FAULT_KILL_HALF && atomic_load(&f->shared->calls) + 1 == f->fault.at)
        (void)f->real->write(f->real->self, file, offset, data, len / 2, diag);
    before(f);
    if (is_full(f))
        return kith_fail(diag, KITH_DISK_FULL, "asked to be full");
    enum kith_err err = f->real->write(f->real->self, file, offset, data, len, diag);
    after(f);
    return err;
}

/* What Linux does: the failed sync loses what it had to sync, the next one says yes. What was lost
 * cannot be undone here, so the truth is only that nobody may rely on it. */
static bool sync_fails(struct faulty *f)
{
    uint64_t n = atomic_fetch_add(&f->shared->syncs, 1) + 1;
    return n == f->fault.at && f->fault.mode == FAULT_SYNC;
}

static enum kith_err faulty_sync(void *self, struct io_file *file, struct kith_diag *diag)
{
    struct faulty *f = self;
    before(f);
    if (sync_fails(f))
        return kith_fail(diag, KITH_IO, "asked to fail");
    enum kith_err err = f->real->sync(f->real->self, file, diag);
    after(f);
    return err;
}

static enum kith_err faulty_sync_dir(void *self, const char *path, struct kith_diag *diag)
{
    struct faulty *f = self;
    before(f);
    if (sync_fails(f))
        return kith_fail(diag, KITH_IO, "asked to fail");
    enum kith_err err = f->real->sync_dir(f->real->self, path, diag);
    after(f);
    return err;
}

static void faulty_close(void *self, struct io_file *file)
{
    struct faulty *f = self;
    f->real->close(f->real->self, file);
}

static void faulty_unmap(void *self, const uint8_t *map, uint64_t len)
{
    struct faulty *f = self;
    f->real->unmap(f->real->self, map, len);
}

static void faulty_open_root(struct faulty *f, const char *root, const struct fault *fault,
                             struct fault_shared *shared)
{
    struct kith_diag diag = {0};
    *f = (struct faulty){.root = root, .shared = shared};
    if (fault != NULL)
        f->fault = *fault;
    if (io_real_open(&f->real, root, &diag) != KITH_OK) {
        (void)fprintf(stderr, "%s\n", diag.text);
        _exit(EXIT_BAD);
    }
    f->io = (struct io){.self = f,
                        .open = faulty_open,
                        .close = faulty_close,
                        .size = faulty_size,
                        .read = faulty_read,
                        .write = faulty_write,
                        .allocate = faulty_allocate,
                        .truncate = faulty_truncate,
                        .sync = faulty_sync,
                        .map = faulty_map,
                        .unmap = faulty_unmap,
                        .rename = faulty_rename,
                        .unlink = faulty_unlink,
                        .make_dir = faulty_make_dir,
                        .remove_dir = faulty_remove_dir,
                        .sync_dir = faulty_sync_dir,
                        .list = faulty_list};
}

/* ---- the history ------------------------------------------------------------------------------
 */

static void make_ops(uint32_t write, struct kith_buf *ops, uint64_t version[IDS])
{
    struct kith_writer w = test_writer(ops);
    uint32_t n = 2 + write % 5;
    kith_write_array(&w, n);
    for (uint32_t k = 0; k < n; k++) {
        uint64_t id = (write * 7 + k * 13) % IDS;
        if ((write + k) % 5 == 0) {
            test_delete(&w, id);
            if (version != NULL)
                version[id] = 0;
        } else {
            test_put(&w, id, write);
            if (version != NULL)
                version[id] = write;
        }
    }
}

static struct store_options options_of(const struct script *script, struct io *io)
{
    struct store_options options = test_options(io);
    options.dir = SLICE;
    options.head_rows_max = script->head_rows;
    options.wal_file_bytes_max = script->wal_file_bytes;
    return options;
}

/* A step that failed ends the workload: what came is in shared. */
static bool open_store(struct store **store, const struct store_options *options)
{
    return store_open(store, options, NULL) == KITH_OK;
}

static void work(const struct script *script, struct io *io, struct fault_shared *shared)
{
    struct store_options options = options_of(script, io);
    struct store *store = NULL;
    if (store_create(&options, &test_config, NULL) != KITH_OK)
        return;
    atomic_store(&shared->created, true);
    atomic_store(&shared->calls_of_creation, atomic_load(&shared->calls));
    if (!open_store(&store, &options))
        return;
    for (uint32_t i = 1; i <= script->writes; i++) {
        struct kith_buf ops = {0};
        bool did;
        make_ops(i, &ops, NULL);
        atomic_store(&shared->attempted, i);
        struct kith_diag diag;
        atomic_store(&shared->results[i], 1 + (int)test_write_id(store, i, &ops, &diag).err);
        kith_buf_fini(&ops);
        struct view *view = store_view(store);
        if (view_verdict(&view, 1, KITH_OK, NULL) != KITH_OK)
            atomic_fetch_add(&shared->reads_failed, 1);
        view_unref(view);
        if (script->maintain_every != 0 && i % script->maintain_every == 0)
            (void)store_maintain(store, &did, NULL);
        if (script->reopen_every != 0 && i % script->reopen_every == 0) {
            struct store_stats stats;
            store_stats(store, &stats);
            if (stats.failed) /* opening it again is the checker's part */
                break;
            store_close(store);
            store = NULL;
            if (!open_store(&store, &options))
                return;
        }
    }
    store_close(store);
    if (!script->destroy)
        return;
    atomic_store(&shared->destroying, true);
    if (store_destroy(&options, NULL) == KITH_OK)
        atomic_store(&shared->destroyed, true);
}

/* ---- what is there ----------------------------------------------------------------------------
 */

static bool same(const struct view *view, const uint64_t version[IDS])
{
    uint64_t live = 0;
    for (uint64_t id = 0; id < IDS; id++) {
        if (!test_reads(view, id, version[id]))
            return false;
        live += version[id] != 0;
    }
    return live == view->live_points &&
           view_verdict((struct view *const *)&view, 1, KITH_OK, NULL) == KITH_OK;
}

/* Acknowledged writes, and with or without the one nobody heard of. */
static bool is_allowed(const struct view *view, const struct fault_shared *shared)
{
    uint64_t version[IDS] = {0};
    uint32_t unknown = 0;
    for (uint32_t i = 1; i <= atomic_load(&shared->attempted); i++) {
        int result = atomic_load(&shared->results[i]);
        struct kith_buf ops = {0};
        if (result == 1 + KITH_OK) {
            make_ops(i, &ops, version);
            if (unknown != 0) {
                (void)fprintf(stderr, "write %u was acknowledged after %u had failed\n", i,
                              unknown);
                return false;
            }
        } else if (unknown == 0 && (result == 0 || result == 1 + KITH_IO)) {
            unknown = i;
        }
        kith_buf_fini(&ops);
    }
    if (same(view, version))
        return true;
    if (unknown == 0)
        return false;
    struct kith_buf ops = {0};
    make_ops(unknown, &ops, version);
    kith_buf_fini(&ops);
    return same(view, version);
}

/* With `last`, nobody looks again: the store must also take a write. */
static int judge(const struct script *script, struct io *io, const struct fault_shared *shared,
                 bool last)
{
    struct store_options options = options_of(script, io);
    struct store *store = NULL;
    struct kith_diag diag = {0};
    enum kith_err err = store_open(&store, &options, &diag);
    bool may_be_gone = !atomic_load(&shared->created) || atomic_load(&shared->destroying);
    if (err == KITH_NOT_FOUND && may_be_gone) {
        /* What is left must not be in the way. */
        if (!last || store_create(&options, &test_config, &diag) == KITH_OK)
            return EXIT_OK;
    } else if (err == KITH_OK && atomic_load(&shared->destroyed)) {
        (void)kith_fail(&diag, KITH_INTERNAL, "a destroyed slice is back");
    } else if (err == KITH_OK) {
        struct view *view = store_view(store);
        bool allowed = is_allowed(view, shared);
        view_unref(view);
        struct kith_buf ops = {0};
        make_ops(1, &ops, NULL);
        if (!allowed)
            (void)kith_fail(&diag, KITH_INTERNAL, "a state that never was");
        else if (last && test_write_id(store, 0, &ops, &diag).err != KITH_OK)
            allowed = false;
        kith_buf_fini(&ops);
        store_close(store);
        if (allowed)
            return EXIT_OK;
    }
    (void)fprintf(stderr, "%s, %u attempted, %s: %s\n", script->name,
                  atomic_load(&shared->attempted), kith_err_name(err), diag.text);
    return EXIT_BAD;
}

/* ---- children ---------------------------------------------------------------------------------
 */

static int wait_for(pid_t child)
{
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

static void limit_files(uint64_t bytes)
{
    struct rlimit limit = {bytes, bytes};
    if (bytes != 0 && setrlimit(RLIMIT_FSIZE, &limit) != 0)
        _exit(EXIT_BAD);
}

static void become_child(void)
{
    int null = open("/dev/null", O_WRONLY); /* the store's log of what was asked for */
    if (getenv("KITH_LOUD") == NULL && null >= 0)
        (void)dup2(null, STDOUT_FILENO);
}

bool fault_run(const char *workload, const char *root, const struct fault *fault,
               struct fault_shared *shared)
{
    memset(shared, 0, sizeof *shared);
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct faulty f;
        become_child();
        limit_files(fault->file_bytes_max);
        faulty_open_root(&f, root, fault, shared);
        work(script_of(workload), &f.io, shared);
        if (fault->mode == FAULT_POWER)
            power_off(root);
        io_real_close(f.real);
        _exit(EXIT_OK);
    }
    int status = wait_for(child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_OK)
        return true;
    if ((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) ||
        (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_OK + 1))
        return false;
    fail_msg("%s: the process ended by itself, status %d", workload, status);
    return false;
}

void fault_work(int argc, char **argv)
{
    if (argc != 5 || strcmp(argv[1], "--work") != 0)
        return;
    struct faulty f;
    const struct fault none = {0};
    struct fault_shared *shared = map_shared(atoi(argv[4]));
    faulty_open_root(&f, argv[3], &none, shared);
    work(script_of(argv[2]), &f.io, shared);
    io_real_close(f.real);
    _exit(EXIT_OK);
}

/* strace ends as what it traces ended, a kill included. */
static int run_strace(const char *inject, const char *const *command)
{
    char option[128];
    (void)snprintf(option, sizeof option, "inject=%s", inject);
    pid_t child = fork();
    if (child == 0) {
        const char *argv[16] = {"strace", "-f", "-qq", "-o", "/dev/null", "-e", option};
        int n = 7;
        while (*command != NULL)
            argv[n++] = *command++;
        become_child();
        (void)execvp("strace", (char *const *)(uintptr_t)argv);
        _exit(EXIT_BAD);
    }
    return wait_for(child);
}

bool fault_strace_works(void)
{
    static const char *const command[] = {"true", NULL};
    int status = run_strace("fdatasync:error=EIO:when=9", command);
    return WIFEXITED(status) && WEXITSTATUS(status) == EXIT_OK;
}

bool fault_strace(const char *workload, const char *root, const char *inject,
                  struct fault_shared *shared)
{
    char fd[16], self[256];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    memset(shared, 0, sizeof *shared);
    (void)snprintf(fd, sizeof fd, "%d", shared_fd);
    self[len > 0 ? len : 0] = '\0';
    const char *command[] = {self, "--work", workload, root, fd, NULL};
    int status = run_strace(inject, command);
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_OK)
        return true;
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        fail_msg("%s under %s: status %d", workload, inject, status);
    return false;
}

bool fault_check(const char *workload, const char *root, const struct fault *fault,
                 const struct fault_shared *shared)
{
    static struct fault_shared *recovery; /* counts the calls of the recovery */
    if (recovery == NULL)
        recovery = fault_shared_new();
    memset(recovery, 0, sizeof *recovery);
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct faulty f;
        become_child();
        faulty_open_root(&f, root, fault, recovery);
        int code = judge(script_of(workload), &f.io, shared, fault->mode == FAULT_NONE);
        io_real_close(f.real);
        _exit(code);
    }
    int status = wait_for(child);
    return WIFEXITED(status) && WEXITSTATUS(status) == EXIT_OK;
}
