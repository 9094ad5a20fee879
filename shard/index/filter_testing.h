/* For tests of filters and of what uses them: msgpack from JSON-like text, random payloads and
 * random filters. Included by test files only. Threads: one. */
#ifndef FILTER_TESTING_H
#define FILTER_TESTING_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/kith_buf.h"
#include "common/kith_mem.h"
#include "common/kith_testing.h"
#include "proto/kith_filter.h"

static inline struct kith_writer testing_writer(struct kith_buf *buf)
{
    return (struct kith_writer){.write = kith_buf_sink, .sink = buf};
}

static inline struct kith_bytes testing_bytes(const struct kith_buf *buf)
{
    return (struct kith_bytes){buf->data, buf->len};
}

/* ---- JSON with ' for ", without escapes -------------------------------------------------------
 */

static inline const char *testing_value(const char *p, struct kith_writer *w);

static inline const char *testing_skip(const char *p)
{
    while (*p == ' ' || *p == ',' || *p == ':' || *p == '\n')
        p++;
    return p;
}

static inline const char *testing_group(const char *p, struct kith_writer *w, char close)
{
    struct kith_buf inner = {0};
    struct kith_writer to_inner = testing_writer(&inner);
    uint32_t n = 0;
    for (p = testing_skip(p); *p != close; p = testing_skip(p), n++)
        p = testing_value(p, &to_inner);
    if (close == ']')
        kith_write_array(w, n);
    else
        kith_write_map(w, n / 2);
    kith_write_raw(w, inner.data, inner.len);
    kith_buf_fini(&inner);
    return p + 1;
}

static inline const char *testing_value(const char *p, struct kith_writer *w)
{
    char *end;
    if (*p == '{' || *p == '[')
        return testing_group(p + 1, w, *p == '{' ? '}' : ']');
    if (*p == '\'') {
        const char *close = strchr(p + 1, '\'');
        kith_write_str(w, p + 1, (size_t)(close - p - 1));
        return close + 1;
    }
    if (*p == 't' || *p == 'f') {
        kith_write_bool(w, *p == 't');
        return p + (*p == 't' ? 4 : 5);
    }
    if (*p == 'n') {
        kith_write_nil(w);
        return p + 4;
    }
    size_t len = strspn(p, "+-0123456789.eE");
    kith_assert(len > 0);
    if (memchr(p, '.', len) != NULL || memchr(p, 'e', len) != NULL)
        kith_write_f64(w, strtod(p, &end));
    else if (*p == '-')
        kith_write_i64(w, strtoll(p, &end, 10));
    else
        kith_write_u64(w, strtoull(p, &end, 10));
    return end;
}

static inline struct kith_bytes testing_pack(struct kith_buf *buf, const char *json)
{
    struct kith_writer w = testing_writer(buf);
    kith_buf_reset(buf);
    (void)testing_value(testing_skip(json), &w);
    return testing_bytes(buf);
}

/* ---- random payloads --------------------------------------------------------------------------
 */

static inline void testing_string(struct kith_writer *w)
{
    static const char *const pool[] = {"x",
                                       "y",
                                       "",
                                       "2026-01-31",
                                       "2026-02-01T10:00:00Z",
                                       "2026-02-01T12:00:00+02:00",
                                       "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
                                       "1"};
    static char text[300];
    if (random_below(6) == 0) {
        memset(text, 'w', sizeof text);
        text[0] = (char)('a' + random_below(3));
        kith_write_str(w, text, sizeof text);
    } else {
        kith_write_cstr(w, pool[random_below(8)]);
    }
}

static inline void testing_scalar(struct kith_writer *w)
{
    switch (random_below(9)) {
    case 0:
        kith_write_nil(w);
        return;
    case 1:
        kith_write_bool(w, random_below(2));
        return;
    case 2:
    case 3:
        kith_write_i64(w, (int64_t)random_below(7) - 2);
        return;
    case 4:
        kith_write_f64(w, ((double)random_below(14) - 4.0) / 2.0);
        return;
    case 5:
        if (random_below(4) == 0)
            kith_write_u64(w, UINT64_MAX - random_below(2));
        else
            kith_write_i64(w, INT64_MAX - (int64_t)random_below(3));
        return;
    default:
        testing_string(w);
        return;
    }
}

static inline void testing_object(struct kith_writer *w, uint32_t depth)
{
    static const char *const keys[] = {"k", "n", "o", "l", "x.y", "m"};
    uint32_t chosen = random_below(64);
    kith_write_map(w, (uint32_t)__builtin_popcount(chosen));
    for (uint32_t i = 0; i < 6; i++) {
        if ((chosen >> i & 1) == 0)
            continue;
        kith_write_cstr(w, keys[i]);
        uint32_t kind = random_below(10);
        if ((i == 2 ? kind < 7 : kind == 0) && depth > 0) {
            testing_object(w, depth - 1);
        } else if (i == 3 ? kind < 8 : kind < 3) {
            uint32_t n = random_below(4);
            kith_write_array(w, n);
            for (; n > 0; n--) {
                uint32_t element = random_below(8);
                if (depth > 0 && (i == 3 ? element < 6 : element == 0)) {
                    testing_object(w, depth - 1);
                } else if (element == 7) {
                    kith_write_array(w, 1);
                    testing_scalar(w);
                } else {
                    testing_scalar(w);
                }
            }
        } else {
            testing_scalar(w);
        }
    }
}

/* ---- random filters ---------------------------------------------------------------------------
 */

static inline void testing_filter(struct kith_writer *w, uint32_t depth);

