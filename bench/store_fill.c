#include "store_fill.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static _Noreturn void die(const char *what, const char *why)
{
    fprintf(stderr, "bench: %s: %s\n", what, why);
    exit(1);
}

void store_fill_make_dir(char *out, size_t size)
{
    const char *parent = getenv("KITH_BENCH_DIR");

    if (parent == NULL)
        parent = getenv("TMPDIR");
    snprintf(out, size, "%s/kith-bench-XXXXXX", parent == NULL ? "/tmp" : parent);
    if (mkdtemp(out) == NULL)
        die(out, "cannot be made");
}

void store_fill_remove_dir(const char *dir)
{
    pid_t child = fork();

    if (child == 0) {
        execlp("rm", "rm", "-rf", dir, (char *)NULL);
        _exit(127);
    }
    waitpid(child, NULL, 0);
}

enum kith_err store_fill_select_none(const struct view *view, struct kith_bytes filter,
                                     store_emit_fn emit, void *emit_ctx, struct kith_diag *diag)
{
    (void)view, (void)filter, (void)emit, (void)emit_ctx;
    return kith_fail(diag, KITH_INTERNAL, "nothing here writes by filter");
}

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done, busy;
};

static void on_written(void *ctx, const struct store_write_result *result,
                       const struct kith_diag *diag)
{
    struct waiter *waiter = ctx;

    if (result->err != KITH_OK && result->err != KITH_BUSY)
        die("write", diag->text);
    pthread_mutex_lock(&waiter->lock);
    waiter->busy = result->err == KITH_BUSY;
    waiter->done = true;
    pthread_cond_signal(&waiter->changed);
    pthread_mutex_unlock(&waiter->lock);
}

bool store_fill_try(struct store *store, const struct kith_buf *ops)
{
    struct waiter waiter = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false};
    struct kith_diag diag = {0};

    if (ops->failed)
        die("write", "out of memory");
    if (store_write(store, 0, (struct kith_bytes){ops->data, ops->len}, on_written, &waiter,
                    &diag) != KITH_OK)
        die("write", diag.text);
    pthread_mutex_lock(&waiter.lock);
    while (!waiter.done)
        pthread_cond_wait(&waiter.changed, &waiter.lock);
    pthread_mutex_unlock(&waiter.lock);
    return !waiter.busy;
}

void store_fill_write(struct store *store, const struct kith_buf *ops)
{
    while (!store_fill_try(store, ops))
        continue; /* it waited a while before it refused */
}

void store_fill_maintain(struct store *store)
{
    struct kith_diag diag = {0};

    for (bool did_work = true; did_work;)
        if (store_maintain(store, &did_work, &diag) != KITH_OK)
            die("maintain", diag.text);
}

void store_fill_rest(struct store *store)
{
    struct kith_diag diag = {0};
    bool did_work;

    store_assume_rest(store);
    if (store_rest(store, &did_work, &diag) != KITH_OK)
        die("rest", diag.text);
    store_fill_maintain(store);
}
