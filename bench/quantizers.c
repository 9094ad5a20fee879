/* bench quantizers: which codes should be the first sieve within the lists of the index.
 *
 * usage: bench_quantizers DIR [--queries N] [--rounds N] [--kernels NAME] [--only NAME]
 *
 * DIR holds a set of vectors (bench/data/README.md). Its rows are put in lists once; each quantizer
 * codes them; all are scanned by the same kernels (quantizers.h). For a recall T a query visits the
 * lists within some share of the distance of its 10th neighbour, which hold T + (1 - T) / 4 of all
 * true neighbours; a row of them passes when its estimate is not below the 10th best score by more
 * than z times the estimate's own error. z is chosen so that T of the neighbours pass, and what
 * counts is how many other rows pass with them: the next sieve has to look at those. The 10th best
 * score is given, where a search has to find it: that is the same for all.
 *
 * RaBitQ is favoured where in doubt: its two numbers a row are floats in the estimate and count as
 * 2 bytes each, and adding the second one is not in the time of its scan. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "median.h"
#include "quantizers.h"
#include "shard/index/blas.h"
#include "shard/index/ivf_ahead.h"
#include "shard/index/ivf_kernels.h"
#include "shard/index/ivf_tables.h"
#include "shard/index/kernels.h"

#define K              10u
#define TARGETS        2u
#define ROUNDS_MAX     31u
#define BINS           8000u
#define Z_MAX          20.0f /* bins of margins from -Z_MAX to Z_MAX */
#define ERROR_QUERIES  100u
#define PREFETCH_BYTES 1024u /* of a row of bytes, as in the search */

static const double targets[TARGETS] = {0.95, 0.99};

/* The lists that queries visit. */
struct visits {
    double target, rows; /* rows on average */
    uint32_t *from;      /* n_queries + 1 */
    uint32_t *lists;
};

struct bench {
    struct quantizers_world world;
    struct visits visits[TARGETS];
    float *centres;      /* of a query and a list: <q,c> */
    float *gaps;         /* |q - c|^2 */
    float *first_gaps;   /* of a query: up to which lists are visited in any case */
    uint32_t *positions; /* of a row of the set in the order of lists */
    const struct ivf_kernels *kernels;
    uint32_t rounds, n_quantizers;
    /* Of one query. */
    uint32_t *rows, *marks;
    int16_t *sums;
    float *margins, *turned, *scratch;
};

/* What was found out about a quantizer. */
struct result {
    double error,
        error_near; /* mean of |error| / squared distance: of all rows visited, of the true ten */
    double passed[TARGETS], z[TARGETS];
    double scan_ns[ROUNDS_MAX], prepare_us[ROUNDS_MAX];
};

/* ---- queries --------------------------------------------------------------------------------- */

static const float *query_of(const struct bench *b, uint32_t q)
{
    return b->world.set.queries + (size_t)q * b->world.set.dim;
}

static float tenth_score(const struct bench *b, uint32_t q)
{
    return b->world.set.truth_scores[(size_t)q * ANN_TRUTH_K + K - 1];
}

static void rank_lists(struct bench *b)
{
    const struct ann_set *set = &b->world.set;
    const struct codebook *codebook = b->world.codebook;
    size_t n = (size_t)set->n_queries * codebook->n_lists;
    b->centres = kith_xalloc(n * sizeof *b->centres);
    b->gaps = kith_xalloc(n * sizeof *b->gaps);
    blas_products((struct blas_block){set->queries, set->n_queries, set->dim},
                  (struct blas_block){codebook->centroids, codebook->n_lists, set->dim},
                  b->centres);
    for (size_t i = 0; i < n; i++)
        b->gaps[i] =
            1 + 2 * (codebook->weight * codebook->minus[i % codebook->n_lists] - b->centres[i]);
    b->first_gaps = kith_xalloc(set->n_queries * sizeof *b->first_gaps);
    double *sorted = kith_xalloc(codebook->n_lists * sizeof *sorted);
    for (uint32_t q = 0; q < set->n_queries; q++) {
        for (uint32_t c = 0; c < codebook->n_lists; c++)
            sorted[c] = (double)b->gaps[(size_t)q * codebook->n_lists + c];
        qsort(sorted, codebook->n_lists, sizeof *sorted, median_compare);
        b->first_gaps[q] = (float)sorted[IVF_FIRST_LISTS - 1];
    }
    kith_free(sorted);
}

