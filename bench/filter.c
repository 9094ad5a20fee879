/* bench filter: search with filters, against search without, against an exact scan of the rows that
 * match, and against hnswlib.
 *
 * usage: bench_filter DIR [--rows N] [--queries Q] [--rounds R] [--recall T] [--peer "M16 efC200"]
 *        [--only random|near|far] [--metric cosine|dot|euclid|manhattan] [--norms F]
 *
 * DIR holds a set of vectors (bench/data/README.md). A real store is filled with it, each row with
 * two fields: r, a number that has nothing to do with the vector, and c, the nearest of 1,000 rows
 * taken at random. Filters let 100 to 0.01 % of the rows through:
 *   random  r below a bound
 *   near    c is one of those nearest to the query (and r below a bound, where one is too many)
 *   far     c is one of those farthest from it: the hits are where no index looks first
 * One thread, search_run as a shard calls it, answers of filters kept, as they are from a filter's
 * second use on; "first" is the time with an answer that has to be made. Rates are per second of
 * CPU time, medians of the rounds; a round asks all ways in turn. The peer gets a filter by marking
 * rows that do not match as deleted, which takes no part in its time, and its smallest ef that
 * reaches the recall; it is asked under cosine only. Rows and queries are stretched by 1 to F
 * (1 unless said otherwise). */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ann_set.h"
#include "common/kith_buf.h"
#include "common/kith_mem.h"
#include "filter_peer.h"
#include "filter_store.h"
#include "median.h"
#include "shard/index/kernels.h"
#include "shard/query/search.h"

#define K           10u
#define ROUNDS_MAX  31u
#define QUERIES_MAX 1000u
#define BOUND       FILTER_STORE_BOUND
#define CATEGORIES  FILTER_STORE_CATEGORIES
#define PEER_EFS    10u
/* CPU time of the peer for each filter, marking included: one that lets through what its graph
 * hardly leads to walks all of the graph for each query and each ef. */
#define PEER_S_MAX 120.0

enum kind { RANDOM, NEAR, FAR, KINDS };
static const char *const kind_names[KINDS] = {"random", "near", "far"};
static const double shares[] = {1, 0.5, 0.1, 0.01, 0.001, 0.0001};

struct bench {
    struct ann_set set;
    struct filter_store store;
    struct search_context *context;
    float *queries; /* as long as rows are */
    uint32_t n_queries, rounds;
    float recall;
    void *peer;
    uint64_t sizes[CATEGORIES];
};

/* One query and its filter. */
struct question {
    const float *query;
    struct kith_buf bytes;
    struct kith_filter filter;
    bool categories[CATEGORIES]; /* all false: any */
    uint32_t below;              /* of r */
    uint32_t n_true;
    uint64_t ids[K];
};

static _Noreturn void die(const char *what, const struct kith_diag *diag)
{
    fprintf(stderr, "bench_filter: %s: %s\n", what, diag->text);
    exit(1);
}

