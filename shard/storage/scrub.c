#include "shard/storage/scrub.h"

#include <pthread.h>
#include <time.h>

#include "common/kith_clock.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "proto/kith_limits.h"

struct scrub {
    struct scrub_options options;
    pthread_t thread;
    bool runs;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping; /* guarded by lock, as is what follows */
    uint64_t wakes;
    struct scrub_stats stats;
};

/* One round: where it is against the clock. Of one thread. */
struct pacing {
    struct scrub *scrub;
    bool paced;
    uint64_t begin_ns, bytes;
    struct store_scrub_result result;
};

/* Waits at most so long; false: stop. With `news`, a wake-up ends the wait, too. */
static bool rest(struct scrub *scrub, uint64_t ns, const uint64_t *news)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t at = (uint64_t)until.tv_nsec + ns;
    until.tv_sec += (time_t)(at / 1000000000u);
    until.tv_nsec = (long)(at % 1000000000u);
    (void)pthread_mutex_lock(&scrub->lock);
    while (!scrub->stopping && (news == NULL || scrub->wakes == *news))
        if (pthread_cond_timedwait(&scrub->wake, &scrub->lock, &until) != 0)
            break;
    bool go_on = !scrub->stopping;
    (void)pthread_mutex_unlock(&scrub->lock);
    return go_on;
}

static bool on_pace(void *ctx, uint64_t bytes)
{
    struct pacing *pacing = ctx;
    struct scrub *scrub = pacing->scrub;
    pacing->bytes += bytes;
    if (!pacing->paced)
        return rest(scrub, 0, NULL);
    uint64_t due_ns = (uint64_t)((double)pacing->bytes * 1e9 / (double)scrub->options.bytes_per_s);
    uint64_t spent_ns = kith_now_ns() - pacing->begin_ns;
    return rest(scrub, due_ns > spent_ns ? due_ns - spent_ns : 0, NULL);
}

static bool verify_one(void *ctx, struct store *store)
{
    struct pacing *pacing = ctx;
    struct store_scrub_options options = {.pace = on_pace, .ctx = pacing};
    (void)store_verify(store, &options, NULL); /* what fails is logged by the segment */
    return rest(pacing->scrub, 0, NULL);
}

static bool scrub_one(void *ctx, struct store *store)
{
    struct pacing *pacing = ctx;
    struct store_scrub_options options = {.pace = on_pace, .ctx = pacing};
    struct kith_diag diag = {0};
    if (store_scrub(store, &options, &pacing->result, &diag) != KITH_OK)
        kith_log(WARN, "scrub.failed", "text=\"%s\"", diag.text);
    return rest(pacing->scrub, 0, NULL);
}

static void verify_all(struct scrub *scrub)
{
    struct pacing pacing = {.scrub = scrub};
    scrub->options.each(scrub->options.owner, verify_one, &pacing);
}

static void one_round(struct scrub *scrub, bool paced)
{
    struct pacing pacing = {.scrub = scrub, .paced = paced, .begin_ns = kith_now_ns()};
    scrub->options.each(scrub->options.owner, scrub_one, &pacing);
    (void)pthread_mutex_lock(&scrub->lock);
    scrub->stats.rounds++;
    scrub->stats.files += pacing.result.files;
    scrub->stats.bytes += pacing.result.bytes;
    scrub->stats.damaged += pacing.result.damaged;
    (void)pthread_mutex_unlock(&scrub->lock);
    kith_log(INFO, "scrub.round", "files=%u bytes=%llu damaged=%u ms=%llu", pacing.result.files,
             (unsigned long long)pacing.result.bytes, pacing.result.damaged,
             (unsigned long long)((kith_now_ns() - pacing.begin_ns) / 1000000u));
}

static uint64_t wakes_of(struct scrub *scrub)
{
    (void)pthread_mutex_lock(&scrub->lock);
    uint64_t wakes = scrub->wakes;
    (void)pthread_mutex_unlock(&scrub->lock);
    return wakes;
}

static void *scrub_thread(void *arg)
{
    struct scrub *scrub = arg;
    uint64_t period_ns = (uint64_t)scrub->options.period_s * 1000000000u;
    uint64_t next_ns = kith_now_ns() + period_ns, seen = 0, now_ns = 0;
    do {
        uint64_t wakes = wakes_of(scrub);
        if (wakes != seen)
            verify_all(scrub);
        seen = wakes;
        if (kith_now_ns() >= next_ns) {
            one_round(scrub, true);
            next_ns = kith_now_ns() + period_ns;
        }
        now_ns = kith_now_ns();
    } while (rest(scrub, next_ns > now_ns ? next_ns - now_ns : 0, &seen));
    return NULL;
}

enum kith_err scrub_open(struct scrub **out, const struct scrub_options *options,
                         struct kith_diag *diag)
{
    struct scrub *scrub = kith_alloc(sizeof *scrub);
    pthread_condattr_t attr;
    if (scrub == NULL)
        return kith_fail(diag, KITH_NOMEM, "scrubber");
    scrub->options = *options;
    if (scrub->options.bytes_per_s == 0)
        scrub->options.bytes_per_s = KITH_SCRUB_BYTES_PER_S;
    if (scrub->options.period_s == 0)
        scrub->options.period_s = KITH_SCRUB_PERIOD_S;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&scrub->lock, NULL);
    (void)pthread_cond_init(&scrub->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    scrub->runs =
        options->background && pthread_create(&scrub->thread, NULL, scrub_thread, scrub) == 0;
    if (options->background && !scrub->runs) {
        scrub_close(scrub);
        return kith_fail(diag, KITH_NOMEM, "scrubbing thread");
    }
    *out = scrub;
    return KITH_OK;
}

void scrub_close(struct scrub *scrub)
{
    if (scrub == NULL)
        return;
    (void)pthread_mutex_lock(&scrub->lock);
    scrub->stopping = true;
    (void)pthread_cond_broadcast(&scrub->wake);
    (void)pthread_mutex_unlock(&scrub->lock);
    if (scrub->runs)
        (void)pthread_join(scrub->thread, NULL);
    (void)pthread_cond_destroy(&scrub->wake);
    (void)pthread_mutex_destroy(&scrub->lock);
    kith_free(scrub);
}

void scrub_wake(struct scrub *scrub)
{
    (void)pthread_mutex_lock(&scrub->lock);
    scrub->wakes++;
    (void)pthread_cond_broadcast(&scrub->wake);
    (void)pthread_mutex_unlock(&scrub->lock);
}

void scrub_round(struct scrub *scrub)
{
    one_round(scrub, false);
}

void scrub_stats(struct scrub *scrub, struct scrub_stats *out)
{
    (void)pthread_mutex_lock(&scrub->lock);
    *out = scrub->stats;
    (void)pthread_mutex_unlock(&scrub->lock);
}