static bool visits_list(const struct bench *b, uint32_t q, uint32_t list, float reach)
{
    return b->gaps[(size_t)q * b->world.codebook->n_lists + list] <=
           reach * (2 - 2 * tenth_score(b, q));
}

/* The share of true neighbours that are in lists within reach. */
static double coverage(const struct bench *b, float reach)
{
    const struct ann_set *set = &b->world.set;
    uint64_t inside = 0;
    for (uint32_t q = 0; q < set->n_queries; q++)
        for (uint32_t i = 0; i < K; i++)
            inside +=
                visits_list(b, q, b->world.list_of[set->truth[(size_t)q * ANN_TRUTH_K + i]], reach);
    return (double)inside / K / set->n_queries;
}

static void choose_lists(struct bench *b, struct visits *visits, double target)
{
    uint32_t n_lists = b->world.codebook->n_lists, n_queries = b->world.set.n_queries, n = 0;
    float low = 0, high = 64;
    for (int i = 0; i < 40; i++) {
        float middle = (low + high) / 2;
        if (coverage(b, middle) < target + (1 - target) / 4)
            low = middle;
        else
            high = middle;
    }
    visits->target = target;
    visits->from = kith_xalloc((n_queries + 1) * sizeof *visits->from);
    visits->lists = kith_xalloc((size_t)n_queries * n_lists * sizeof *visits->lists);
    for (uint32_t q = 0; q < n_queries; q++) {
        for (uint32_t c = 0; c < n_lists; c++) {
            if (!visits_list(b, q, c, high))
                continue;
            visits->lists[n++] = c;
            visits->rows += (double)(b->world.lists[c + 1] - b->world.lists[c]) / n_queries;
        }
        visits->from[q + 1] = n;
    }
}

/* ---- what a code knows ----------------------------------------------------------------------- */

static void prepare(struct bench *b, const struct quantizer *quantizer, uint32_t q,
                    struct ivf_tables *tables)
{
    uint32_t dim = b->world.set.dim, bits = quantizer->bits;
    const float *query = query_of(b, q);
    if (quantizer->rotation.turn != QUANTIZERS_NONE) {
        quantizers_rotate(&quantizer->rotation, query, b->turned, b->scratch);
        query = b->turned;
    }
    if (bits > 1) { /* four dimensions once for each of their bits */
        for (uint32_t i = 0; i < dim * bits; i++)
            b->scratch[i] = query[i / (4 * bits) * 4 + i % 4];
        query = b->scratch;
    }
    ivf_tables_fill(tables, &quantizer->codebook, query);
}

static struct ivf_kernels_scan scan_of(const struct quantizer *quantizer,
                                       const struct ivf_tables *tables, int16_t bound)
{
    return (struct ivf_kernels_scan){.codes = quantizer->codes,
                                     .terms = quantizer->terms,
                                     .tables = tables->bytes,
                                     .n_subs = quantizer->codebook.n_subs,
                                     .bias = tables->bias,
                                     .bound = bound};
}

/* What the standard error of an estimate is proportional to. */
static float error_of(const struct bench *b, const struct quantizer *quantizer, uint32_t q,
                      size_t at)
{
    switch (quantizer->error_by) {
    case QUANTIZERS_BY_CENTRE:
        return sqrtf(b->gaps[at]);
    case QUANTIZERS_BY_TENTH:
        return sqrtf(2 - 2 * tenth_score(b, q));
    case QUANTIZERS_BY_LENGTH:
    default:
        return 1;
    }
}

/* Fills b->rows, and b->margins: by how many standard errors the estimates are above the tenth best
 * score. scores: the estimates, unless NULL. Returns how many rows were visited. */
