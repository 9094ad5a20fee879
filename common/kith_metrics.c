/* Families are a list in order of registration, each with a list of its series: the text format
 * wants all samples of a name together. A series never moves and is never removed, so updates need
 * no lock; the lock guards the lists. All atomics are relaxed: the numbers publish nothing, and a
 * page of metrics is not a snapshot. */
#include "common/kith_metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "common/kith_mem.h"

#define BUCKETS 21

enum kind { COUNTER, GAUGE, HISTOGRAM };

struct kith_counter {
    atomic_uint_fast64_t value;
};
struct kith_gauge {
    atomic_int_fast64_t value;
};
struct kith_histogram {
    atomic_uint_fast64_t buckets[BUCKETS + 1]; /* not cumulative; the last is +Inf */
    atomic_uint_fast64_t sum_ns;
};

struct series {
    struct series *next;
    char *labels;
    union {
        struct kith_counter counter;
        struct kith_gauge gauge;
        struct kith_histogram histogram;
    } as;
};

struct family {
    struct family *next;
    enum kind kind;
    char *name, *help;
    struct series *first, **last;
};

struct kith_metrics {
    /* Guarded by lock. */
    pthread_mutex_t lock;
    struct family *first, **last;
    uint32_t n_series, n_collectors;
    struct {
        kith_collect_fn fn;
        void *ctx;
    } collectors[KITH_METRICS_COLLECTORS_MAX];
};

static const char *const kind_names[] = {"counter", "gauge", "histogram"};

/* 1-2-5 steps, in microseconds: even on a log scale, and readable. */
static const uint64_t bounds_us[BUCKETS] = {
    10,    20,     50,     100,    200,     500,     1000,    2000,     5000,     10000,   20000,
    50000, 100000, 200000, 500000, 1000000, 2000000, 5000000, 10000000, 20000000, 50000000};

enum kith_err kith_metrics_new(struct kith_metrics **out, struct kith_diag *diag)
{
    struct kith_metrics *metrics = kith_alloc(sizeof *metrics);
    if (metrics == NULL)
        return kith_fail(diag, KITH_NOMEM, "no memory for metrics");
    (void)pthread_mutex_init(&metrics->lock, NULL);
    metrics->last = &metrics->first;
    *out = metrics;
    return KITH_OK;
}

static void free_series(struct series *series)
{
    if (series == NULL)
        return;
    kith_free(series->labels);
    kith_free(series);
}

static void free_family(struct family *family)
{
    if (family == NULL)
        return;
    while (family->first != NULL) {
        struct series *next = family->first->next;
        free_series(family->first);
        family->first = next;
    }
    kith_free(family->name);
    kith_free(family->help);
    kith_free(family);
}

void kith_metrics_free(struct kith_metrics *metrics)
{
    if (metrics == NULL)
        return;
    while (metrics->first != NULL) {
        struct family *next = metrics->first->next;
        free_family(metrics->first);
        metrics->first = next;
    }
    (void)pthread_mutex_destroy(&metrics->lock);
    kith_free(metrics);
}

static struct family *get_family_locked(struct kith_metrics *metrics, enum kind kind,
                                        const char *name, const char *help)
{
    for (struct family *family = metrics->first; family != NULL; family = family->next)
        if (strcmp(family->name, name) == 0) {
            kith_assert(family->kind == kind);
            return family;
        }
    struct family *family = kith_alloc(sizeof *family);
    if (family == NULL)
        return NULL;
    family->kind = kind;
    family->last = &family->first;
    family->name = kith_strdup(name);
    family->help = kith_strdup(help);
    if (family->name == NULL || family->help == NULL) {
        free_family(family);
        return NULL;
    }
    *metrics->last = family;
    metrics->last = &family->next;
    return family;
}

