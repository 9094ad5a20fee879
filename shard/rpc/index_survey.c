#include "shard/rpc/index_survey.h"

#include "common/kith_log.h"
#include "common/kith_mem.h"

struct index_survey *index_survey_new(struct collection_indexes *indexes, uint64_t collection,
                                      struct slice_table *table,
                                      const struct index_exchange *exchange)
{
    struct index_survey *survey = kith_alloc(sizeof *survey);
    if (survey == NULL)
        return NULL;
    survey->table = table;
    survey->exchange = exchange;
    survey->index = collection_index_find(indexes, collection);
    if (survey->index != NULL)
        return survey;
    index_survey_free(survey);
    return NULL;
}

void index_survey_free(struct index_survey *survey)
{
    if (survey == NULL)
        return;
    collection_index_put(survey->index);
    kith_free(survey->shares);
    kith_free(survey);
}

/* ---- this node ----------------------------------------------------------------------------- */

static bool add_slice(void *ctx, const struct slice_config *config, struct store *store)
{
    struct index_survey *survey = ctx;
    struct store_stats stats;
    if (config->collection != survey->index->config.collection ||
        survey->n_slices == KITH_SLICES_PER_COLLECTION_MAX)
        return true;
    store_stats(store, &stats);
    survey->live_here += stats.live_points;
    survey->seq[config->slice] = stats.seq;
    survey->slices[survey->n_slices++] = config->slice;
    return true;
}

struct holding {
    uint64_t collection;
    bool hold;
};

static bool hold_slice(void *ctx, const struct slice_config *config, struct store *store)
{
    const struct holding *holding = ctx;
    if (config->collection == holding->collection)
        store_hold_merges(store, holding->hold); /* releasing nudges */
    return true;
}

void index_survey_hold(const struct index_survey *survey, bool hold)
{
    struct holding holding = {survey->index->config.collection, hold};
    slice_table_each(survey->table, hold_slice, &holding);
}

static void add_energy(struct index_survey *survey, uint64_t rows, float energy)
{
    survey->energy += (double)energy * (double)rows;
    survey->energy_rows += (double)rows;
}

void index_survey_here(struct index_survey *survey)
{
    slice_table_each(survey->table, add_slice, survey);
    struct ivf_fit fit = ivf_builder_fit(survey->index->builder);
    add_energy(survey, fit.rows, fit.energy);
    survey->live_all = survey->live_here;
}

/* ---- the others ---------------------------------------------------------------------------- */

void index_survey_report(const struct index_survey *survey, const char *event,
                         const struct kith_diag *diag)
{
    if (diag->err != KITH_CANCELLED)
        kith_log(WARN, event, "collection=%016llx error=%s text=\"%s\"",
                 (unsigned long long)survey->index->config.collection, kith_err_name(diag->err),
                 diag->text);
}

/* Takes over the codebook that a node said it has, if it is better than the own one. */
static void adopt(struct index_survey *survey, const struct node_share *share)
{
    const struct kith_msg_codebooked *state = &survey->state;
    struct collection_index *index = survey->index;
    const struct codebook *own = ivf_builder_codebook(index->builder);
    bool wanted = state->generation > 0 && codebook_is_newer(state->generation, state->hash, own);
    codebook_unref(own);
    if (!wanted)
        return;
    struct codebook *codebook = NULL;
    struct kith_diag diag = {0};
    if (index_exchange_fetch(survey->exchange, share, state, &index->config, &codebook, &diag) !=
        KITH_OK) {
        index_survey_report(survey, "index.fetch_failed", &diag);
        return;
    }
    kith_log(INFO, "index.fetched", "collection=%016llx generation=%u lists=%u hash=%016llx",
             (unsigned long long)index->config.collection, codebook->generation, codebook->n_lists,
             (unsigned long long)codebook->hash);
    ivf_builder_set_codebook(index->builder, codebook);
    codebook_unref(codebook);
    index_survey_hold(survey, false);
}

bool index_survey_ask(struct index_survey *survey, uint32_t share)
{
    const struct kith_msg_codebooked *state = &survey->state;
    struct kith_diag diag = {0};
    if (index_exchange_state(survey->exchange, &survey->shares[share], &survey->state, &diag) !=
        KITH_OK)
        return false;
    for (uint32_t i = 0; i < state->slices.n_slices; i++) {
        const struct kith_msg_slice *slice = &state->slices.slices[i];
        if (slice->err != KITH_OK)
            continue;
        survey->live[share] += slice->points;
        survey->live_all += slice->points;
        survey->seq[slice->slice] = slice->seq;
    }
    if (state->hash == ivf_builder_fit(survey->index->builder).hash)
        add_energy(survey, state->energy_rows, state->energy);
    adopt(survey, &survey->shares[share]);
    return true;
}

bool index_survey_shares(struct index_survey *survey)
{
    struct node_peers *peers = survey->exchange->peers;
    struct kith_diag diag = {0};
    if (peers == NULL)
        return true;
    if (node_peers_shares(peers, survey->index->config.collection, &survey->shares,
                          &survey->n_shares, &diag) != KITH_OK) {
        index_survey_report(survey, "index.no_map", &diag);
        return false;
    }
    while (survey->self < survey->n_shares && !survey->shares[survey->self].self)
        survey->self++;
    return survey->self < survey->n_shares && survey->n_shares <= KITH_NODES_MAX;
}