static double cpu_s(void)
{
    struct timespec at;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

/* ---- filters --------------------------------------------------------------------------------- */

static const struct filter_store *ranked_store;
static float ranked[CATEGORIES];

static int by_rank(const void *a, const void *b)
{
    float x = ranked[*(const uint32_t *)a], y = ranked[*(const uint32_t *)b];
    return x > y ? -1 : x < y;
}

/* Categories by nearness until the share is reached; the last rows by r. */
static void choose(struct bench *b, struct question *q, enum kind kind, double share)
{
    uint32_t order[CATEGORIES];
    double want = share * b->set.n, have = 0;
    memset(q->categories, 0, sizeof q->categories);
    q->below = BOUND;
    if (kind == RANDOM) {
        q->below = (uint32_t)(share * BOUND + 0.5);
        return;
    }
    kernels_best()->scan[KERNELS_IP][KERNELS_F32](
        q->query, (struct kernels_rows){ranked_store->centers, b->set.dim}, CATEGORIES, ranked);
    for (uint32_t i = 0; i < CATEGORIES; i++)
        order[i] = i;
    qsort(order, CATEGORIES, sizeof *order, by_rank);
    for (uint32_t i = 0; i < CATEGORIES && have < want; i++) {
        uint32_t category = order[kind == NEAR ? i : CATEGORIES - 1 - i];
        q->categories[category] = true;
        have += (double)b->sizes[category];
    }
    if (have > 1.2 * want)
        q->below = (uint32_t)ceil(BOUND * want / have);
}

/* {"must": [{"key": "c", "match": {"any": [...]}}, {"key": "r", "range": {"lt": ...}}]} */
static void write_filter(struct question *q)
{
    struct kith_writer w = {.write = kith_buf_sink, .sink = &q->bytes};
    uint32_t n = 0;
    kith_buf_reset(&q->bytes);
    for (uint32_t i = 0; i < CATEGORIES; i++)
        n += q->categories[i];
    kith_write_map(&w, 1);
    kith_write_cstr(&w, "must");
    kith_write_array(&w, (n > 0 ? 1u : 0u) + (q->below < BOUND ? 1u : 0u));
    if (n > 0) {
        kith_write_map(&w, 2);
        kith_write_cstr(&w, "key");
        kith_write_cstr(&w, "c");
        kith_write_cstr(&w, "match");
        kith_write_map(&w, 1);
        kith_write_cstr(&w, "any");
        kith_write_array(&w, n);
        for (uint32_t i = 0; i < CATEGORIES; i++)
            if (q->categories[i])
                kith_write_u64(&w, i);
    }
    if (q->below < BOUND) {
        kith_write_map(&w, 2);
        kith_write_cstr(&w, "key");
        kith_write_cstr(&w, "r");
        kith_write_cstr(&w, "range");
        kith_write_map(&w, 1);
        kith_write_cstr(&w, "lt");
        kith_write_u64(&w, q->below);
    }
    struct kith_diag diag = {0};
    if (kith_filter_parse(&q->filter, (struct kith_bytes){q->bytes.data, q->bytes.len}, "filter",
                          &diag) != KITH_OK)
        die("filter", &diag);
}

static bool row_matches(const struct bench *b, const struct question *q, uint32_t row,
                        bool any_category)
{
    return filter_store_number(row) < q->below &&
           (any_category || q->categories[b->store.categories[row]]);
}

/* ---- asking ---------------------------------------------------------------------------------- */

enum way { FILTERED, EXACT, UNFILTERED, WAYS };

struct sums {
    uint64_t asked, hits, wanted, short_of, matched;
    uint64_t plans[SEARCH_PLANS], fell_back;
    struct ivf_stats lists;
};

static void ask(struct bench *b, struct question *q, enum way way, struct sums *sums)
{
    struct search_part part = {.n_queries = 1,
                               .k = K,
                               .vectors = (const uint8_t *)q->query,
                               .filter = way == UNFILTERED ? NULL : &q->filter,
                               .exact = way == EXACT,
                               .recall = b->recall};
    struct search_request request = {
        .views = &b->store.view, .n_views = 1, .parts = &part, .n_parts = 1};
    struct search_result result = {0};
    struct kith_diag diag = {0};
    if (search_run(b->context, &request, &result, &diag) != KITH_OK)
        die("search", &diag);
    uint32_t n = result.found[0].n;
    uint64_t want = result.matched < K ? result.matched : K;
    if (way == EXACT) {
        q->n_true = n;
        for (uint32_t i = 0; i < n; i++)
            q->ids[i] = result.found[0].hits[i].id.lo;
    }
    if (sums != NULL) {
        sums->asked++;
        sums->matched += result.matched;
        sums->short_of += n < want;
        sums->plans[result.explain.plan]++;
        sums->fell_back += result.explain.fell_back;
        sums->lists.lists += result.explain.lists.lists;
        sums->lists.rows += result.explain.lists.rows;
        sums->lists.reranked += result.explain.lists.reranked;
        sums->wanted += q->n_true;
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < q->n_true; j++)
                sums->hits += result.found[0].hits[i].id.lo == q->ids[j];
    }
    search_result_fini(&result);
}

/* Queries per second of CPU time. */
static double rate(struct bench *b, struct question *questions, enum way way, struct sums *sums)
{
    double begun = cpu_s();
    for (uint32_t i = 0; i < b->n_queries; i++)
        ask(b, &questions[i], way, sums);
    return b->n_queries / (cpu_s() - begun);
}

/* ---- the peer -------------------------------------------------------------------------------- */

struct peer_point {
    uint32_t ef;    /* the largest that was tried when none reaches the recall */
    uint32_t asked; /* queries, as many as there was time for */
    uint32_t short_of;
    double rate, recall;
};

