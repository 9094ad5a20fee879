/* libuv behind a small face; the home of uv.h.
 *
 * The mailbox: an eventfd merges wake-ups, so one wake-up means "one or more letters". The loop
 * takes the whole list under the lock and delivers it without the lock. A sender wakes the loop
 * only when the list was empty: a list with something in it has a wake-up on its way, because the
 * list is emptied only by the drain that follows a wake-up, which clears the eventfd first.
 *
 * Not uv_async_send: its loop waits, spinning and then yielding, until the sender has left that
 * function, and a sender is interrupted right in it when the loop it woke takes its CPU.
 *
 * Memory of a handle is freed in its close callback and nowhere else. Every handle of the loop was
 * made here, so kith_loop_close can close whatever its users left open. */
#include "common/kith_loop.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <uv.h>

#include "common/kith_aside.h"
#include "common/kith_mem.h"

struct kith_loop {
    uv_loop_t uv;
    uv_poll_t wake;
    int wake_fd;
    uv_prepare_t turn;
    uv_signal_t signals[2];
    kith_loop_fn on_signal;
    void *signal_ctx;
    bool has_signals;
    /* The thread inside kith_loop_run, 0 = none. Relaxed: a thread can only find its own number
     * there if it stored it itself. */
    atomic_ulong runner;
    atomic_uint wakers; /* threads on their way to a wake-up; raised under the lock */
    /* Set by any thread before a wake-up; that and the read after it are ordered by the lock. */
    bool stopping;
    /* Guarded by lock: stopping too. */
    pthread_mutex_t lock;
    struct kith_letter *head;
    struct kith_letter **tail;
};

struct kith_timer {
    uv_timer_t uv;
    kith_loop_fn fn;
    void *ctx;
};

struct kith_watch {
    uv_poll_t uv;
    kith_watch_fn fn;
    void *ctx;
};

/* ---- the mailbox ----------------------------------------------------------------------------- */

static struct kith_letter *take_letters(struct kith_loop *loop, bool *stopping)
{
    (void)pthread_mutex_lock(&loop->lock);
    struct kith_letter *list = loop->head;
    loop->head = NULL;
    loop->tail = &loop->head;
    *stopping = loop->stopping;
    (void)pthread_mutex_unlock(&loop->lock);
    return list;
}

static void deliver(struct kith_letter *list)
{
    while (list != NULL) {
        struct kith_letter *letter = list;
        list = letter->next; /* read first: fn may free what holds the letter, or post it again */
        letter->fn(letter->ctx);
    }
}

