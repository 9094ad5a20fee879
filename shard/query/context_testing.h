/* For tests of searches, over stores or over fakes: a context with a pool, a filter, and a search
 * whose allocations fail. Included by test files only, once in a program. */
#ifndef CONTEXT_TESTING_H
#define CONTEXT_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "common/kith_buf.h"
#include "common/kith_mem.h"
#include "shard/query/search.h"

static struct kith_pool *pool;
static struct search_context *context;

static inline int context_open(uint32_t threads)
{
    if (kith_pool_open(&pool, threads, NULL) != KITH_OK)
        return -1;
    return search_context_open(&context, pool, NULL) == KITH_OK ? 0 : -1;
}

static inline int context_tear_down(void **state)
{
    (void)state;
    search_context_close(context);
    kith_pool_close(pool);
    return 0;
}

/* {"must": [{"key": "g", condition: {name: value}}]}; the bytes are replaced and borrowed. */
static inline void context_filter(struct kith_filter *out, struct kith_buf *bytes,
                                  const char *condition, const char *name, uint64_t value)
{
    struct kith_writer w = {.write = kith_buf_sink, .sink = bytes};
    kith_buf_reset(bytes);
    kith_write_map(&w, 1);
    kith_write_cstr(&w, "must");
    kith_write_array(&w, 1);
    kith_write_map(&w, 2);
    kith_write_cstr(&w, "key");
    kith_write_cstr(&w, "g");
    kith_write_cstr(&w, condition);
    kith_write_map(&w, 1);
    kith_write_cstr(&w, name);
    kith_write_u64(&w, value);
    assert_int_equal(
        kith_filter_parse(out, (struct kith_bytes){bytes->data, bytes->len}, "filter", NULL),
        KITH_OK);
}

/* Opens a context and searches, with the n-th allocation failing, until none does. */
static inline void context_check_each_oom(const struct search_request *request)
{
    long before = kith_mem_live();
    enum kith_err err = KITH_NOMEM;
    for (long n = 0; err == KITH_NOMEM; n++) {
        struct search_context *fresh = NULL;
        struct search_result result = {0};
        kith_mem_fail_after(n);
        err = search_context_open(&fresh, NULL, NULL);
        if (err == KITH_OK)
            err = search_run(fresh, request, &result, NULL);
        kith_mem_fail_after(-1);
        search_result_fini(&result);
        search_context_close(fresh);
        assert_int_equal(kith_mem_live(), before);
    }
    assert_int_equal(err, KITH_OK);
}

#endif
