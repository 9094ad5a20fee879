#include "shard/rpc/index_trainer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "common/kith_clock.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "shard/rpc/index_sample.h"

/* When: the first codebook as soon as a collection has the rows a segment with an index needs; a
 * new one when it has grown GROWTH-fold, because the number of lists follows its size; and one when
 * the rows written lately lie so much further from their centroids than those it was trained on
 * that a search would look at too many lists. The last would go on for ever on data that no
 * codebook fits well, so it also takes CHANGED of the rows to have been written since.
 *
 * One training at a time on a node: it uses several threads, and its sample may take some hundred
 * MB. */

#define LOOK_S     1
#define RETRY_NS   UINT64_C(30000000000)
#define GROWTH     8u
#define CHANGED    5u /* one row in so many */
#define TRAIN_NICE 5  /* as merges: queries and writes come first, but it must get on */

struct index_trainer {
    /* Immutable. */
    struct index_trainer_options options;
    pthread_t thread;
    bool runs;
    uint64_t random; /* trainer only */
    uint64_t not_before_ns;
    atomic_bool stop; /* relaxed where it is polled */
    pthread_mutex_t lock;
    pthread_cond_t wake; /* stop was set */
};

/* What the slices of a collection on this node add up to. */
struct sums {
    struct collection_index *index; /* a reference */
    uint64_t live, seq;
    uint32_t n_slices;
    uint32_t slices[KITH_SLICES_PER_COLLECTION_MAX];
};

struct looking {
    struct index_trainer *trainer;
    uint64_t collection; /* the one that is being summed up */
    struct sums *sums;
    uint64_t *others; /* those that are there */
    size_t n_others, others_cap;
    bool failed, hold;
};

static bool stops(const void *ctx)
{
    const struct index_trainer *trainer = ctx;
    return atomic_load_explicit(&trainer->stop, memory_order_relaxed);
}

/* ---- looking --------------------------------------------------------------------------------- */

static bool note_collection(void *ctx, const struct slice_config *config, struct store *store)
{
    struct looking *looking = ctx;
    (void)store;
    if (config->index == KITH_INDEX_NONE)
        return true;
    for (size_t i = looking->n_others; i-- > 0;)
        if (looking->others[i] == config->collection)
            return true;
    if (!kith_grow((void **)&looking->others, &looking->others_cap, looking->n_others + 1,
                   sizeof *looking->others)) {
        looking->failed = true;
        return false;
    }
    looking->others[looking->n_others++] = config->collection;
    return !stops(looking->trainer);
}

static bool add_slice(void *ctx, const struct slice_config *config, struct store *store)
{
    struct looking *looking = ctx;
    struct sums *sums = looking->sums;
    struct store_stats stats;
    if (config->collection != looking->collection ||
        sums->n_slices == KITH_SLICES_PER_COLLECTION_MAX)
        return true;
    store_stats(store, &stats);
    sums->live += stats.live_points;
    sums->seq += stats.seq;
    sums->slices[sums->n_slices++] = config->slice;
    return true;
}

static bool hold_slice(void *ctx, const struct slice_config *config, struct store *store)
{
    const struct looking *looking = ctx;
    if (config->collection == looking->collection)
        store_hold_merges(store, looking->hold);
    return true;
}

/* Whether it is time for a new codebook, and of which generation. */
static bool is_due(struct sums *sums, uint32_t *generation)
{
    struct collection_index *index = sums->index;
    const struct codebook *codebook = ivf_builder_codebook(index->builder);
    bool due;
    if (codebook == NULL) {
        *generation = 1;
        due = sums->live >= collection_indexes_min_rows(index->all);
    } else {
        if (!index->seen)
            index->trained_seq = sums->seq;
        *generation = codebook->generation + 1;
        bool grown = sums->live / GROWTH >= codebook->trained_rows;
        bool changed = sums->seq - index->trained_seq >= sums->live / CHANGED;
        due = grown || (changed && ivf_builder_drift(index->builder) > IVF_DRIFT);
    }
    index->seen = true;
    codebook_unref(codebook);
    return due;
}

/* ---- training -------------------------------------------------------------------------------- */

static enum kith_err take_sample(struct index_trainer *trainer, const struct sums *sums,
                                 struct codebook_training *training, float **rows,
                                 struct kith_diag *diag)
{
    struct slice *held[KITH_SLICES_PER_COLLECTION_MAX];
    struct view *views[KITH_SLICES_PER_COLLECTION_MAX];
    uint32_t n = 0;
    const char *why;
    for (uint32_t i = 0; i < sums->n_slices; i++) {
        if (slice_table_get(trainer->options.slices, sums->index->config.collection,
                            sums->slices[i], &held[n], &why) != KITH_OK)
            continue; /* dropped meanwhile */
        views[n] = store_view(slice_store(held[n]));
        n++;
    }
    struct index_sample sample = {
        .views = views,
        .n_views = n,
        .n_wanted = codebook_sample_rows(sums->live, sums->index->config.dim),
        .seed = trainer->random++,
        .stop = stops,
        .stop_ctx = trainer,
    };
    enum kith_err err = index_sample_run(&sample, rows, &training->n_rows, diag);
    for (uint32_t i = 0; i < n; i++) {
        view_unref(views[i]);
        slice_put(trainer->options.slices, held[i]);
    }
    if (err == KITH_OK && training->n_rows == 0)
        err = kith_fail(diag, KITH_CANCELLED, "the points are gone");
    return err;
}