static uint32_t look(struct bench *b, const struct quantizer *quantizer,
                     const struct visits *visits, uint32_t q, struct ivf_tables *tables,
                     float *scores)
{
    prepare(b, quantizer, q, tables);
    struct ivf_kernels_scan scan = scan_of(quantizer, tables, INT16_MIN);
    float bound = tenth_score(b, q);
    uint32_t n = 0;
    for (uint32_t i = visits->from[q]; i < visits->from[q + 1]; i++) {
        uint32_t list = visits->lists[i], first = n;
        size_t at = (size_t)q * b->world.codebook->n_lists + list;
        float error = error_of(b, quantizer, q, at);
        uint64_t blocks = 0;
        n += b->kernels->scan(&scan, b->world.lists[list], b->world.lists[list + 1], b->rows + n,
                              b->sums, &blocks);
        for (uint32_t j = first; j < n; j++) {
            float y = tables->base + (float)(b->sums[j - first] - tables->bias) / tables->scale;
            uint32_t row = b->rows[j];
            float score = b->centres[at] * quantizer->centre_times[row] +
                          y * quantizer->times[row] + quantizer->plus[row];
            b->margins[j] = (score - bound) / (error * quantizer->errors[row] +
                                               tables->error * quantizer->times[row] + 1e-9f);
            if (scores != NULL)
                scores[j] = score;
        }
    }
    return n;
}

static uint32_t bin_of(float margin)
{
    float bin = (margin + Z_MAX) * (BINS / (2 * Z_MAX));
    return bin < 0 ? 0 : bin < BINS - 1 ? (uint32_t)bin : BINS - 1;
}

static void mark_truth(struct bench *b, uint32_t q)
{
    for (uint32_t i = 0; i < K; i++)
        b->marks[b->positions[b->world.set.truth[(size_t)q * ANN_TRUTH_K + i]]] = q + 1;
}

/* How many rows pass when `target` of all true neighbours do. */
static void survey(struct bench *b, const struct quantizer *quantizer, uint32_t target,
                   struct result *result)
{
    const struct visits *visits = &b->visits[target];
    uint32_t n_queries = b->world.set.n_queries;
    uint64_t *all = kith_xalloc(2 * BINS * sizeof *all), *right = all + BINS, passed = 0, found = 0;
    struct ivf_tables tables;
    struct kith_diag diag = {0};
    if (ivf_tables_init(&tables, &quantizer->codebook, &diag) != KITH_OK)
        quantizers_die("tables", &diag);
    memset(b->marks, 0, b->world.set.n * sizeof *b->marks);
    for (uint32_t q = 0; q < n_queries; q++) {
        uint32_t n = look(b, quantizer, visits, q, &tables, NULL);
        mark_truth(b, q);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t bin = bin_of(b->margins[i]);
            all[bin]++;
            right[bin] += b->marks[b->rows[i]] == q + 1;
        }
    }
    uint32_t bin = BINS;
    while (bin > 0 && (double)found < visits->target * K * n_queries) {
        bin--;
        passed += all[bin];
        found += right[bin];
    }
    result->passed[target] = (double)passed / n_queries;
    result->z[target] = (double)(Z_MAX - (float)bin * (2 * Z_MAX / BINS));
    ivf_tables_fini(&tables);
    kith_free(all);
}

static void measure_errors(struct bench *b, const struct quantizer *quantizer,
                           struct result *result)
{
    struct quantizers_world *world = &b->world;
    uint32_t n_queries =
        world->set.n_queries < ERROR_QUERIES ? world->set.n_queries : ERROR_QUERIES;
    uint64_t rows = 0, near = 0;
    float *scores = kith_xalloc(world->set.n * sizeof *scores), exact;
    struct ivf_tables tables;
    struct kith_diag diag = {0};
    if (ivf_tables_init(&tables, &quantizer->codebook, &diag) != KITH_OK)
        quantizers_die("tables", &diag);
    for (uint32_t q = 0; q < n_queries; q++) {
        uint32_t n = look(b, quantizer, &b->visits[0], q, &tables, scores);
        mark_truth(b, q);
        for (uint32_t i = 0; i < n; i++) {
            kernels_best()->pick[KERNELS_IP][KERNELS_F32](
                query_of(b, q), (struct kernels_rows){world->set.base, world->set.dim},
                &world->order[b->rows[i]], 1, &exact);
            if (exact > 0.9999f) /* as good as the query itself: no relative error */
                continue;
            double error = (double)(fabsf(scores[i] - exact) / (1 - exact));
            rows++;
            result->error += error;
            if (b->marks[b->rows[i]] != q + 1)
                continue;
            near++;
            result->error_near += error;
        }
    }
    result->error /= (double)rows;
    result->error_near /= (double)near;
    ivf_tables_fini(&tables);
    kith_free(scores);
}

/* ---- what it costs --------------------------------------------------------------------------- */