static struct series *get_series_locked(struct kith_metrics *metrics, struct family *family,
                                        const char *labels)
{
    for (struct series *series = family->first; series != NULL; series = series->next)
        if (strcmp(series->labels, labels) == 0)
            return series;
    if (metrics->n_series >= KITH_METRICS_SERIES_MAX)
        return NULL;
    struct series *series = kith_alloc(sizeof *series);
    if (series == NULL)
        return NULL;
    series->labels = kith_strdup(labels);
    if (series->labels == NULL) {
        free_series(series);
        return NULL;
    }
    *family->last = series;
    family->last = &series->next;
    metrics->n_series++;
    return series;
}

static struct series *get_series(struct kith_metrics *metrics, enum kind kind, const char *name,
                                 const char *labels, const char *help)
{
    (void)pthread_mutex_lock(&metrics->lock);
    struct family *family = get_family_locked(metrics, kind, name, help);
    struct series *series = family == NULL ? NULL : get_series_locked(metrics, family, labels);
    (void)pthread_mutex_unlock(&metrics->lock);
    return series;
}

struct kith_counter *kith_metrics_counter(struct kith_metrics *metrics, const char *name,
                                          const char *labels, const char *help)
{
    struct series *series = get_series(metrics, COUNTER, name, labels, help);
    return series == NULL ? NULL : &series->as.counter;
}

struct kith_gauge *kith_metrics_gauge(struct kith_metrics *metrics, const char *name,
                                      const char *labels, const char *help)
{
    struct series *series = get_series(metrics, GAUGE, name, labels, help);
    return series == NULL ? NULL : &series->as.gauge;
}

struct kith_histogram *kith_metrics_histogram(struct kith_metrics *metrics, const char *name,
                                              const char *labels, const char *help)
{
    struct series *series = get_series(metrics, HISTOGRAM, name, labels, help);
    return series == NULL ? NULL : &series->as.histogram;
}

/* ---- updates --------------------------------------------------------------------------------- */

void kith_counter_add(struct kith_counter *counter, uint64_t n)
{
    if (counter != NULL)
        atomic_fetch_add_explicit(&counter->value, n, memory_order_relaxed);
}

void kith_gauge_set(struct kith_gauge *gauge, int64_t value)
{
    if (gauge != NULL)
        atomic_store_explicit(&gauge->value, value, memory_order_relaxed);
}

void kith_gauge_add(struct kith_gauge *gauge, int64_t n)
{
    if (gauge != NULL)
        atomic_fetch_add_explicit(&gauge->value, n, memory_order_relaxed);
}

void kith_histogram_observe_ns(struct kith_histogram *histogram, uint64_t ns)
{
    if (histogram == NULL)
        return;
    uint32_t bucket = 0;
    while (bucket < BUCKETS && ns > bounds_us[bucket] * 1000)
        bucket++;
    atomic_fetch_add_explicit(&histogram->buckets[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum_ns, ns, memory_order_relaxed);
}

uint64_t kith_counter_get(const struct kith_counter *counter)
{
    return counter == NULL ? 0 : atomic_load_explicit(&counter->value, memory_order_relaxed);
}

int64_t kith_gauge_get(const struct kith_gauge *gauge)
{
    return gauge == NULL ? 0 : atomic_load_explicit(&gauge->value, memory_order_relaxed);
}

uint64_t kith_histogram_count(const struct kith_histogram *histogram)
{
    uint64_t count = 0;
    for (uint32_t i = 0; histogram != NULL && i <= BUCKETS; i++)
        count += atomic_load_explicit(&histogram->buckets[i], memory_order_relaxed);
    return count;
}

/* ---- text ------------------------------------------------------------------------------------ */

void kith_metrics_family(struct kith_buf *out, const char *name, const char *kind, const char *help)
{
    kith_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind);
}

void kith_metrics_sample(struct kith_buf *out, const char *name, const char *labels, double value)
{
    bool braces = labels[0] != '\0';
    kith_buf_printf(out, "%s%s%s%s ", name, braces ? "{" : "", labels, braces ? "}" : "");
    /* Whole numbers as such: "%.17g" would show 1e+06 for a million. */
    if (value == floor(value) && fabs(value) < 1e15)
        kith_buf_printf(out, "%.0f\n", value);
    else
        kith_buf_printf(out, "%.9g\n", value);
}

