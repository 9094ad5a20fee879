#include "shard/rpc/index_trainer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "common/kith_clock.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "common/kith_thread.h"
#include "shard/rpc/index_exchange.h"
#include "shard/rpc/index_sample.h"

/* When: the first codebook as soon as a collection has the rows a segment with an index needs; a
 * new one when it has grown GROWTH-fold, because the number of lists follows its size; and one when
 * the rows written lately lie so much further from their centroids than those it was trained on
 * that a search would look at too many lists. The last would go on for ever on data that no
 * codebook fits well, so it also takes CHANGED of the rows to have been written since.
 *
 * Who: the node of the collection's first slice asks all others how they are, adds that up, and
 * trains on rows of all that answered. The others ask it, and fetch what it has. When it is silent
 * for a minute the node of the next slice does its work. Nobody is elected: if two train at once,
 * of their codebooks every node prefers the same one (codebook_is_newer), and what was written with
 * the other one is replaced like any older index. So a node needs no state but its segments,
 * and one that was away, moved or restored asks, and knows.
 *
 * Nobody waits: a node without the newest codebook writes and searches with what it has.
 *
 * One training at a time on a node: it uses several threads, and its sample may take some hundred
 * MB. */

#define LOOK_MS    1000u
#define RETRY_NS   UINT64_C(30000000000)
#define EXCHANGE   5u     /* looks between questions when there is a codebook, or none in sight */
#define AWAY_MS    60000u /* a restart takes less */
#define GROWTH     8u
#define CHANGED    5u /* one row in so many */
#define TRAIN_NICE 5  /* as merges: queries and writes come first, but it must get on */

struct index_trainer {
    /* Immutable. */
    struct index_trainer_options options;
    struct index_exchange exchange;
    pthread_t thread;
    bool runs;
    uint64_t random; /* trainer only */
    uint64_t not_before_ns;
    atomic_bool stop; /* relaxed where it is polled */
    pthread_mutex_t lock;
    pthread_cond_t wake; /* stop was set */
};

/* What a collection adds up to, on this node and on those that answered. */
struct sums {
    struct collection_index *index; /* a reference */
    struct node_share *shares;      /* NULL: this node has it all */
    uint32_t n_shares, self;        /* self: which of them is this node */
    uint64_t live[KITH_NODES_MAX];  /* of each share; 0: of none that answered */
    uint64_t live_here, live_all;
    uint64_t seq[KITH_SLICES_PER_COLLECTION_MAX]; /* 0: of none that answered */
    uint32_t n_slices;                            /* open ones of this node */
    uint32_t slices[KITH_SLICES_PER_COLLECTION_MAX];
    double energy, energy_rows; /* of rows that got a list with the codebook of this node */
    struct kith_msg_codebooked state;
};

struct looking {
    struct index_trainer *trainer;
    uint64_t collection; /* the one that is being summed up */
    struct sums *sums;
    uint64_t *others; /* those that are there */
    size_t n_others, others_cap;
    bool hold;
};

static bool stops(const void *ctx)
{
    const struct index_trainer *trainer = ctx;
    return atomic_load_explicit(&trainer->stop, memory_order_relaxed);
}

/* ---- looking at this node -------------------------------------------------------------------- */

static bool note_collection(void *ctx, const struct slice_config *config, struct store *store)
{
    struct looking *looking = ctx;
    (void)store;
    if (config->index == KITH_INDEX_NONE || config->index == KITH_INDEX_FAISS)
        return true;
    for (size_t i = looking->n_others; i-- > 0;)
        if (looking->others[i] == config->collection)
            return true;
    if (!kith_grow((void **)&looking->others, &looking->others_cap, looking->n_others + 1,
                   sizeof *looking->others))
        return false;
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
    sums->live_here += stats.live_points;
    sums->seq[config->slice] = stats.seq;
    sums->slices[sums->n_slices++] = config->slice;
    return true;
}

static bool hold_slice(void *ctx, const struct slice_config *config, struct store *store)
{
    const struct looking *looking = ctx;
    if (config->collection == looking->collection)
        store_hold_merges(store, looking->hold); /* releasing nudges */
    return true;
}

static void hold_slices(struct index_trainer *trainer, const struct sums *sums, bool hold)
{
    struct looking looking = {
        .trainer = trainer, .collection = sums->index->config.collection, .hold = hold};
    slice_table_each(trainer->options.slices, hold_slice, &looking);
}

