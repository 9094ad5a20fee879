#include "common/kith_metrics.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_mem.h"

static void collect(void *ctx, struct kith_buf *out)
{
    struct kith_buf labels = {0};
    kith_metrics_label(&labels, "collection", "a\"b\\c\nd");
    kith_metrics_label(&labels, "node", ctx);
    kith_buf_byte(&labels, 0);
    kith_metrics_family(out, "kith_points", "gauge", "Live points.");
    kith_metrics_sample(out, "kith_points", (char *)labels.data, 1e6);
    kith_buf_fini(&labels);
}

static void test_metrics_render_as_prometheus_reads(void **state)
{
    (void)state;
    struct kith_metrics *metrics = NULL;
    assert_int_equal(kith_metrics_new(&metrics, NULL), KITH_OK);
    struct kith_counter *ok = kith_metrics_counter(metrics, "a_total", "code=\"200\"", "As.");
    struct kith_gauge *gauge = kith_metrics_gauge(metrics, "b", "", "Bs.");
    struct kith_counter *bad = kith_metrics_counter(metrics, "a_total", "code=\"500\"", "As.");
    struct kith_histogram *times = kith_metrics_histogram(metrics, "c_seconds", "x=\"y\"", "Cs.");
    assert_ptr_equal(ok, kith_metrics_counter(metrics, "a_total", "code=\"200\"", "As."));
    assert_ptr_not_equal(ok, bad);
    kith_counter_add(ok, 3);
    kith_gauge_set(gauge, 5);
    kith_gauge_add(gauge, -7);
    kith_histogram_observe_ns(times, 10000);        /* 10 us: the first bucket includes it */
    kith_histogram_observe_ns(times, 10001);        /* the second */
    kith_histogram_observe_ns(times, 99000000000u); /* 99 s: beyond all */
    char node[] = "n1";
    kith_metrics_collect(metrics, collect, node);
    struct kith_buf out = {0};
    kith_metrics_render(metrics, &out);
    kith_buf_byte(&out, 0);
    const char *text = (char *)out.data;
    const char *head = "# HELP a_total As.\n# TYPE a_total counter\na_total{code=\"200\"} 3\n"
                       "a_total{code=\"500\"} 0\n# HELP b Bs.\n# TYPE b gauge\nb -2\n"
                       "# HELP c_seconds Cs.\n# TYPE c_seconds histogram\n"
                       "c_seconds_bucket{x=\"y\",le=\"1e-05\"} 1\n"
                       "c_seconds_bucket{x=\"y\",le=\"2e-05\"} 2\n";
    assert_memory_equal(text, head, strlen(head));
    assert_non_null(strstr(text, "le=\"50\"} 2\nc_seconds_bucket{x=\"y\",le=\"+Inf\"} 3\n"
                                 "c_seconds_sum{x=\"y\"} 99.00002\nc_seconds_count{x=\"y\"} 3\n"));
    assert_non_null(
        strstr(text, "kith_points{collection=\"a\\\"b\\\\c\\nd\",node=\"n1\"} 1000000\n"));
    assert_int_equal(kith_histogram_count(times), 3);
    kith_metrics_uncollect(metrics, collect, node);
    kith_buf_reset(&out);
    kith_metrics_render(metrics, &out);
    kith_buf_byte(&out, 0);
    assert_null(strstr((char *)out.data, "kith_points"));
    kith_buf_fini(&out);
    kith_metrics_free(metrics);
}

static void test_metrics_are_bounded(void **state)
{
    (void)state;
    struct kith_metrics *metrics = NULL;
    assert_int_equal(kith_metrics_new(&metrics, NULL), KITH_OK);
    char labels[32];
    for (unsigned i = 0; i < KITH_METRICS_SERIES_MAX; i++) {
        snprintf(labels, sizeof labels, "i=\"%u\"", i);
        assert_non_null(kith_metrics_gauge(metrics, "g", labels, "Gs."));
    }
    struct kith_counter *none = kith_metrics_counter(metrics, "c", "", "Cs.");
    assert_null(none);
    kith_counter_add(none, 1); /* harmless */
    assert_int_equal(kith_counter_get(none), 0);
    kith_metrics_free(metrics);
}

static void *add_many(void *arg)
{
    struct kith_metrics *metrics = arg;
    for (int i = 0; i < 20000; i++) {
        struct kith_counter *counter = kith_metrics_counter(metrics, "n", "", "Ns.");
        kith_counter_add(counter, 1);
        kith_histogram_observe_ns(kith_metrics_histogram(metrics, "h", "", "Hs."), 1);
    }
    return NULL;
}

static void test_metrics_count_from_all_threads(void **state)
{
    (void)state;
    struct kith_metrics *metrics = NULL;
    assert_int_equal(kith_metrics_new(&metrics, NULL), KITH_OK);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, add_many, metrics), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(kith_counter_get(kith_metrics_counter(metrics, "n", "", "")), 80000);
    assert_int_equal(kith_histogram_count(kith_metrics_histogram(metrics, "h", "", "")), 80000);
    kith_metrics_free(metrics);
}

static void test_metrics_survive_each_oom(void **state)
{
    (void)state;
    long live = kith_mem_live();
    for (long n = 0, done = 0; !done; n++) {
        struct kith_metrics *metrics = NULL;
        kith_mem_fail_after(n);
        enum kith_err err = kith_metrics_new(&metrics, NULL);
        done = err == KITH_OK && kith_metrics_counter(metrics, "a", "b", "c") != NULL;
        kith_mem_fail_after(-1);
        kith_metrics_free(metrics);
        assert_int_equal(kith_mem_live(), live);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metrics_render_as_prometheus_reads),
        cmocka_unit_test(test_metrics_are_bounded),
        cmocka_unit_test(test_metrics_count_from_all_threads),
        cmocka_unit_test(test_metrics_survive_each_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
