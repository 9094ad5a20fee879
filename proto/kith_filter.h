/* Filters: the msgpack form of the HTTP API's filter object, parsed into a bounded tree.
 *
 * The bytes are the JSON filter turned into msgpack as it stands (must / should / must_not /
 * min_should, conditions by key, has_id, is_empty, is_null, nested, sub-filters). The coordinator
 * parses them to give users a precise error; the shard parses them again because it trusts nobody,
 * and evaluates.
 *
 * The tree is an array of nodes inside a caller-owned struct; node 0 is the root. Nothing is
 * allocated; texts and value lists are borrowed from the bytes. Threads: a parsed filter is
 * read-only. Errors: KITH_BAD_REQUEST naming the place ("filter.must[2].range.gte: expected a
 * number"), KITH_UNSUPPORTED for conditions of the specification that Kith does not have,
 * KITH_TOO_BIG for a limit. */
#ifndef KITH_FILTER_H
#define KITH_FILTER_H

#include "proto/kith_limits.h"
#include "proto/kith_wire.h"

enum kith_filter_kind {
    KITH_FILTER_ALL,          /* every child */
    KITH_FILTER_ANY,          /* at least one child */
    KITH_FILTER_NONE,         /* no child */
    KITH_FILTER_AT_LEAST,     /* min_count children */
    KITH_FILTER_MATCH_ANY,    /* key: one of the values (match.value is a list of one) */
    KITH_FILTER_MATCH_EXCEPT, /* key: has a value, and at least one value outside the list */
    KITH_FILTER_RANGE,        /* key: numbers */
    KITH_FILTER_TIME_RANGE,   /* key: RFC 3339 times */
    KITH_FILTER_HAS_ID,
    KITH_FILTER_IS_EMPTY,     /* key: missing, null, or [] */
    KITH_FILTER_IS_NULL,      /* key: null, or an array that holds a null */
    KITH_FILTER_NESTED,       /* key: an array of objects, one of which alone satisfies child 0 */
    KITH_FILTER_VALUES_COUNT, /* key: number of values within the range */
};

#define KITH_FILTER_NO_NODE UINT32_MAX

struct kith_filter_node {
    enum kith_filter_kind kind;
    uint32_t first_child;  /* ALL, ANY, NONE, AT_LEAST, NESTED; KITH_FILTER_NO_NODE = none */
    uint32_t next_sibling; /* KITH_FILTER_NO_NODE = last */
    uint32_t min_count;
    struct kith_bytes key; /* UTF-8 path, a trailing "[]" already dropped */
    uint32_t n_values;     /* MATCH_*: scalars (str, int, bool); HAS_ID: ids */
    struct kith_bytes
        values; /* the elements; read with a cursor: kith_read_value, or kith_filter_read_id */
    bool has_low, has_high, low_open, high_open;
    double low, high;        /* RANGE, VALUES_COUNT */
    int64_t low_us, high_us; /* TIME_RANGE */
};

struct kith_filter {
    uint32_t n_nodes;  /* 0 = no filter: everything matches */
    uint32_t n_values; /* of all lists */
    struct kith_filter_node nodes[KITH_FILTER_NODES_MAX];
};

/* Empty bytes give n_nodes = 0. `where` begins every message ("filter"). */
enum kith_err kith_filter_parse(struct kith_filter *out, struct kith_bytes msgpack,
                                const char *where, struct kith_diag *diag);
/* An id inside has_id: a number or a UUID's text. */
bool kith_filter_read_id(struct kith_cursor *c, struct kith_id *out);
/* RFC 3339 to microseconds since 1970 UTC; a bare date is midnight UTC. */
bool kith_parse_time(struct kith_bytes text, int64_t *out_us);

#endif
