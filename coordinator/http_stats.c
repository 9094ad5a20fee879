#include "coordinator/http_stats.h"

#include "common/kith_mem.h"
#include "coordinator/routes.h"

/* Every status Kith answers with; the last is "any other". */
static const int statuses[] = {200, 400, 403, 404, 405, 409, 413, 422,
                               429, 500, 502, 503, 504, 507, 0};
#define N_STATUSES (sizeof(statuses) / sizeof(statuses[0]))

/* Upper bounds of durations; as in the API whose names are mirrored, finer below a millisecond. */
static const double bounds_s[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                  0.05,   0.1,     0.25,   0.5,   1.0,    2.5,   5.0,  10.0};
#define N_BOUNDS (sizeof(bounds_s) / sizeof(bounds_s[0]))

struct series {
    uint64_t counts[N_STATUSES];
    uint64_t buckets[N_BOUNDS]; /* not cumulative */
    uint64_t total;
    double sum_s;
};

struct http_stats {
    uint32_t n_series;
    struct series *series;
};

enum kith_err http_stats_new(struct http_stats **out, struct kith_diag *diag)
{
    struct http_stats *stats = kith_alloc(sizeof(*stats));
    uint32_t n = routes_count() + 1;
    struct series *series = kith_alloc(n * sizeof(*series));
    if (!stats || !series) {
        kith_free(stats);
        kith_free(series);
        return kith_fail(diag, KITH_NOMEM, "metrics: out of memory");
    }
    stats->n_series = n;
    stats->series = series;
    *out = stats;
    return KITH_OK;
}

void http_stats_free(struct http_stats *stats)
{
    if (!stats)
        return;
    kith_free(stats->series);
    kith_free(stats);
}

void http_stats_add(struct http_stats *stats, uint32_t route, int status, uint64_t took_ns)
{
    kith_assert(route < stats->n_series);
    struct series *series = &stats->series[route];
    size_t i = 0;
    while (statuses[i] && statuses[i] != status)
        i++;
    double took_s = (double)took_ns / 1e9;
    series->counts[i]++;
    series->total++;
    series->sum_s += took_s;
    for (size_t j = 0; j < N_BOUNDS; j++) {
        if (took_s <= bounds_s[j]) {
            series->buckets[j]++;
            break;
        }
    }
}

uint64_t http_stats_total(const struct http_stats *stats)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < stats->n_series; i++)
        total += stats->series[i].total;
    return total;
}

static void labels(const struct http_stats *stats, uint32_t i, struct kith_buf *out)
{
    if (i + 1 == stats->n_series) {
        kith_buf_text(out, "method=\"\",endpoint=\"\"");
        return;
    }
    const struct route *route = routes_at(i);
    kith_buf_printf(out, "method=\"%s\",endpoint=\"%s\"", gateway_method_name(route->method),
                    route->pattern);
}

static void write_counts(const struct http_stats *stats, struct kith_buf *out)
{
    kith_buf_text(out, "# HELP rest_responses_total answers by endpoint and status\n"
                       "# TYPE rest_responses_total counter\n");
    for (uint32_t i = 0; i < stats->n_series; i++) {
        for (size_t j = 0; j < N_STATUSES; j++) {
            uint64_t count = stats->series[i].counts[j];
            if (!count)
                continue;
            kith_buf_text(out, "rest_responses_total{");
            labels(stats, i, out);
            if (statuses[j])
                kith_buf_printf(out, ",status=\"%d\"} %llu\n", statuses[j],
                                (unsigned long long)count);
            else
                kith_buf_printf(out, ",status=\"other\"} %llu\n", (unsigned long long)count);
        }
    }
}

static void write_series(const struct http_stats *stats, uint32_t i, struct kith_buf *out)
{
    const struct series *series = &stats->series[i];
    uint64_t below = 0;
    for (size_t j = 0; j < N_BOUNDS; j++) {
        below += series->buckets[j];
        kith_buf_text(out, "rest_responses_duration_seconds_bucket{");
        labels(stats, i, out);
        kith_buf_printf(out, ",le=\"%g\"} %llu\n", bounds_s[j], (unsigned long long)below);
    }
    kith_buf_text(out, "rest_responses_duration_seconds_bucket{");
    labels(stats, i, out);
    kith_buf_printf(out, ",le=\"+Inf\"} %llu\n", (unsigned long long)series->total);
    kith_buf_text(out, "rest_responses_duration_seconds_sum{");
    labels(stats, i, out);
    kith_buf_printf(out, "} %.9g\n", series->sum_s);
    kith_buf_text(out, "rest_responses_duration_seconds_count{");
    labels(stats, i, out);
    kith_buf_printf(out, "} %llu\n", (unsigned long long)series->total);
}

void http_stats_write(const struct http_stats *stats, struct kith_buf *out)
{
    write_counts(stats, out);
    kith_buf_text(out, "# HELP rest_responses_duration_seconds from the head of a request to its "
                       "answer\n# TYPE rest_responses_duration_seconds histogram\n");
    for (uint32_t i = 0; i < stats->n_series; i++)
        if (stats->series[i].total)
            write_series(stats, i, out);
}