/* The first blocks of the list that is scanned next. */
static uint32_t blocks_ahead(const struct quantizer *quantizer, uint32_t first, uint32_t end,
                             struct ivf_kernels_ahead ahead[IVF_AHEAD_RUN])
{
    size_t block_bytes = ivf_format_block_bytes(quantizer->codebook.n_subs);
    uint32_t n = 0;
    for (uint32_t block = first / IVF_BLOCK; block * IVF_BLOCK < end && n < IVF_AHEAD_RUN; block++)
        ahead[n++] = (struct ivf_kernels_ahead){quantizer->codes + block * block_bytes,
                                                quantizer->terms + (size_t)block * IVF_BLOCK};
    return n;
}

/* The lists of the first target, with a bound that no row reaches: the scan alone. */
static void time_quantizer(struct bench *b, const struct quantizer *quantizer, uint32_t round,
                           struct result *result)
{
    const struct visits *visits = &b->visits[0];
    uint32_t n_queries = b->world.set.n_queries;
    const uint32_t *lists = b->world.lists;
    struct ivf_kernels_ahead ahead[IVF_AHEAD_RUN];
    uint64_t scan_ns = 0, prepare_ns = 0, blocks = 0, at;
    struct ivf_tables tables;
    struct kith_diag diag = {0};
    if (ivf_tables_init(&tables, &quantizer->codebook, &diag) != KITH_OK)
        quantizers_die("tables", &diag);
    for (uint32_t q = 0; q < n_queries; q++) {
        at = kith_thread_ns();
        prepare(b, quantizer, q, &tables);
        prepare_ns += kith_thread_ns() - at;
        struct ivf_kernels_scan scan = scan_of(quantizer, &tables, INT16_MAX);
        scan.ahead = ahead;
        at = kith_thread_ns();
        for (uint32_t i = visits->from[q]; i < visits->from[q + 1]; i++) {
            uint32_t list = visits->lists[i],
                     next = i + 1 < visits->from[q + 1] ? visits->lists[i + 1] : list;
            scan.n_ahead = blocks_ahead(quantizer, lists[next], lists[next + 1], ahead);
            (void)b->kernels->scan(&scan, lists[list], lists[list + 1], b->rows, NULL, &blocks);
        }
        scan_ns += kith_thread_ns() - at;
    }
    result->scan_ns[round] = (double)scan_ns / ((double)visits->rows * n_queries);
    result->prepare_us[round] = (double)prepare_ns / n_queries / 1000;
    ivf_tables_fini(&tables);
}

/* ns of a row in the next sieve: fetched, then ranked by its bytes. The rows are those that the
 * quantizer lets pass. */
static double time_bytes(struct bench *b, const struct quantizer *quantizer, double z)
{
    uint32_t dim = b->world.set.dim, n_queries = b->world.set.n_queries;
    uint64_t ns = 0, rows = 0;
    uint8_t *bytes = kith_xalloc(quantizer->row8_bytes);
    struct ivf_kernels_rows8 rows8 = {
        .rows = quantizer->rows8, .query = bytes, .row_bytes = quantizer->row8_bytes, .scale = 1};
    struct ivf_tables tables;
    struct kith_diag diag = {0};
    if (ivf_tables_init(&tables, &quantizer->codebook, &diag) != KITH_OK)
        quantizers_die("tables", &diag);
    for (uint32_t q = 0; q < n_queries; q++) {
        uint32_t n = look(b, quantizer, &b->visits[0], q, &tables, NULL), passed = 0;
        for (uint32_t i = 0; i < n; i++)
            if ((double)b->margins[i] >= -z)
                b->rows[passed++] = b->rows[i];
        b->kernels->round(query_of(b, q), dim, 127, (int8_t *)bytes);
        uint64_t at = kith_thread_ns();
        for (uint32_t i = 0; i < passed; i++)
            for (uint32_t line = 0; line < rows8.row_bytes && line < PREFETCH_BYTES; line += 64)
                __builtin_prefetch(rows8.rows + (size_t)b->rows[i] * rows8.row_bytes + line);
        b->kernels->dot8(&rows8, b->rows, passed, b->margins);
        ns += kith_thread_ns() - at;
        rows += passed;
    }
    ivf_tables_fini(&tables);
    kith_free(bytes);
    return (double)ns / (double)rows;
}

/* ---- all of them ----------------------------------------------------------------------------- */

#define PQ(sub_dim, turn, estimate)                                                                \
    {                                                                                              \
        0, sub_dim, QUANTIZERS_##turn, QUANTIZERS_##estimate                                       \
    }