static enum kith_err train(struct index_trainer *trainer, const struct sums *sums,
                           uint32_t generation, struct kith_diag *diag)
{
    struct collection_index *index = sums->index;
    struct codebook_training training = {
        .config = &index->config,
        .codes = (enum codebook_codes)index->config.index,
        .collection_rows = sums->live,
        .generation = generation,
        .threads = trainer->options.threads,
        .stop = stops,
        .stop_ctx = trainer,
    };
    struct codebook *codebook = NULL;
    float *rows = NULL;
    uint64_t begin = kith_now_ns();
    enum kith_err err = take_sample(trainer, sums, &training, &rows, diag);
    training.rows = rows;
    if (err == KITH_OK)
        err = codebook_train(&codebook, &training, diag);
    kith_free(rows);
    if (err != KITH_OK)
        return err;
    kith_log(INFO, "index.trained",
             "collection=%016llx generation=%u lists=%u rows=%u of=%llu ms=%llu",
             (unsigned long long)index->config.collection, codebook->generation, codebook->n_lists,
             training.n_rows, (unsigned long long)sums->live,
             (unsigned long long)((kith_now_ns() - begin) / 1000000));
    index->trained_seq = sums->seq;
    ivf_builder_set_codebook(index->builder, codebook);
    codebook_unref(codebook);
    return KITH_OK;
}

static void serve(struct index_trainer *trainer, uint64_t collection)
{
    struct sums sums = {0};
    struct looking looking = {.trainer = trainer, .collection = collection, .sums = &sums};
    struct kith_diag diag = {0};
    uint32_t generation;
    slice_table_each(trainer->options.slices, add_slice, &looking);
    sums.index = collection_index_find(trainer->options.indexes, collection);
    if (sums.index != NULL && is_due(&sums, &generation)) {
        atomic_store_explicit(&sums.index->training, true, memory_order_relaxed);
        looking.hold = true; /* what is merged now would be written twice */
        slice_table_each(trainer->options.slices, hold_slice, &looking);
        enum kith_err err = train(trainer, &sums, generation, &diag);
        looking.hold = false;
        slice_table_each(trainer->options.slices, hold_slice, &looking);
        atomic_store_explicit(&sums.index->training, false, memory_order_relaxed);
        if (err != KITH_OK && err != KITH_CANCELLED) {
            kith_log(WARN, "index.training_failed", "collection=%016llx error=%s text=\"%s\"",
                     (unsigned long long)collection, kith_err_name(err), diag.text);
            trainer->not_before_ns = kith_now_ns() + RETRY_NS;
        }
    }
    collection_index_put(sums.index);
}

static void look(struct index_trainer *trainer)
{
    struct looking looking = {.trainer = trainer};
    if (kith_now_ns() < trainer->not_before_ns)
        return;
    slice_table_each(trainer->options.slices, note_collection, &looking);
    for (size_t i = 0; i < looking.n_others && !stops(trainer); i++)
        serve(trainer, looking.others[i]);
    kith_free(looking.others);
}

static void *run(void *arg)
{
    struct index_trainer *trainer = arg;
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), TRAIN_NICE);
    (void)pthread_mutex_lock(&trainer->lock);
    while (!stops(trainer)) {
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += LOOK_S;
        (void)pthread_cond_timedwait(&trainer->wake, &trainer->lock, &until);
        (void)pthread_mutex_unlock(&trainer->lock);
        look(trainer);
        (void)pthread_mutex_lock(&trainer->lock);
    }
    (void)pthread_mutex_unlock(&trainer->lock);
    return NULL;
}

enum kith_err index_trainer_open(struct index_trainer **out,
                                 const struct index_trainer_options *options,
                                 struct kith_diag *diag)
{
    pthread_condattr_t attr;
    struct index_trainer *trainer = kith_alloc(sizeof *trainer);
    if (trainer == NULL)
        return kith_fail(diag, KITH_NOMEM, "no memory for the trainer of indexes");
    trainer->options = *options;
    trainer->random = kith_now_ns();
    atomic_init(&trainer->stop, false);
    (void)pthread_mutex_init(&trainer->lock, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&trainer->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    trainer->runs = pthread_create(&trainer->thread, NULL, run, trainer) == 0;
    if (!trainer->runs) {
        index_trainer_close(trainer);
        return kith_fail(diag, KITH_NOMEM, "training thread");
    }
    *out = trainer;
    return KITH_OK;
}

void index_trainer_close(struct index_trainer *trainer)
{
    if (trainer == NULL)
        return;
    (void)pthread_mutex_lock(&trainer->lock);
    atomic_store(&trainer->stop, true);
    (void)pthread_cond_signal(&trainer->wake);
    (void)pthread_mutex_unlock(&trainer->lock);
    if (trainer->runs)
        (void)pthread_join(trainer->thread, NULL);
    (void)pthread_cond_destroy(&trainer->wake);
    (void)pthread_mutex_destroy(&trainer->lock);
    kith_free(trainer);
}