static void add_energy(struct sums *sums, uint64_t rows, float energy)
{
    sums->energy += (double)energy * (double)rows;
    sums->energy_rows += (double)rows;
}

static void sum_up(struct index_trainer *trainer, struct sums *sums)
{
    struct looking looking = {
        .trainer = trainer, .collection = sums->index->config.collection, .sums = sums};
    slice_table_each(trainer->options.slices, add_slice, &looking);
    struct ivf_fit fit = ivf_builder_fit(sums->index->builder);
    add_energy(sums, fit.rows, fit.energy);
    sums->live_all = sums->live_here;
}

/* ---- looking at the others ------------------------------------------------------------------- */

static void report(const struct sums *sums, const char *event, const struct kith_diag *diag)
{
    if (diag->err != KITH_CANCELLED)
        kith_log(WARN, event, "collection=%016llx error=%s text=\"%s\"",
                 (unsigned long long)sums->index->config.collection, kith_err_name(diag->err),
                 diag->text);
}

/* Takes over the codebook that a node said it has, if it is better than the own one. */
static void adopt(struct index_trainer *trainer, struct sums *sums, uint32_t share)
{
    struct collection_index *index = sums->index;
    const struct codebook *own = ivf_builder_codebook(index->builder);
    const struct kith_msg_codebooked *state = &sums->state;
    bool wanted = state->generation > 0 && codebook_is_newer(state->generation, state->hash, own);
    codebook_unref(own);
    if (!wanted)
        return;
    struct codebook *codebook = NULL;
    struct kith_diag diag = {0};
    if (index_exchange_fetch(&trainer->exchange, &sums->shares[share], state, &index->config,
                             &codebook, &diag) != KITH_OK) {
        report(sums, "index.fetch_failed", &diag);
        return;
    }
    kith_log(INFO, "index.fetched", "collection=%016llx generation=%u lists=%u hash=%016llx",
             (unsigned long long)index->config.collection, codebook->generation, codebook->n_lists,
             (unsigned long long)codebook->hash);
    ivf_builder_set_codebook(index->builder, codebook);
    codebook_unref(codebook);
    hold_slices(trainer, sums, false);
}

/* False: no answer. */
static bool consult(struct index_trainer *trainer, struct sums *sums, uint32_t share)
{
    const struct kith_msg_codebooked *state = &sums->state;
    struct kith_diag diag = {0};
    if (index_exchange_state(&trainer->exchange, &sums->shares[share], &sums->state, &diag) !=
        KITH_OK)
        return false;
    for (uint32_t i = 0; i < state->slices.n_slices; i++) {
        const struct kith_msg_slice *slice = &state->slices.slices[i];
        if (slice->err != KITH_OK)
            continue;
        sums->live[share] += slice->points;
        sums->live_all += slice->points;
        sums->seq[slice->slice] = slice->seq;
    }
    if (state->hash == ivf_builder_fit(sums->index->builder).hash)
        add_energy(sums, state->energy_rows, state->energy);
    adopt(trainer, sums, share);
    return true;
}

/* Whether it is this node that trains. */
static bool consult_all(struct index_trainer *trainer, struct sums *sums)
{
    struct collection_index *index = sums->index;
    for (uint32_t i = 0; i < sums->self; i++)
        if (consult(trainer, sums, i)) {
            index->silent_since_ns = 0;
            return false;
        }
    for (uint32_t i = sums->self + 1; i < sums->n_shares && !stops(trainer); i++)
        (void)consult(trainer, sums, i);
    if (index->silent_since_ns == 0)
        index->silent_since_ns = kith_now_ns();
    return sums->self == 0 ||
           (kith_now_ns() - index->silent_since_ns) / 1000000 >= trainer->options.away_ms;
}

/* False: the map does not say yet who has what. */
static bool find_others(struct index_trainer *trainer, struct sums *sums)
{
    struct kith_diag diag = {0};
    if (node_peers_shares(trainer->options.peers, sums->index->config.collection, &sums->shares,
                          &sums->n_shares, &diag) != KITH_OK) {
        report(sums, "index.no_map", &diag);
        return false;
    }
    while (sums->self < sums->n_shares && !sums->shares[sums->self].self)
        sums->self++;
    return sums->self < sums->n_shares && sums->n_shares <= KITH_NODES_MAX;
}

/* ---- deciding -------------------------------------------------------------------------------- */