#define RABITQ(bits, turn)                                                                         \
    {                                                                                              \
        bits, 0, QUANTIZERS_##turn, QUANTIZERS_OWN_SCALE                                           \
    }
/* The first is what Kith takes: the dimensions of a code are filled in. */
static const struct quantizers_choice choices[] = {
    PQ(0, NONE, ONE_SCALE), PQ(1, NONE, ONE_SCALE),  PQ(2, NONE, ONE_SCALE),
    PQ(3, NONE, ONE_SCALE), PQ(4, NONE, ONE_SCALE),  PQ(6, NONE, ONE_SCALE),
    PQ(8, NONE, ONE_SCALE), PQ(12, NONE, ONE_SCALE), PQ(2, NONE, ALONG_ROW),
    PQ(4, NONE, ALONG_ROW), PQ(8, NONE, ALONG_ROW),  PQ(4, NONE, OWN_SCALE),
    PQ(8, NONE, OWN_SCALE), PQ(4, PCA, ONE_SCALE),   PQ(4, HADAMARD, ONE_SCALE),
    PQ(4, OPQ, ONE_SCALE),  RABITQ(1, HADAMARD),     RABITQ(1, RANDOM),
    RABITQ(2, HADAMARD),    RABITQ(3, HADAMARD),     RABITQ(4, HADAMARD)};
#define CHOICES (sizeof choices / sizeof choices[0])

static void tell(const struct bench *b, const struct quantizer *quantizer, struct result *result,
                 double byte_ns)
{
    double scan_ns = median(result->scan_ns, b->rounds),
           prepare_us = median(result->prepare_us, b->rounds);
    double total[TARGETS];
    for (uint32_t t = 0; t < TARGETS; t++)
        total[t] = prepare_us + (b->visits[t].rows * scan_ns + result->passed[t] * byte_ns) / 1000;
    fprintf(stderr,
            "%-22s %6.0f %7.2f %7.2f %8.0f %8.0f %6.2f %6.2f %8.2f %8.1f %8.1f %8.1f %8.2f %8.1f\n",
            quantizer->name, quantizer->bytes_a_row, 100 * result->error, 100 * result->error_near,
            result->passed[0], result->passed[1], result->z[0], result->z[1], scan_ns, prepare_us,
            total[0], total[1], quantizer->train_s, quantizer->encode_us_a_row);
    printf("{\"bench\":\"quantizers\",\"set\":\"%s\",\"case\":\"%s\",\"value\":%.2f,\"unit\":"
           "\"us\",\"total_99\":%.2f,"
           "\"bytes\":%.0f,\"error\":%.4f,\"error_near\":%.4f,\"passed\":%.1f,\"passed_99\":%.1f,"
           "\"z\":%.2f,"
           "\"z_99\":%.2f,\"scan_ns\":%.3f,\"prepare_us\":%.2f,\"train_s\":%.2f,\"encode_us\":%.2f,"
           "\"byte_ns\":%.1f,\"rows\":%.0f,\"rows_99\":%.0f,\"kernels\":\"%s\"}\n",
           b->world.set.name, quantizer->name, total[0], total[1], quantizer->bytes_a_row,
           result->error, result->error_near, result->passed[0], result->passed[1], result->z[0],
           result->z[1], scan_ns, prepare_us, quantizer->train_s, quantizer->encode_us_a_row,
           byte_ns, b->visits[0].rows, b->visits[1].rows, b->kernels->name);
}

