/* One lock, one ring of tasks, one list of jobs.
 *
 * A task is a whole request's work; a job (kith_pool_run) is one caller's loop that idle workers
 * help with. Helpers are not queued: a queued helper would outlive its job, whose memory is the
 * caller's stack. Instead a job stands in a list while it has indexes left, and a worker that is
 * free looks there first, so requests in progress end before new ones begin. The caller works too,
 * hence a job ends even when every worker is busy: a task may call kith_pool_run without a risk of
 * deadlock.
 *
 * A worker joins a job at most once: it leaves only when the indexes have run out, and then the job
 * leaves the list. So worker numbers given by order of joining are unique and never exceed the
 * number of threads.
 *
 * A lock-free queue lost: tasks last tens of microseconds and more, the lock is held for a few
 * dozen instructions, and it makes the end of a job easy to prove. */
#include "common/kith_pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

#include "common/kith_aside.h"
#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "common/kith_thread.h"
#include "proto/kith_limits.h"

struct task {
    kith_task_fn run;
    void *ctx;
};

struct job {
    /* Immutable while listed. */
    kith_piece_fn fn;
    void *ctx;
    uint32_t n;
    int cpu; /* the caller's, which helpers leave to it; -1: they run where they woke */
    /* Relaxed: it hands out numbers; what the pieces read and write is ordered by the pool's lock,
     * taken when joining and when leaving. 64 bits, so that late takers cannot wrap it. */
    atomic_uint_fast64_t next;
    /* Guarded by the pool's lock. */
    struct job *later;
    uint32_t joined, working;
    pthread_cond_t left;
};

struct kith_pool {
    /* Immutable after open. */
    uint32_t n_threads;
    bool ahead, aside; /* aside: whoever opened it stands aside, so do its threads */
    pthread_t *threads;
    /* Guarded by lock. */
    pthread_mutex_t lock;
    pthread_cond_t work;
    bool closing;
    struct job *jobs;
    uint32_t first, waiting;
    struct task ring[KITH_POOL_QUEUE_MAX];
    /* Threads that are about to wake a worker, without the lock: raised under it. */
    atomic_uint wakers;
};

static void do_pieces(struct job *job, uint32_t worker)
{
    for (;;) {
        uint64_t index = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (index >= job->n)
            return;
        job->fn(job->ctx, (uint32_t)index, worker);
        kith_aside_look();
    }
}

static void unlist_locked(struct kith_pool *pool, struct job *job)
{
    struct job **link = &pool->jobs;
    while (*link != NULL && *link != job)
        link = &(*link)->later;
    if (*link == job)
        *link = job->later;
}

/* Gives the lock back and then wakes workers: one that was woken before would interrupt the caller
 * on its CPU only to wait for the lock, and whoever else wants the CPU runs meanwhile, up to the
 * next tick of the clock. */
static void unlock_and_wake(struct kith_pool *pool, uint32_t n)
{
    atomic_fetch_add_explicit(&pool->wakers, 1, memory_order_relaxed);
    (void)pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < n; i++)
        (void)pthread_cond_signal(&pool->work);
    atomic_fetch_sub_explicit(&pool->wakers, 1,
                              memory_order_release); /* kith_pool_close acquires */
}

/* Called and returns with the lock held; works without it. */
static void help_locked(struct kith_pool *pool, struct job *job)
{
    uint32_t worker = ++job->joined;
    kith_assert(worker <= pool->n_threads);
    job->working++;
    (void)pthread_mutex_unlock(&pool->lock);
    bool away = job->cpu >= 0 && kith_aside_leave(job->cpu);
    do_pieces(job, worker);
    if (away)
        kith_aside_return();
    (void)pthread_mutex_lock(&pool->lock);
    unlist_locked(pool, job);
    /* Under the lock: the job is on its caller's stack and gone as soon as the caller sees 0. */
    if (--job->working == 0)
        (void)pthread_cond_signal(&job->left);
}

