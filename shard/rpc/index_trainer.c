#include "shard/rpc/index_trainer.h"

#include <pthread.h>
#include <stdatomic.h>

#include "common/kith_clock.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "common/kith_thread.h"
#include "shard/rpc/index_sample.h"
#include "shard/rpc/index_survey.h"

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

static bool stops(const void *ctx)
{
    const struct index_trainer *trainer = ctx;
    return atomic_load_explicit(&trainer->stop, memory_order_relaxed);
}

/* ---- deciding -------------------------------------------------------------------------------- */

/* Asks the others; whether it is this node that trains. */
static bool consult_all(struct index_trainer *trainer, struct index_survey *survey)
{
    struct collection_index *index = survey->index;
    for (uint32_t i = 0; i < survey->self; i++)
        if (index_survey_ask(survey, i)) {
            index->silent_since_ns = 0;
            return false;
        }
    for (uint32_t i = survey->self + 1; i < survey->n_shares && !stops(trainer); i++)
        (void)index_survey_ask(survey, i);
    if (index->silent_since_ns == 0)
        index->silent_since_ns = kith_now_ns();
    return survey->self == 0 ||
           (kith_now_ns() - index->silent_since_ns) / 1000000 >= trainer->options.away_ms;
}

/* Operations since the codebook was made, or found. */
static uint64_t changes(const struct index_survey *survey, const struct codebook *codebook)
{
    struct collection_index *index = survey->index;
    uint64_t n = 0;
    bool first = index->seen_hash != codebook->hash;
    index->seen_hash = codebook->hash;
    for (uint32_t i = 0; i < KITH_SLICES_PER_COLLECTION_MAX; i++) {
        if (first || index->seen_seq[i] == 0)
            index->seen_seq[i] = survey->seq[i];
        if (survey->seq[i] > index->seen_seq[i])
            n += survey->seq[i] - index->seen_seq[i];
    }
    return n;
}

/* Whether it is time for a new codebook, and of which generation. */
static bool is_due(const struct index_survey *survey, uint32_t *generation)
{
    struct collection_index *index = survey->index;
    const struct codebook *codebook = ivf_builder_codebook(index->builder);
    bool due;
    if (codebook == NULL) {
        *generation = 1;
        due = survey->live_all >= collection_indexes_train_rows(index->all);
    } else {
        *generation = codebook->generation + 1;
        bool grown = survey->live_all / GROWTH >= codebook->trained_rows;
        bool changed = changes(survey, codebook) >= survey->live_all / CHANGED;
        bool drifted = survey->energy >
                       (double)codebook->residual_energy * (double)IVF_DRIFT * survey->energy_rows;
        due = (grown || (changed && drifted)) && *generation > 0;
    }
    codebook_unref(codebook);
    return due;
}

/* ---- training -------------------------------------------------------------------------------- */