static void compare(struct bench *b, const char *only)
{
    uint32_t usual = codebook_sub_dim_for(b->world.set.dim);
    struct quantizer *made = kith_xalloc(CHOICES * sizeof *made);
    struct result *results = kith_xalloc(CHOICES * sizeof *results);
    for (uint32_t i = 0; i < CHOICES; i++) {
        struct quantizers_choice choice = choices[i];
        struct quantizer *quantizer = &made[b->n_quantizers];
        if (i == 0)
            choice.sub_dim = usual;
        quantizers_name(&choice, quantizer->name);
        if (i > 0 &&
            (strcmp(quantizer->name, made[0].name) == 0 || strstr(quantizer->name, only) == NULL))
            continue;
        quantizers_make(quantizer, &b->world, &choice);
        for (uint32_t t = 0; t < TARGETS; t++)
            survey(b, quantizer, t, &results[b->n_quantizers]);
        measure_errors(b, quantizer, &results[b->n_quantizers++]);
        fprintf(stderr, "made: %s\n", quantizer->name);
    }
    double bytes[ROUNDS_MAX];
    for (uint32_t round = 0; round < b->rounds; round++) {
        bytes[round] = time_bytes(b, &made[0], results[0].z[0]);
        for (uint32_t i = 0; i < b->n_quantizers; i++)
            time_quantizer(b, &made[i], round, &results[i]);
    }
    double byte_ns = median(bytes, b->rounds);
    fprintf(stderr,
            "%s: %u x %u, %u queries, %u lists (training %.1f s), kernels %s; rows visited %.0f "
            "(recall 0.95) and %.0f "
            "(0.99); a row of bytes takes %.1f ns\n%-22s %6s %7s %7s %8s %8s %6s %6s %8s %8s %8s "
            "%8s %8s %8s\n",
            b->world.set.name, b->world.set.n, b->world.set.dim, b->world.set.n_queries,
            b->world.codebook->n_lists, b->world.train_s, b->kernels->name, b->visits[0].rows,
            b->visits[1].rows, byte_ns, "codes", "bytes", "err %", "near %", "pass .95", "pass .99",
            "z .95", "z .99", "ns/row", "prep us", "us .95", "us .99", "train s", "enc us");
    for (uint32_t i = 0; i < b->n_quantizers; i++) {
        tell(b, &made[i], &results[i], byte_ns);
        quantizers_free(&made[i]);
    }
    kith_free(results);
    kith_free(made);
}

static const struct ivf_kernels *kernels_named(const char *name)
{
    const struct ivf_kernels *kernels = ivf_kernels_best();
    for (uint32_t i = 0; name != NULL; i++) {
        kernels = ivf_kernels_variant(i);
        if (kernels == NULL) {
            fprintf(stderr, "quantizers: this CPU has no kernels \"%s\"\n", name);
            exit(2);
        }
        if (strcmp(kernels->name, name) == 0)
            break;
    }
    return kernels;
}

int main(int argc, char **argv)
{
    struct bench b = {.rounds = 5};
    uint32_t n_queries = 1000;
    const char *kernels = NULL, *only = "";
    for (int i = 2; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--queries") == 0)
            n_queries = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--rounds") == 0)
            b.rounds = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--kernels") == 0)
            kernels = argv[i + 1];
        else if (strcmp(argv[i], "--only") == 0)
            only = argv[i + 1];
        else
            argc = 0;
    }
    if (argc < 2 || argc % 2 != 0 || b.rounds < 1 || b.rounds > ROUNDS_MAX) {
        fprintf(stderr,
                "usage: bench_quantizers DIR [--queries N] [--rounds N (1 to %u)] [--kernels NAME] "
                "[--only NAME]\n",
                ROUNDS_MAX);
        return 2;
    }
    b.kernels = kernels_named(kernels);
    quantizers_world_init(&b.world, argv[1], n_queries);
    uint32_t n = b.world.set.n, dim = b.world.set.dim;
    b.positions = kith_xalloc(n * sizeof *b.positions);
    for (uint32_t i = 0; i < n; i++)
        b.positions[b.world.order[i]] = i;
    b.rows = kith_xalloc(n * sizeof *b.rows);
    b.marks = kith_xalloc(n * sizeof *b.marks);
    b.sums = kith_xalloc(n * sizeof *b.sums);
    b.margins = kith_xalloc(n * sizeof *b.margins);
    b.turned = kith_xalloc(dim * sizeof *b.turned);
    b.scratch = kith_xalloc((size_t)dim * 4 * sizeof *b.scratch);
    rank_lists(&b);
    for (uint32_t t = 0; t < TARGETS; t++)
        choose_lists(&b, &b.visits[t], targets[t]);
    compare(&b, only);
    for (uint32_t t = 0; t < TARGETS; t++) {
        kith_free(b.visits[t].from);
        kith_free(b.visits[t].lists);
    }
    kith_free(b.centres);
    kith_free(b.gaps);
    kith_free(b.first_gaps);
    kith_free(b.positions);
    kith_free(b.rows);
    kith_free(b.marks);
    kith_free(b.sums);
    kith_free(b.margins);
    kith_free(b.turned);
    kith_free(b.scratch);
    quantizers_world_fini(&b.world);
    return 0;
}