static inline void testing_path(struct kith_writer *w)
{
    static const char *const paths[] = {
        "k",       "n",     "m",     "o",     "l",           "o.k",       "o.n",     "o.o.k",
        "l[].k",   "l[].n", "l[]",   "o.l",   "o.l[].k",     "l[].l[].n", "\"x.y\"", "o.\"x.y\"",
        "l[0].k",  "l[][]", "k[]",   "x.y",   "nowhere",     "bad..path", "l.k",     "o[].k",
        "l[].o.n", "k[1]",  "\"k\"", "o.l[]", "l[].\"x.y\"", "l[].o"};
    kith_write_cstr(w, paths[random_below(random_below(3) ? 10 : 30)]);
}

static inline void testing_operand(struct kith_writer *w)
{
    uint32_t kind = random_below(8);
    if (kind < 3)
        kith_write_i64(w, (int64_t)random_below(7) - 2);
    else if (kind == 3)
        kith_write_bool(w, random_below(2));
    else if (kind == 4)
        kith_write_u64(w, random_below(2) ? UINT64_MAX : (uint64_t)INT64_MAX);
    else
        testing_string(w);
}

static inline void testing_match(struct kith_writer *w)
{
    uint32_t kind = random_below(3);
    uint32_t n = random_below(4);
    kith_write_map(w, 1);
    if (kind == 0) {
        kith_write_cstr(w, "value");
        testing_operand(w);
        return;
    }
    kith_write_cstr(w, kind == 1 ? "any" : "except");
    kith_write_array(w, n);
    for (; n > 0; n--)
        testing_operand(w);
}

static inline void testing_range(struct kith_writer *w)
{
    static const char *const times[] = {"2026-01-31", "2026-02-01T10:00:00Z", "2026-02-02"};
    bool time = random_below(4) == 0;
    uint32_t ends = 1 + random_below(3);
    kith_write_map(w, ends == 3 ? 2 : 1);
    if (ends & 1)
        kith_write_cstr(w, random_below(2) ? "gt" : "gte");
    for (uint32_t end = 1; end <= 2; end++) {
        if ((ends & end) == 0)
            continue;
        if (end == 2)
            kith_write_cstr(w, random_below(2) ? "lt" : "lte");
        if (time)
            kith_write_cstr(w, times[random_below(3)]);
        else if (random_below(8) == 0)
            kith_write_f64(w, 9223372036854775807.0);
        else
            kith_write_f64(w, ((double)random_below(14) - 4.0) / 2.0);
    }
}

static inline void testing_field(struct kith_writer *w)
{
    uint32_t kind = random_below(9);
    kith_write_map(w, 2);
    kith_write_cstr(w, "key");
    testing_path(w);
    if (kind < 4) {
        kith_write_cstr(w, "match");
        testing_match(w);
    } else if (kind < 6) {
        kith_write_cstr(w, "range");
        testing_range(w);
    } else if (kind == 6) {
        kith_write_cstr(w, "values_count");
        kith_write_map(w, 1);
        kith_write_cstr(w, random_below(2) ? "gte" : "lt");
        kith_write_u64(w, random_below(4));
    } else {
        kith_write_cstr(w, kind == 7 ? "is_empty" : "is_null");
        kith_write_bool(w, random_below(2));
    }
}

static inline void testing_condition(struct kith_writer *w, uint32_t depth)
{
    uint32_t kind = random_below(12);
    if (kind == 0 && depth > 0) {
        testing_filter(w, depth - 1);
    } else if (kind <= 2 && depth > 0) {
        kith_write_map(w, 1);
        kith_write_cstr(w, "nested");
        kith_write_map(w, 2);
        kith_write_cstr(w, "key");
        static const char *const arrays[] = {"l", "o.l", "l[].l", "k", "l[]", "l[0].l", "o"};
        kith_write_cstr(w, arrays[random_below(random_below(2) ? 2 : 7)]);
        kith_write_cstr(w, "filter");
        testing_filter(w, depth - 1);
    } else if (kind == 3) {
        uint32_t n = random_below(30);
        kith_write_map(w, 1);
        kith_write_cstr(w, "has_id");
        kith_write_array(w, n);
        for (; n > 0; n--)
            kith_write_u64(w, random_below(200));
    } else if (kind == 4) {
        kith_write_map(w, 1);
        kith_write_cstr(w, random_below(2) ? "is_empty" : "is_null");
        kith_write_map(w, 1);
        kith_write_cstr(w, "key");
        testing_path(w);
    } else {
        testing_field(w);
    }
}

static inline void testing_conditions(struct kith_writer *w, uint32_t depth)
{
    uint32_t n = random_below(4);
    kith_write_array(w, n);
    for (; n > 0; n--)
        testing_condition(w, depth);
}

static inline void testing_filter(struct kith_writer *w, uint32_t depth)
{
    static const char *const clauses[] = {"must", "should", "must_not", "min_should"};
    uint32_t chosen = random_below(3) ? 1u << random_below(4) : random_below(16);
    kith_write_map(w, (uint32_t)__builtin_popcount(chosen));
    for (uint32_t i = 0; i < 4; i++) {
        if ((chosen >> i & 1) == 0)
            continue;
        kith_write_cstr(w, clauses[i]);
        if (i == 3) {
            kith_write_map(w, 2);
            kith_write_cstr(w, "conditions");
            testing_conditions(w, depth);
            kith_write_cstr(w, "min_count");
            kith_write_u64(w, random_below(4));
        } else {
            testing_conditions(w, depth);
        }
    }
}

#endif
