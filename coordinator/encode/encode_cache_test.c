#include "coordinator/encode/encode_cache.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_mem.h"

static void put(struct encode_cache *cache, uint64_t fingerprint, const char *text, float value)
{
    float vector[4] = {value, 0, 0, 0};
    encode_cache_put(cache, fingerprint, text, strlen(text), vector, 4);
}

static float get(struct encode_cache *cache, uint64_t fingerprint, const char *text)
{
    float vector[4];
    return encode_cache_get(cache, fingerprint, text, strlen(text), vector, 4) ? vector[0] : -1;
}

static void test_encode_cache_keeps_the_recently_used(void **state)
{
    (void)state;
    struct encode_cache *cache = NULL;
    struct encode_cache_stats stats;
    assert_int_equal(encode_cache_new(&cache, 3, 0, NULL), KITH_OK);
    put(cache, 1, "a", 1);
    put(cache, 1, "b", 2);
    put(cache, 1, "c", 3);
    assert_true(get(cache, 1, "a") == 1); /* a is used: b is the oldest now */
    put(cache, 1, "d", 4);
    assert_true(get(cache, 1, "b") == -1);
    assert_true(get(cache, 1, "a") == 1 && get(cache, 1, "c") == 3 && get(cache, 1, "d") == 4);
    assert_true(get(cache, 2, "a") == -1); /* another encoder's vector is never given */
    put(cache, 1, "a", 9);
    assert_true(get(cache, 1, "a") == 9);
    encode_cache_stats(cache, &stats);
    assert_int_equal(stats.hits, 5);
    assert_int_equal(stats.misses, 2);
    assert_int_equal(stats.evictions, 1);
    assert_int_equal(stats.entries, 3);
    encode_cache_free(cache);
}

static void test_encode_cache_obeys_its_bytes(void **state)
{
    (void)state;
    struct encode_cache *cache = NULL;
    struct encode_cache_stats stats;
    assert_int_equal(encode_cache_new(&cache, 1000, 1000, NULL), KITH_OK);
    for (int i = 0; i < 100; i++) {
        char text[16];
        snprintf(text, sizeof text, "t%d", i);
        put(cache, 1, text, (float)i);
        encode_cache_stats(cache, &stats);
        assert_true(stats.bytes <= 1000 && stats.entries >= 1);
    }
    assert_true(get(cache, 1, "t99") == 99);
    float wide[512] = {0};
    encode_cache_put(cache, 1, "w", 1, wide, 512); /* alone past the cap: not kept */
    assert_false(encode_cache_get(cache, 1, "w", 1, wide, 512));
    static char text[ENCODE_CACHE_TEXT_MAX + 1];
    encode_cache_put(cache, 1, text, sizeof text, wide, 4);
    assert_false(encode_cache_get(cache, 1, text, sizeof text, wide, 4));
    encode_cache_free(cache);
}

static void test_encode_cache_survives_each_oom(void **state)
{
    (void)state;
    long before = kith_mem_live();
    for (long n = 0;; n++) {
        struct encode_cache *cache = NULL;
        kith_mem_fail_after(n);
        enum kith_err err = encode_cache_new(&cache, 8, 0, NULL);
        if (err == KITH_OK) {
            put(cache, 1, "a", 1); /* forgotten when memory is out */
        }
        kith_mem_fail_after(-1);
        assert_true(err == KITH_OK || (err == KITH_NOMEM && cache == NULL));
        bool kept = err == KITH_OK && get(cache, 1, "a") == 1;
        encode_cache_free(cache);
        assert_int_equal(kith_mem_live(), before);
        if (kept) {
            break;
        }
    }
}

static void *hammer(void *arg)
{
    struct encode_cache *cache = arg;
    for (int i = 0; i < 20000; i++) {
        char text[16];
        int key = (i * 7919) % 100;
        snprintf(text, sizeof text, "%d", key);
        float value = get(cache, 1, text);
        if (value != -1 && value != (float)key) {
            return arg;
        }
        put(cache, 1, text, (float)key);
    }
    return NULL;
}

static void test_encode_cache_is_shared_by_threads(void **state)
{
    (void)state;
    struct encode_cache *cache = NULL;
    pthread_t threads[4];
    assert_int_equal(encode_cache_new(&cache, 50, 0, NULL), KITH_OK);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, hammer, cache), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *wrong = NULL;
        pthread_join(threads[i], &wrong);
        assert_null(wrong);
    }
    struct encode_cache_stats stats;
    encode_cache_stats(cache, &stats);
    assert_int_equal(stats.hits + stats.misses, 80000);
    assert_int_equal(stats.entries, 50);
    encode_cache_free(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encode_cache_keeps_the_recently_used),
        cmocka_unit_test(test_encode_cache_obeys_its_bytes),
        cmocka_unit_test(test_encode_cache_survives_each_oom),
        cmocka_unit_test(test_encode_cache_is_shared_by_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