static void wake(struct kith_loop *loop)
{
    const uint64_t one = 1;
    /* It can only fail when 2^64 - 2 wake-ups have not been taken. */
    while (write(loop->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
        continue;
}

static void on_wake(uv_poll_t *uv, int status, int events)
{
    struct kith_loop *loop = uv->data;
    uint64_t count;
    bool stopping;
    (void)status, (void)events;
    while (read(loop->wake_fd, &count, sizeof count) < 0 && errno == EINTR)
        continue;
    deliver(take_letters(loop, &stopping));
    if (stopping)
        uv_stop(&loop->uv);
}

void kith_loop_post(struct kith_loop *loop, struct kith_letter *letter)
{
    letter->next = NULL;
    (void)pthread_mutex_lock(&loop->lock);
    bool was_empty = loop->head == NULL;
    *loop->tail = letter;
    loop->tail = &letter->next;
    /* Woken without the lock: the loop would interrupt this thread on its CPU only to wait for it.
     * By then the letter may have ended the loop, whose closing waits for the wakers. */
    if (was_empty)
        atomic_fetch_add_explicit(&loop->wakers, 1, memory_order_relaxed);
    (void)pthread_mutex_unlock(&loop->lock);
    if (!was_empty)
        return;
    wake(loop);
    atomic_fetch_sub_explicit(&loop->wakers, 1,
                              memory_order_release); /* kith_loop_close acquires */
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* 0, or an error of libuv, which are negative errnos: then there is nothing to close. */
static int open_wake(struct kith_loop *loop)
{
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->wake_fd < 0)
        return -errno;
    int rc = uv_poll_init(&loop->uv, &loop->wake, loop->wake_fd);
    if (rc != 0) {
        (void)close(loop->wake_fd);
        return rc;
    }
    loop->wake.data = loop;
    rc = uv_poll_start(&loop->wake, UV_READABLE, on_wake);
    kith_assert(rc == 0); /* it only notes what to wait for */
    return 0;
}

static void on_turn(uv_prepare_t *turn)
{
    (void)turn;
    kith_aside_look();
}

/* Before the loop looks for what has happened. */
static void start_turns(struct kith_loop *loop)
{
    int rc = uv_prepare_init(&loop->uv, &loop->turn);
    kith_assert(rc == 0); /* both only fill in the struct */
    rc = uv_prepare_start(&loop->turn, on_turn);
    kith_assert(rc == 0);
}

enum kith_err kith_loop_open(struct kith_loop **out, struct kith_diag *diag)
{
    struct kith_loop *loop = kith_alloc(sizeof *loop);
    if (loop == NULL)
        return kith_fail(diag, KITH_NOMEM, "no memory for an event loop");
    int rc = uv_loop_init(&loop->uv);
    if (rc != 0) {
        kith_free(loop);
        return kith_fail(diag, rc == UV_ENOMEM ? KITH_NOMEM : KITH_IO, "event loop: %s",
                         uv_strerror(rc));
    }
    rc = open_wake(loop);
    if (rc != 0) {
        (void)uv_loop_close(&loop->uv);
        kith_free(loop);
        return kith_fail(diag, KITH_IO, "event loop: %s", uv_strerror(rc));
    }
    start_turns(loop);
    loop->tail = &loop->head;
    (void)pthread_mutex_init(&loop->lock, NULL);
    *out = loop;
    return KITH_OK;
}

void kith_loop_run(struct kith_loop *loop)
{
    atomic_store_explicit(&loop->runner, (unsigned long)pthread_self(), memory_order_relaxed);
    (void)uv_run(&loop->uv, UV_RUN_DEFAULT);
    /* Letters that came between the stop and here; the wake-up handle keeps the loop alive, so
     * stopping is the only way out of uv_run. */
    bool stopping;
    struct kith_letter *list;
    while ((list = take_letters(loop, &stopping)) != NULL)
        deliver(list);
    kith_assert(stopping);
    (void)pthread_mutex_lock(&loop->lock);
    loop->stopping = false;
    (void)pthread_mutex_unlock(&loop->lock);
    atomic_store_explicit(&loop->runner, 0, memory_order_relaxed);
}

void kith_loop_stop(struct kith_loop *loop)
{
    (void)pthread_mutex_lock(&loop->lock);
    loop->stopping = true;
    wake(loop);
    (void)pthread_mutex_unlock(&loop->lock);
}

bool kith_loop_here(const struct kith_loop *loop)
{
    unsigned long runner = atomic_load_explicit(&loop->runner, memory_order_relaxed);
    return runner == 0 || runner == (unsigned long)pthread_self();
}

static void on_closed(uv_handle_t *handle)
{
    kith_free(handle->data);
}

static void close_handle(uv_handle_t *handle, void *ctx)
{
    const struct kith_loop *loop = ctx;
    if (uv_is_closing(handle))
        return;
    bool own_memory = handle->type == UV_TIMER ||
                      (handle->type == UV_POLL && handle != (const uv_handle_t *)&loop->wake);
    uv_close(handle, own_memory ? on_closed : NULL);
}

void kith_loop_close(struct kith_loop *loop)
{
    if (loop == NULL)
        return;
    kith_assert(kith_loop_here(loop));
    while (atomic_load_explicit(&loop->wakers, memory_order_acquire) > 0)
        (void)sched_yield();
    uv_walk(&loop->uv, close_handle, loop);
    /* A stop that came after the run would end this one at once. */
    while (uv_loop_alive(&loop->uv))
        (void)uv_run(&loop->uv, UV_RUN_DEFAULT);
    int rc = uv_loop_close(&loop->uv);
    kith_assert(rc == 0);
    (void)close(loop->wake_fd);
    (void)pthread_mutex_destroy(&loop->lock);
    kith_free(loop);
}

/* ---- timers ---------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *uv)
{
    struct kith_timer *timer = uv->data;
    timer->fn(timer->ctx);
}

enum kith_err kith_timer_new(struct kith_timer **out, struct kith_loop *loop, kith_loop_fn fn,
                             void *ctx)
{
    kith_assert(kith_loop_here(loop));
    struct kith_timer *timer = kith_alloc(sizeof *timer);
    if (timer == NULL)
        return KITH_NOMEM;
    timer->fn = fn;
    timer->ctx = ctx;
    int rc = uv_timer_init(&loop->uv, &timer->uv);
    kith_assert(rc == 0); /* it only fills in the struct */
    timer->uv.data = timer;
    *out = timer;
    return KITH_OK;
}

void kith_timer_start(struct kith_timer *timer, uint64_t after_ms, uint64_t repeat_ms)
{
    uv_update_time(timer->uv.loop); /* the loop's idea of now is as old as this turn */
    int rc = uv_timer_start(&timer->uv, on_timer, after_ms, repeat_ms);
    kith_assert(rc == 0);
}

void kith_timer_stop(struct kith_timer *timer)
{
    (void)uv_timer_stop(&timer->uv);
}

void kith_timer_free(struct kith_timer *timer)
{
    if (timer != NULL)
        uv_close((uv_handle_t *)&timer->uv, on_closed);
}

/* ---- file descriptors ------------------------------------------------------------------------ */

static void on_poll(uv_poll_t *uv, int status, int events)
{
    struct kith_watch *watch = uv->data;
    int ready = ((events & UV_READABLE) != 0 ? KITH_READABLE : 0) |
                ((events & UV_WRITABLE) != 0 ? KITH_WRITABLE : 0);
    watch->fn(watch->ctx, status < 0 ? 0 : ready, status < 0);
}

enum kith_err kith_watch_new(struct kith_watch **out, struct kith_loop *loop, int fd,
                             kith_watch_fn fn, void *ctx)
{
    kith_assert(kith_loop_here(loop));
    struct kith_watch *watch = kith_alloc(sizeof *watch);
    if (watch == NULL)
        return KITH_NOMEM;
    watch->fn = fn;
    watch->ctx = ctx;
    if (uv_poll_init(&loop->uv, &watch->uv, fd) != 0) {
        kith_free(watch); /* a failed init leaves nothing to close */
        return KITH_IO;
    }
    watch->uv.data = watch;
    *out = watch;
    return KITH_OK;
}

void kith_watch_start(struct kith_watch *watch, int events)
{
    int wanted = ((events & KITH_READABLE) != 0 ? UV_READABLE : 0) |
                 ((events & KITH_WRITABLE) != 0 ? UV_WRITABLE : 0);
    int rc = uv_poll_start(&watch->uv, wanted, on_poll);
    kith_assert(rc == 0);
}

void kith_watch_stop(struct kith_watch *watch)
{
    (void)uv_poll_stop(&watch->uv);
}

void kith_watch_free(struct kith_watch *watch)
{
    if (watch != NULL)
        uv_close((uv_handle_t *)&watch->uv, on_closed);
}

/* ---- signals --------------------------------------------------------------------------------- */

static void on_signal(uv_signal_t *uv, int number)
{
    (void)number;
    struct kith_loop *loop = uv->data;
    loop->on_signal(loop->signal_ctx);
}

enum kith_err kith_loop_on_signals(struct kith_loop *loop, kith_loop_fn fn, void *ctx)
{
    static const int numbers[2] = {SIGINT, SIGTERM};
    kith_assert(kith_loop_here(loop) && !loop->has_signals);
    loop->has_signals = true;
    loop->on_signal = fn;
    loop->signal_ctx = ctx;
    for (int i = 0; i < 2; i++) {
        if (uv_signal_init(&loop->uv, &loop->signals[i]) != 0)
            return KITH_IO;
        loop->signals[i].data = loop;
        if (uv_signal_start(&loop->signals[i], on_signal, numbers[i]) != 0)
            return KITH_IO;
    }
    return KITH_OK;
}