void kith_metrics_label(struct kith_buf *labels, const char *key, const char *value)
{
    kith_buf_printf(labels, "%s%s=\"", labels->len > 0 ? "," : "", key);
    for (; *value != '\0'; value++) {
        if (*value == '\\' || *value == '"')
            kith_buf_byte(labels, '\\');
        if (*value == '\n')
            kith_buf_text(labels, "\\n");
        else
            kith_buf_byte(labels, (uint8_t)*value);
    }
    kith_buf_byte(labels, '"');
}

static void render_histogram(const struct family *family, const struct series *series,
                             struct kith_buf *out)
{
    const struct kith_histogram *histogram = &series->as.histogram;
    const char *comma = series->labels[0] != '\0' ? "," : "";
    uint64_t count = 0;
    for (uint32_t i = 0; i <= BUCKETS; i++) {
        count += atomic_load_explicit(&histogram->buckets[i], memory_order_relaxed);
        kith_buf_printf(out, "%s_bucket{%s%sle=\"", family->name, series->labels, comma);
        if (i < BUCKETS)
            kith_buf_printf(out, "%g", (double)bounds_us[i] / 1e6);
        else
            kith_buf_text(out, "+Inf");
        kith_buf_printf(out, "\"} %llu\n", (unsigned long long)count);
    }
    uint64_t sum_ns = atomic_load_explicit(&histogram->sum_ns, memory_order_relaxed);
    const char *open = series->labels[0] != '\0' ? "{" : "";
    const char *close = series->labels[0] != '\0' ? "}" : "";
    kith_buf_printf(out, "%s_sum%s%s%s %.9g\n", family->name, open, series->labels, close,
                    (double)sum_ns / 1e9);
    kith_buf_printf(out, "%s_count%s%s%s %llu\n", family->name, open, series->labels, close,
                    (unsigned long long)count);
}

static void render_family(const struct family *family, struct kith_buf *out)
{
    kith_metrics_family(out, family->name, kind_names[family->kind], family->help);
    for (const struct series *series = family->first; series != NULL; series = series->next) {
        if (family->kind == HISTOGRAM)
            render_histogram(family, series, out);
        else if (family->kind == COUNTER)
            kith_metrics_sample(out, family->name, series->labels,
                                (double)kith_counter_get(&series->as.counter));
        else
            kith_metrics_sample(out, family->name, series->labels,
                                (double)kith_gauge_get(&series->as.gauge));
    }
}

void kith_metrics_collect(struct kith_metrics *metrics, kith_collect_fn fn, void *ctx)
{
    (void)pthread_mutex_lock(&metrics->lock);
    kith_assert(metrics->n_collectors < KITH_METRICS_COLLECTORS_MAX);
    metrics->collectors[metrics->n_collectors].fn = fn;
    metrics->collectors[metrics->n_collectors++].ctx = ctx;
    (void)pthread_mutex_unlock(&metrics->lock);
}

void kith_metrics_uncollect(struct kith_metrics *metrics, kith_collect_fn fn, void *ctx)
{
    (void)pthread_mutex_lock(&metrics->lock);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < metrics->n_collectors; i++)
        if (metrics->collectors[i].fn != fn || metrics->collectors[i].ctx != ctx)
            metrics->collectors[kept++] = metrics->collectors[i];
    metrics->n_collectors = kept;
    (void)pthread_mutex_unlock(&metrics->lock);
}

void kith_metrics_render(struct kith_metrics *metrics, struct kith_buf *out)
{
    (void)pthread_mutex_lock(&metrics->lock);
    for (const struct family *family = metrics->first; family != NULL; family = family->next)
        render_family(family, out);
    uint32_t n_collectors = metrics->n_collectors;
    (void)pthread_mutex_unlock(&metrics->lock);
    /* Without the lock: a collector may register a series. */
    for (uint32_t i = 0; i < n_collectors; i++)
        metrics->collectors[i].fn(metrics->collectors[i].ctx, out);
}
