/* Counters, gauges and latency histograms, and their Prometheus text.
 *
 * A series is registered once (name, labels) and then updated with one atomic operation. Things
 * that come and go - collections, nodes - are not series: a collector writes their numbers at the
 * moment of reading. Owns: all series, until kith_metrics_free. Threads: any for everything;
 * collectors run on the thread that renders. Errors: at KITH_METRICS_SERIES_MAX, or without
 * memory, registration returns NULL; every update accepts NULL and does nothing, so that a missing
 * number never stops work. Limits: KITH_METRICS_SERIES_MAX, KITH_METRICS_COLLECTORS_MAX. */
#ifndef KITH_METRICS_H
#define KITH_METRICS_H

#include <stdint.h>

#include "common/kith_buf.h"

struct kith_metrics;
struct kith_counter;
struct kith_gauge;
struct kith_histogram;

#define KITH_METRICS_SERIES_MAX     4096u /* a page of about 400 KB; labels come from fixed sets */
#define KITH_METRICS_COLLECTORS_MAX 16u

enum kith_err kith_metrics_new(struct kith_metrics **out, struct kith_diag *diag);
void kith_metrics_free(struct kith_metrics *metrics); /* NULL allowed */

/* `name` as Prometheus wants it ("kith_http_requests_total"); `labels` is the finished text between
 * the braces ("path=\"/x\",code=\"200\"") or "". The same name and labels give the same series.
 * A name has one kind. */
struct kith_counter *kith_metrics_counter(struct kith_metrics *metrics, const char *name,
                                          const char *labels, const char *help);
struct kith_gauge *kith_metrics_gauge(struct kith_metrics *metrics, const char *name,
                                      const char *labels, const char *help);
/* Seconds; buckets 10 us, 20 us, 50 us, ... 50 s. */
struct kith_histogram *kith_metrics_histogram(struct kith_metrics *metrics, const char *name,
                                              const char *labels, const char *help);

void kith_counter_add(struct kith_counter *counter, uint64_t n);
void kith_gauge_set(struct kith_gauge *gauge, int64_t value);
void kith_gauge_add(struct kith_gauge *gauge, int64_t n);
void kith_histogram_observe_ns(struct kith_histogram *histogram, uint64_t ns);

uint64_t kith_counter_get(const struct kith_counter *counter);
int64_t kith_gauge_get(const struct kith_gauge *gauge);
uint64_t kith_histogram_count(const struct kith_histogram *histogram);

/* fn writes whole lines with the functions below. Neither of these while another thread renders;
 * uncollect of what was never collected is fine. */
typedef void (*kith_collect_fn)(void *ctx, struct kith_buf *out);
void kith_metrics_collect(struct kith_metrics *metrics, kith_collect_fn fn, void *ctx);
void kith_metrics_uncollect(struct kith_metrics *metrics, kith_collect_fn fn, void *ctx);

/* Everything, as text/plain; version=0.0.4. */
void kith_metrics_render(struct kith_metrics *metrics, struct kith_buf *out);

/* For collectors: the head of a family once ("counter" or "gauge"), then its samples. */
void kith_metrics_family(struct kith_buf *out, const char *name, const char *kind,
                         const char *help);
void kith_metrics_sample(struct kith_buf *out, const char *name, const char *labels, double value);
/* key="value" with the escapes of the format, after a comma if `labels` is not empty. */
void kith_metrics_label(struct kith_buf *labels, const char *key, const char *value);

#endif