static void *worker_main(void *arg)
{
    struct kith_pool *pool = arg;
    (void)pthread_setname_np(pthread_self(), "kith-pool");
    (void)pthread_mutex_lock(&pool->lock);
    if (pool->ahead)
        kith_thread_ahead();
    kith_aside_set(pool->aside);
    for (;;) {
        if (pool->jobs != NULL) {
            help_locked(pool, pool->jobs);
        } else if (pool->waiting > 0) {
            struct task task = pool->ring[pool->first];
            pool->first = (pool->first + 1) % KITH_POOL_QUEUE_MAX;
            pool->waiting--;
            (void)pthread_mutex_unlock(&pool->lock);
            task.run(task.ctx);
            kith_aside_look();
            (void)pthread_mutex_lock(&pool->lock);
        } else if (pool->closing) {
            break;
        } else {
            (void)pthread_cond_wait(&pool->work, &pool->lock);
        }
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return NULL;
}

uint32_t kith_pool_cpus(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : (uint32_t)n;
}

static enum kith_err open_pool(struct kith_pool **out, uint32_t n_threads, bool ahead,
                               struct kith_diag *diag)
{
    uint32_t want = n_threads == 0 ? kith_pool_cpus() : n_threads;
    if (want > KITH_POOL_THREADS_MAX)
        want = KITH_POOL_THREADS_MAX;
    struct kith_pool *pool = kith_alloc(sizeof *pool);
    if (pool == NULL)
        return kith_fail(diag, KITH_NOMEM, "no memory for a pool of %u threads", want);
    pool->ahead = ahead;
    pool->aside = !ahead && kith_aside_get();
    (void)pthread_mutex_init(&pool->lock, NULL);
    (void)pthread_cond_init(&pool->work, NULL);
    pool->threads = kith_alloc(want * sizeof *pool->threads);
    if (pool->threads == NULL) {
        kith_pool_close(pool);
        return kith_fail(diag, KITH_NOMEM, "no memory for a pool of %u threads", want);
    }
    /* Workers compare with n_threads only after they got the lock that start-up holds. */
    (void)pthread_mutex_lock(&pool->lock);
    while (pool->n_threads < want &&
           pthread_create(&pool->threads[pool->n_threads], NULL, worker_main, pool) == 0)
        pool->n_threads++;
    (void)pthread_mutex_unlock(&pool->lock);
    if (pool->n_threads < want) {
        kith_pool_close(pool);
        return kith_fail(diag, KITH_NOMEM, "cannot start %u threads", want);
    }
    *out = pool;
    return KITH_OK;
}

enum kith_err kith_pool_open(struct kith_pool **out, uint32_t n_threads, struct kith_diag *diag)
{
    return open_pool(out, n_threads, false, diag);
}

enum kith_err kith_pool_open_ahead(struct kith_pool **out, uint32_t n_threads,
                                   struct kith_diag *diag)
{
    return open_pool(out, n_threads, true, diag);
}

void kith_pool_close(struct kith_pool *pool)
{
    if (pool == NULL)
        return;
    (void)pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    (void)pthread_cond_broadcast(&pool->work);
    (void)pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < pool->n_threads; i++)
        (void)pthread_join(pool->threads[i], NULL);
    kith_assert(pool->waiting == 0 && pool->jobs == NULL);
    /* A task may have run, and all have ended, before who gave it has woken its worker. */
    while (atomic_load_explicit(&pool->wakers, memory_order_acquire) > 0)
        (void)sched_yield();
    (void)pthread_cond_destroy(&pool->work);
    (void)pthread_mutex_destroy(&pool->lock);
    kith_free(pool->threads);
    kith_free(pool);
}

uint32_t kith_pool_threads(const struct kith_pool *pool)
{
    return pool->n_threads;
}

uint32_t kith_pool_waiting(struct kith_pool *pool)
{
    (void)pthread_mutex_lock(&pool->lock);
    uint32_t waiting = pool->waiting;
    (void)pthread_mutex_unlock(&pool->lock);
    return waiting;
}

enum kith_err kith_pool_submit(struct kith_pool *pool, kith_task_fn run, void *ctx)
{
    kith_assert(run != NULL);
    (void)pthread_mutex_lock(&pool->lock);
    bool taken = pool->waiting < KITH_POOL_QUEUE_MAX;
    if (taken) {
        uint32_t last = (pool->first + pool->waiting) % KITH_POOL_QUEUE_MAX;
        pool->ring[last] = (struct task){.run = run, .ctx = ctx};
        pool->waiting++;
    }
    unlock_and_wake(pool, taken ? 1 : 0);
    return taken ? KITH_OK : KITH_BUSY;
}

static void list_job(struct kith_pool *pool, struct job *job, uint32_t helpers)
{
    (void)pthread_mutex_lock(&pool->lock);
    struct job **link = &pool->jobs;
    while (*link != NULL)
        link = &(*link)->later;
    *link = job;
    unlock_and_wake(pool, helpers < pool->n_threads ? helpers : pool->n_threads);
}

/* Whoever joined has left. */
static void end_job(struct kith_pool *pool, struct job *job)
{
    (void)pthread_mutex_lock(&pool->lock);
    unlist_locked(pool, job);
    while (job->working > 0)
        (void)pthread_cond_wait(&job->left, &pool->lock);
    (void)pthread_mutex_unlock(&pool->lock);
    (void)pthread_cond_destroy(&job->left);
}

void kith_pool_run(struct kith_pool *pool, uint32_t n, kith_piece_fn fn, void *ctx)
{
    struct job job = {.fn = fn, .ctx = ctx, .n = n, .cpu = -1, .left = PTHREAD_COND_INITIALIZER};
    bool shared = pool != NULL && n > 1;
    if (shared)
        list_job(pool, &job, n - 1);
    do_pieces(&job, 0);
    if (shared)
        end_job(pool, &job);
}

void kith_pool_run_short(struct kith_pool *pool, uint32_t n, kith_piece_fn fn, void *ctx)
{
    struct job job = {.fn = fn, .ctx = ctx, .n = n, .left = PTHREAD_COND_INITIALIZER};
    uint64_t end_ns = pool != NULL && n > 1 ? kith_now_ns() + KITH_POOL_ALONE_NS : UINT64_MAX;
    uint32_t done = 0;
    while (done < n && (done + 1 == n || kith_now_ns() < end_ns))
        fn(ctx, done++, 0);
    if (done == n)
        return;
    atomic_init(&job.next, done);
    /* Beside a load a helper wakes on the caller's CPU and is left there for a millisecond and
     * more, although what kept the others busy stands aside by then. */
    job.cpu = kith_aside_crowded() ? sched_getcpu() : -1;
    list_job(pool, &job, n - done - 1);
    do_pieces(&job, 0);
    end_job(pool, &job);
}