static enum kith_err sample_here(struct index_trainer *trainer, const struct index_survey *survey,
                                 uint32_t n_wanted, float *rows, uint32_t *n_rows,
                                 struct kith_diag *diag)
{
    struct slice *held[KITH_SLICES_PER_COLLECTION_MAX];
    struct view *views[KITH_SLICES_PER_COLLECTION_MAX];
    uint32_t n = 0;
    const char *why;
    for (uint32_t i = 0; i < survey->n_slices; i++) {
        if (slice_table_get(trainer->options.slices, survey->index->config.collection,
                            survey->slices[i], &held[n], &why) != KITH_OK)
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
static uint32_t share_of(uint32_t n, uint64_t live, const struct index_survey *survey)
{
    return (uint32_t)((unsigned __int128)n * live / survey->live_all);
}

/* From each node as many as it has of all rows. What a node that leaves does not give is not
 * missed: points are placed by a hash, so the rows of the others are as good a sample. */
static enum kith_err sample_all(struct index_trainer *trainer, const struct index_survey *survey,
                                uint32_t n_wanted, float *rows, uint32_t *n_rows,
                                struct kith_diag *diag)
{
    uint32_t dim = survey->index->config.dim, n;
    enum kith_err err = sample_here(trainer, survey, share_of(n_wanted, survey->live_here, survey),
                                    rows, n_rows, diag);
    for (uint32_t i = 0; i < survey->n_shares && err == KITH_OK; i++) {
        struct index_exchange_rows wanted = {.n_wanted =
                                                 share_of(n_wanted, survey->live[i], survey),
                                             .dim = dim,
                                             .seed = trainer->random,
                                             .rows = rows + (size_t)*n_rows * dim};
        struct kith_diag why = {0};
        if (wanted.n_wanted == 0)
            continue;
        if (index_exchange_sample(&trainer->exchange, &survey->shares[i], &wanted, &n, &why) !=
            KITH_OK)
            index_survey_report(survey, "index.sample_failed", &why);
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

static enum kith_err train(struct index_trainer *trainer, const struct index_survey *survey,
                           uint32_t generation, struct kith_diag *diag)
{
    struct collection_index *index = survey->index;
    struct codebook_training training = {
        .config = &index->config,
        .codes = (enum codebook_codes)index->config.index,
        .collection_rows = survey->live_all,
        .generation = generation,
        .threads = trainer->options.threads,
        .stop = stops,
        .stop_ctx = trainer,
    };
    struct codebook *codebook = NULL;
    uint64_t begin = kith_now_ns();
    uint32_t n_wanted = codebook_sample_rows(survey->live_all, index->config.dim);
    float *rows = kith_alloc((size_t)n_wanted * index->config.dim * sizeof *rows);
    if (rows == NULL)
        return kith_fail(diag, KITH_NOMEM, "a sample of %u rows", n_wanted);
    training.rows = rows;
    enum kith_err err = sample_all(trainer, survey, n_wanted, rows, &training.n_rows, diag);
    if (err == KITH_OK)
        err = codebook_train(&codebook, &training, diag);
    kith_free(rows);
    if (err != KITH_OK)
        return err;
    kith_log(INFO, "index.trained",
             "collection=%016llx generation=%u lists=%u rows=%u of=%llu hash=%016llx ms=%llu",
             (unsigned long long)index->config.collection, codebook->generation, codebook->n_lists,
             training.n_rows, (unsigned long long)survey->live_all,
             (unsigned long long)codebook->hash,
             (unsigned long long)((kith_now_ns() - begin) / 1000000));
    ivf_builder_set_codebook(index->builder, codebook);
    codebook_unref(codebook);
    return KITH_OK;
}

static void train_if_due(struct index_trainer *trainer, struct index_survey *survey)
{
    struct kith_diag diag = {0};
    uint32_t generation;
    if (!is_due(survey, &generation))
        return;
    atomic_store_explicit(&survey->index->training, true, memory_order_relaxed);
    index_survey_hold(survey, true); /* what is merged now would be written twice */
    if (train(trainer, survey, generation, &diag) != KITH_OK) {
        index_survey_report(survey, "index.training_failed", &diag);
        if (diag.err != KITH_CANCELLED)
            trainer->not_before_ns = kith_now_ns() + RETRY_NS;
    }
    index_survey_hold(survey, false);
    atomic_store_explicit(&survey->index->training, false, memory_order_relaxed);
}

/* ---- the loop -------------------------------------------------------------------------------- */

static void serve(struct index_trainer *trainer, struct index_survey *survey)
{
    struct collection_index *index = survey->index;
    bool trains = true;
    if (kith_now_ns() < index->next_look_ns || !index_survey_shares(survey))
        return;
    index_survey_here(survey);
    if (survey->n_shares > 1) {
        trains = consult_all(trainer, survey);
        bool far = survey->live_all < collection_indexes_train_rows(index->all) / 4;
        if (far || ivf_builder_fit(index->builder).hash != 0)
            index->next_look_ns =
                kith_now_ns() + UINT64_C(1000000) * EXCHANGE * trainer->options.look_ms;
    }
    if (trains && !stops(trainer))
        train_if_due(trainer, survey);
}

static void serve_collection(struct index_trainer *trainer, uint64_t collection)
{
    struct index_survey *survey = index_survey_new(trainer->options.indexes, collection,
                                                   trainer->options.slices, &trainer->exchange);
    if (survey != NULL) /* else there is another look */
        serve(trainer, survey);
    index_survey_free(survey);
}

struct looking {
    const struct index_trainer *trainer;
    uint64_t *found; /* collections */
    size_t n_found, found_cap;
};

static bool note_collection(void *ctx, const struct slice_config *config, struct store *store)
{
    struct looking *looking = ctx;
    (void)store;
    if (config->index == KITH_INDEX_NONE || config->index == KITH_INDEX_FAISS)
        return true;
    for (size_t i = looking->n_found; i-- > 0;)
        if (looking->found[i] == config->collection)
            return true;
    if (!kith_grow((void **)&looking->found, &looking->found_cap, looking->n_found + 1,
                   sizeof *looking->found))
        return false;
    looking->found[looking->n_found++] = config->collection;
    return !stops(looking->trainer);
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
    for (size_t i = 0; i < looking.n_found && !stops(trainer); i++)
        serve_collection(trainer, looking.found[i]);
    kith_free(looking.found);
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