/* Operations since the codebook was made, or found. */
static uint64_t changes(const struct sums *sums, const struct codebook *codebook)
{
    struct collection_index *index = sums->index;
    uint64_t n = 0;
    bool first = index->seen_hash != codebook->hash;
    index->seen_hash = codebook->hash;
    for (uint32_t i = 0; i < KITH_SLICES_PER_COLLECTION_MAX; i++) {
        if (first || index->seen_seq[i] == 0)
            index->seen_seq[i] = sums->seq[i];
        if (sums->seq[i] > index->seen_seq[i])
            n += sums->seq[i] - index->seen_seq[i];
    }
    return n;
}

/* Whether it is time for a new codebook, and of which generation. */
static bool is_due(const struct sums *sums, uint32_t *generation)
{
    struct collection_index *index = sums->index;
    const struct codebook *codebook = ivf_builder_codebook(index->builder);
    bool due;
    if (codebook == NULL) {
        *generation = 1;
        due = sums->live_all >= collection_indexes_train_rows(index->all);
    } else {
        *generation = codebook->generation + 1;
        bool grown = sums->live_all / GROWTH >= codebook->trained_rows;
        bool changed = changes(sums, codebook) >= sums->live_all / CHANGED;
        bool drifted = sums->energy >
                       (double)codebook->residual_energy * (double)IVF_DRIFT * sums->energy_rows;
        due = (grown || (changed && drifted)) && *generation > 0;
    }
    codebook_unref(codebook);
    return due;
}

/* ---- training -------------------------------------------------------------------------------- */

static enum kith_err sample_here(struct index_trainer *trainer, const struct sums *sums,
                                 uint32_t n_wanted, float *rows, uint32_t *n_rows,
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
        .n_wanted = n_wanted,
        .seed = trainer->random++,
        .stop = stops,
        .stop_ctx = trainer,
    };
    enum kith_err err = index_sample_run(&sample, rows, n_rows, diag);
    for (uint32_t i = 0; i < n; i++) {
        view_unref(views[i]);
        slice_put(trainer->options.slices, held[i]);
    }
    return err;
}

/* Of n rows wanted, those that are to come from a node with so many. */
static uint32_t share_of(uint32_t n, uint64_t live, const struct sums *sums)
{
    return (uint32_t)((unsigned __int128)n * live / sums->live_all);
}

/* From each node as many as it has of all rows. What a node that leaves does not give is not
 * missed: points are placed by a hash, so the rows of the others are as good a sample. */
static enum kith_err sample_all(struct index_trainer *trainer, const struct sums *sums,
                                uint32_t n_wanted, float *rows, uint32_t *n_rows,
                                struct kith_diag *diag)
{
    uint32_t dim = sums->index->config.dim, n;
    enum kith_err err =
        sample_here(trainer, sums, share_of(n_wanted, sums->live_here, sums), rows, n_rows, diag);
    for (uint32_t i = 0; i < sums->n_shares && err == KITH_OK; i++) {
        struct index_exchange_rows wanted = {.n_wanted = share_of(n_wanted, sums->live[i], sums),
                                             .dim = dim,
                                             .seed = trainer->random,
                                             .rows = rows + (size_t)*n_rows * dim};
        struct kith_diag why = {0};
        if (wanted.n_wanted == 0)
            continue;
        if (index_exchange_sample(&trainer->exchange, &sums->shares[i], &wanted, &n, &why) !=
            KITH_OK)
            report(sums, "index.sample_failed", &why);
        *n_rows += n;
        trainer->random += KITH_SAMPLE_PARTS;
        if (stops(trainer))
            err = kith_fail(diag, KITH_CANCELLED, "sample");
    }
    if (err == KITH_OK && *n_rows == 0)
        err = kith_fail(diag, KITH_CANCELLED, "the points are gone");
    if (err == KITH_OK)
        index_sample_shuffle(rows, *n_rows, dim, trainer->random++);
    return err;
}