/* Marks are costly to set, so a filter is set once and asked with each ef. */
static struct peer_point ask_peer(struct bench *b, struct question *questions, enum kind kind)
{
    static const uint32_t efs[PEER_EFS] = {10, 20, 40, 60, 80, 120, 160, 240, 320, 640};
    double seconds[PEER_EFS] = {0}, start = cpu_s();
    uint64_t hits[PEER_EFS] = {0}, wanted = 0;
    uint32_t short_of[PEER_EFS] = {0}, asked = 0;
    uint8_t *allowed = kith_xalloc(b->set.n);
    for (; asked < b->n_queries && (asked == 0 || cpu_s() - start < PEER_S_MAX); asked++) {
        struct question *q = &questions[asked];
        if (asked == 0 || kind != RANDOM) {
            for (uint32_t row = 0; row < b->set.n; row++)
                allowed[row] = row_matches(b, q, row, kind == RANDOM);
            filter_peer_allow(b->peer, allowed);
        }
        wanted += q->n_true;
        for (uint32_t e = 0; e < PEER_EFS; e++) {
            uint32_t rows[K];
            double begun = cpu_s();
            uint32_t n = filter_peer_search(b->peer, q->query, K, efs[e], rows);
            seconds[e] += cpu_s() - begun;
            short_of[e] += n < q->n_true;
            for (uint32_t j = 0; j < n; j++)
                for (uint32_t t = 0; t < q->n_true; t++)
                    hits[e] += rows[j] == q->ids[t];
        }
    }
    kith_free(allowed);
    for (uint32_t e = 0; e < PEER_EFS; e++)
        if ((double)hits[e] >= (double)b->recall * (double)wanted || e == PEER_EFS - 1)
            return (struct peer_point){efs[e], asked, short_of[e], asked / seconds[e],
                                       (double)hits[e] / (double)wanted};
    return (struct peer_point){0};
}

/* ---- points ---------------------------------------------------------------------------------- */

static const char *usual_plan(const struct sums *sums)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < SEARCH_PLANS; i++)
        best = sums->plans[i] > sums->plans[best] ? i : best;
    return search_plan_name((enum search_plan)best);
}

static bool run_point(struct bench *b, struct question *questions, enum kind kind, double share)
{
    double rates[WAYS][ROUNDS_MAX], ratios[ROUNDS_MAX];
    struct sums sums = {0};
    for (uint32_t i = 0; i < b->n_queries; i++) {
        questions[i].query = b->queries + (size_t)i * b->set.dim;
        choose(b, &questions[i], kind, share);
        write_filter(&questions[i]);
    }
    double first = rate(b, questions, FILTERED, NULL);
    for (uint32_t r = 0; r < b->rounds; r++) {
        rates[EXACT][r] = rate(b, questions, EXACT, NULL);
        rates[UNFILTERED][r] = rate(b, questions, UNFILTERED, NULL);
        rates[FILTERED][r] = rate(b, questions, FILTERED, &sums);
        ratios[r] = rates[FILTERED][r] / fmax(rates[EXACT][r], rates[UNFILTERED][r]);
    }
    struct peer_point peer = {0};
    if (b->peer != NULL)
        peer = ask_peer(b, questions, kind);
    double filtered = median(rates[FILTERED], b->rounds), exact = median(rates[EXACT], b->rounds);
    double unfiltered = median(rates[UNFILTERED], b->rounds), ratio = median(ratios, b->rounds);
    double recall = (double)sums.hits / (double)sums.wanted;
    bool ok = recall >= (double)b->recall && sums.short_of == 0 && ratio >= 0.5;
    fprintf(stderr, "%-6s %7.2f %% %8.0f  %-12s %6.4f %5llu %9.0f %9.0f %9.0f %9.0f %6.2f %s",
            kind_names[kind], share * 100, (double)sums.matched / (double)sums.asked,
            usual_plan(&sums), recall, (unsigned long long)(sums.short_of), filtered, exact,
            unfiltered, first, ratio, ok ? "" : " <-");
    if (peer.ef > 0)
        fprintf(stderr, "  %9.0f (ef %u, %.3f, %u of %u short)", peer.rate, peer.ef, peer.recall,
                peer.short_of, peer.asked);
    fprintf(stderr, "\n");
    printf("{\"kind\":\"%s\",\"share\":%g,\"matched\":%.1f,\"plan\":\"%s\",\"fell_back\":%llu,"
           "\"lists\":%.0f,\"codes\":%.0f,\"reranked\":%.0f,"
           "\"recall\":%.4f,\"short\":%llu,\"rate\":%.1f,\"exact_rate\":%.1f,"
           "\"unfiltered_rate\":%.1f,\"first_rate\":%.1f,\"ratio\":%.3f,\"peer_rate\":%.1f,"
           "\"peer_ef\":%u,\"peer_recall\":%.4f,\"peer_queries\":%u,\"peer_short\":%u}\n",
           kind_names[kind], share, (double)sums.matched / (double)sums.asked, usual_plan(&sums),
           (unsigned long long)sums.fell_back, (double)sums.lists.lists / (double)sums.asked,
           (double)sums.lists.rows / (double)sums.asked,
           (double)sums.lists.reranked / (double)sums.asked, recall,
           (unsigned long long)sums.short_of, filtered, exact, unfiltered, first, ratio, peer.rate,
           peer.ef, peer.recall, peer.asked, peer.short_of);
    return ok;
}

static void make_queries(struct bench *b)
{
    const uint32_t dim = b->set.dim;
    b->queries = kith_xalloc(sizeof *b->queries * b->n_queries * dim);
    for (uint32_t q = 0; q < b->n_queries; q++) {
        float length = filter_store_length(&b->store, b->set.n + q);
        for (uint32_t i = 0; i < dim; i++)
            b->queries[(size_t)q * dim + i] = b->set.queries[(size_t)q * dim + i] * length;
    }
}

static void usage(void)
{
    fprintf(stderr, "usage: bench_filter DIR [--rows N] [--queries Q] [--rounds R] [--recall T] "
                    "[--peer \"M16 efC200\"] [--only random|near|far] "
                    "[--metric cosine|dot|euclid|manhattan] [--norms F]\n");
    exit(2);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"rows", required_argument, NULL, 'n'},
                                            {"queries", required_argument, NULL, 'q'},
                                            {"rounds", required_argument, NULL, 'r'},
                                            {"recall", required_argument, NULL, 't'},
                                            {"peer", required_argument, NULL, 'p'},
                                            {"only", required_argument, NULL, 'o'},
                                            {"metric", required_argument, NULL, 'm'},
                                            {"norms", required_argument, NULL, 's'},
                                            {0}};
    static struct bench b = {.n_queries = 200, .rounds = 5, .recall = SEARCH_RECALL_DEFAULT};
    struct filter_store_shape shape = {.metric = KITH_COSINE, .norms = 1};
    uint32_t rows = 0;
    const char *peer = NULL, *only = NULL;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'n')
            rows = (uint32_t)strtoul(optarg, NULL, 10);
        else if (c == 'q')
            b.n_queries = (uint32_t)strtoul(optarg, NULL, 10);
        else if (c == 'r')
            b.rounds = (uint32_t)strtoul(optarg, NULL, 10);
        else if (c == 't')
            b.recall = strtof(optarg, NULL);
        else if (c == 'p')
            peer = optarg;
        else if (c == 'o')
            only = optarg;
        else if (c == 's')
            shape.norms = strtof(optarg, NULL);
        else if (c != 'm' || !kith_metric_of_word(optarg, &shape.metric))
            usage();
    }
    if (optind + 1 != argc || b.n_queries < 1 || b.n_queries > QUERIES_MAX || b.rounds < 1 ||
        b.rounds > ROUNDS_MAX || !(shape.norms >= 1) ||
        (peer != NULL && shape.metric != KITH_COSINE))
        usage();
    struct kith_diag diag = {0};
    ann_set_open(&b.set, argv[optind], rows, b.n_queries);
    filter_store_open(&b.store, &b.set, shape);
    ranked_store = &b.store;
    make_queries(&b);
    for (uint32_t i = 0; i < b.set.n; i++)
        b.sizes[b.store.categories[i]]++;
    if (search_context_open(&b.context, NULL, &diag) != KITH_OK)
        die("context", &diag);
    if (peer != NULL)
        b.peer = filter_peer_open(&b.set, peer, 2);
    fprintf(stderr, "%s: %u x %u, %u segments; queries per second of CPU time\n", b.set.name,
            b.set.n, b.set.dim, b.store.view->n_segments);
    fprintf(stderr, "%-6s %9s %8s  %-12s %6s %5s %9s %9s %9s %9s %6s %s\n", "filter", "share",
            "matched", "plan", "recall", "short", "filtered", "exact", "none", "first", "ratio",
            b.peer != NULL ? "   hnswlib" : "");
    static struct question questions[QUERIES_MAX];
    bool ok = true;
    for (int kind = 0; kind < KINDS; kind++)
        for (size_t s = 0; s < sizeof shares / sizeof *shares; s++)
            if ((only == NULL || strcmp(only, kind_names[kind]) == 0) &&
                (kind == RANDOM || shares[s] < 1))
                ok = run_point(&b, questions, (enum kind)kind, shares[s]) && ok;
    for (uint32_t i = 0; i < b.n_queries; i++)
        kith_buf_fini(&questions[i].bytes);
    kith_free(b.queries);
    filter_peer_close(b.peer);
    search_context_close(b.context);
    filter_store_close(&b.store);
    return ok ? 0 : 1;
}