static enum kith_err train(struct index_trainer *trainer, const struct sums *sums,
                           uint32_t generation, struct kith_diag *diag)
{
    struct collection_index *index = sums->index;
    struct codebook_training training = {
        .config = &index->config,
        .codes = (enum codebook_codes)index->config.index,
        .collection_rows = sums->live_all,
        .generation = generation,
        .threads = trainer->options.threads,
        .stop = stops,
        .stop_ctx = trainer,
    };
    struct codebook *codebook = NULL;
    uint64_t begin = kith_now_ns();
    uint32_t n_wanted = codebook_sample_rows(sums->live_all, index->config.dim);
    float *rows = kith_alloc((size_t)n_wanted * index->config.dim * sizeof *rows);
    if (rows == NULL)
        return kith_fail(diag, KITH_NOMEM, "a sample of %u rows", n_wanted);
    training.rows = rows;
    enum kith_err err = sample_all(trainer, sums, n_wanted, rows, &training.n_rows, diag);
    if (err == KITH_OK)
        err = codebook_train(&codebook, &training, diag);
    kith_free(rows);
    if (err != KITH_OK)
        return err;
    kith_log(INFO, "index.trained",
             "collection=%016llx generation=%u lists=%u rows=%u of=%llu hash=%016llx ms=%llu",
             (unsigned long long)index->config.collection, codebook->generation, codebook->n_lists,
             training.n_rows, (unsigned long long)sums->live_all,
             (unsigned long long)codebook->hash,
             (unsigned long long)((kith_now_ns() - begin) / 1000000));
    ivf_builder_set_codebook(index->builder, codebook);
    codebook_unref(codebook);
    return KITH_OK;
}

static void train_if_due(struct index_trainer *trainer, struct sums *sums)
{
    struct kith_diag diag = {0};
    uint32_t generation;
    if (!is_due(sums, &generation))
        return;
    atomic_store_explicit(&sums->index->training, true, memory_order_relaxed);
    hold_slices(trainer, sums, true); /* what is merged now would be written twice */
    if (train(trainer, sums, generation, &diag) != KITH_OK) {
        report(sums, "index.training_failed", &diag);
        if (diag.err != KITH_CANCELLED)
            trainer->not_before_ns = kith_now_ns() + RETRY_NS;
    }
    hold_slices(trainer, sums, false);
    atomic_store_explicit(&sums->index->training, false, memory_order_relaxed);
}

/* ---- the loop -------------------------------------------------------------------------------- */

static void serve(struct index_trainer *trainer, struct sums *sums)
{
    struct collection_index *index = sums->index;
    bool trains = true;
    if (kith_now_ns() < index->next_look_ns)
        return;
    if (trainer->options.peers != NULL && !find_others(trainer, sums))
        return;
    sum_up(trainer, sums);
    if (sums->n_shares > 1) {
        trains = consult_all(trainer, sums);
        bool far = sums->live_all < collection_indexes_train_rows(index->all) / 4;
        if (far || ivf_builder_fit(index->builder).hash != 0)
            index->next_look_ns =
                kith_now_ns() + UINT64_C(1000000) * EXCHANGE * trainer->options.look_ms;
    }
    if (trains && !stops(trainer))
        train_if_due(trainer, sums);
}

static void serve_collection(struct index_trainer *trainer, uint64_t collection)
{
    struct sums *sums = kith_alloc(sizeof *sums);
    if (sums == NULL)
        return; /* there is another look */
    sums->index = collection_index_find(trainer->options.indexes, collection);
    if (sums->index != NULL)
        serve(trainer, sums);
    collection_index_put(sums->index);
    kith_free(sums->shares);
    kith_free(sums);
}

static void look(struct index_trainer *trainer)
{
    struct looking looking = {.trainer = trainer};
    struct slice_table_counts counts;
    slice_table_counts(trainer->options.slices, &counts);
    /* A slice that is still being opened may have the codebook. */
    if (counts.warming > 0 || kith_now_ns() < trainer->not_before_ns)
        return;
    slice_table_each(trainer->options.slices, note_collection, &looking);
    for (size_t i = 0; i < looking.n_others && !stops(trainer); i++)
        serve_collection(trainer, looking.others[i]);
    kith_free(looking.others);
}

static void *run(void *arg)
{
    struct index_trainer *trainer = arg;
    kith_thread_behind(TRAIN_NICE);
    (void)pthread_mutex_lock(&trainer->lock);
    while (!stops(trainer)) {
        struct timespec until = kith_clock_in(trainer->options.look_ms);
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
    if (options->look_ms == 0)
        trainer->options.look_ms = LOOK_MS;
    if (options->away_ms == 0)
        trainer->options.away_ms = AWAY_MS;
    trainer->exchange = (struct index_exchange){options->peers, stops, trainer};
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
