/* One recursive descent over the msgpack filter, bounded by KITH_FILTER_DEPTH_MAX, filling an array
 * of nodes.
 *
 * A filter object becomes one ALL node: the conditions of `must` are its children; `should`,
 * `must_not` and `min_should` add a child of kind ANY, NONE, AT_LEAST with the conditions below it.
 * An absent or empty list adds nothing, so the empty filter matches everything. The place of an
 * error ("filter.must[2].range.gte") is kept as text that grows and shrinks with the descent. */
#include "proto/kith_filter.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define WHERE_BYTES 200

struct parser {
    struct kith_filter *filter;
    struct kith_cursor c;
    struct kith_diag *diag;
    uint32_t depth;
    size_t where_len;
    char where[WHERE_BYTES];
};

/* ---- places and errors --------------------------------------------------------------------- */

static size_t KITH_PRINTF(2, 3) push(struct parser *p, const char *fmt, ...)
{
    size_t before = p->where_len;
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(p->where + before, sizeof p->where - before, fmt, args);
    va_end(args);
    if (n > 0)
        p->where_len += (size_t)n;
    if (p->where_len > sizeof p->where - 1)
        p->where_len = sizeof p->where - 1;
    return before;
}

static void pop(struct parser *p, size_t before)
{
    p->where_len = before;
    p->where[before] = '\0';
}

static enum kith_err bad(struct parser *p, const char *expected)
{
    return kith_fail(p->diag, KITH_BAD_REQUEST, "%s: %s", p->where, expected);
}

static enum kith_err bad_key(struct parser *p, struct kith_bytes key, const char *what)
{
    int len = key.len > 40 ? 40 : (int)key.len;
    return kith_fail(p->diag, KITH_BAD_REQUEST, "%s: %s \"%.*s\"", p->where, what, len,
                     (const char *)key.data);
}

/* ---- pieces -------------------------------------------------------------------------------- */

static enum kith_err add_node(struct parser *p, enum kith_filter_kind kind, uint32_t *out)
{
    if (p->filter->n_nodes == KITH_FILTER_NODES_MAX)
        return kith_fail(p->diag, KITH_TOO_BIG, "%s: more than %u conditions", p->where,
                         KITH_FILTER_NODES_MAX);
    uint32_t at = p->filter->n_nodes++;
    p->filter->nodes[at] = (struct kith_filter_node){
        .kind = kind, .first_child = KITH_FILTER_NO_NODE, .next_sibling = KITH_FILTER_NO_NODE};
    *out = at;
    return KITH_OK;
}

/* Hangs `child` behind `last` (NO_NODE: as the first) below `parent`. */
static void link_child(struct parser *p, uint32_t parent, uint32_t last, uint32_t child)
{
    if (last == KITH_FILTER_NO_NODE)
        p->filter->nodes[parent].first_child = child;
    else
        p->filter->nodes[last].next_sibling = child;
}

static enum kith_err read_map(struct parser *p, uint32_t *n)
{
    if (kith_read_peek(&p->c) != KITH_WIRE_MAP)
        return bad(p, "expected an object");
    return kith_read_map(&p->c, n) ? KITH_OK : bad(p, "malformed");
}

static enum kith_err read_key(struct parser *p, struct kith_bytes *key)
{
    return kith_read_str(&p->c, key) ? KITH_OK : bad(p, "malformed: a member's name is not text");
}

static bool skip_nil(struct parser *p)
{
    return kith_read_peek(&p->c) == KITH_WIRE_NIL && kith_read_nil(&p->c);
}

static enum kith_err read_path(struct parser *p, struct kith_bytes *out)
{
    struct kith_bytes path;
    if (kith_read_peek(&p->c) != KITH_WIRE_STR || !kith_read_str(&p->c, &path))
        return bad(p, "expected the name of a payload field");
    if (path.len >= 2 && memcmp(path.data + path.len - 2, "[]", 2) == 0)
        path.len -= 2;
    if (path.len == 0 || path.len > KITH_FIELD_PATH_MAX)
        return kith_fail(p->diag, KITH_BAD_REQUEST, "%s: a field name has 1 to %u bytes", p->where,
                         KITH_FIELD_PATH_MAX);
    *out = path;
    return KITH_OK;
}

static enum kith_err count_values(struct parser *p, uint32_t n)
{
    if (n > KITH_FILTER_VALUES_MAX || p->filter->n_values + n > KITH_FILTER_VALUES_MAX)
        return kith_fail(p->diag, KITH_TOO_BIG, "%s: a filter holds at most %u values", p->where,
                         KITH_FILTER_VALUES_MAX);
    p->filter->n_values += n;
    return KITH_OK;
}

static bool is_match_type(enum kith_wire_type type)
{
    return type == KITH_WIRE_STR || type == KITH_WIRE_INT || type == KITH_WIRE_BOOL;
}

/* ---- match --------------------------------------------------------------------------------- */

static enum kith_err match_value(struct parser *p, struct kith_filter_node *node)
{
    if (!is_match_type(kith_read_peek(&p->c)))
        return bad(p, "expected text, an integer or a boolean");
    node->kind = KITH_FILTER_MATCH_ANY;
    node->n_values = 1;
    if (!kith_read_skip(&p->c, &node->values))
        return bad(p, "malformed");
    return count_values(p, 1);
}

static enum kith_err match_list(struct parser *p, struct kith_filter_node *node,
                                enum kith_filter_kind kind)
{
    uint32_t n;
    if (kith_read_peek(&p->c) != KITH_WIRE_ARRAY || !kith_read_array(&p->c, &n))
        return bad(p, "expected an array");
    enum kith_err err = count_values(p, n);
    const uint8_t *start = p->c.at;
    for (uint32_t i = 0; err == KITH_OK && i < n; i++) {
        size_t before = push(p, "[%u]", i);
        if (!is_match_type(kith_read_peek(&p->c)))
            err = bad(p, "expected text, an integer or a boolean");
        else if (!kith_read_skip(&p->c, NULL))
            err = bad(p, "malformed");
        else
            pop(p, before);
    }
    node->kind = kind;
    node->n_values = n;
    node->values = (struct kith_bytes){start, (size_t)(p->c.at - start)};
    return err;
}

static enum kith_err parse_match(struct parser *p, struct kith_filter_node *node)
{
    uint32_t n;
    struct kith_bytes key;
    enum kith_err err = read_map(p, &n);
    if (err != KITH_OK)
        return err;
    if (n != 1)
        return bad(p, "expected exactly one of value, any, except");
    if ((err = read_key(p, &key)) != KITH_OK)
        return err;
    size_t before = push(p, ".%.*s", key.len > 20 ? 20 : (int)key.len, (const char *)key.data);
    if (kith_bytes_equal(key, "value"))
        err = match_value(p, node);
    else if (kith_bytes_equal(key, "any"))
        err = match_list(p, node, KITH_FILTER_MATCH_ANY);
    else if (kith_bytes_equal(key, "except"))
        err = match_list(p, node, KITH_FILTER_MATCH_EXCEPT);
    else
        err = kith_fail(p->diag, KITH_UNSUPPORTED,
                        "%s: not supported; match knows value, any and except", p->where);
    if (err == KITH_OK)
        pop(p, before);
    return err;
}

/* ---- range --------------------------------------------------------------------------------- */

/* One bound: a number, or (times) RFC 3339 text. *is_time is -1 until the first bound decides. */
static enum kith_err parse_bound(struct parser *p, struct kith_filter_node *node,
                                 struct kith_bytes name, int *is_time)
{
    bool low = name.data[0] == 'g', open = name.len == 2;
    struct kith_value v;
    if (!kith_read_value(&p->c, &v))
        return bad(p, "malformed");
    int time = v.type == KITH_WIRE_STR;
    int64_t us = 0;
    if (time && !kith_parse_time(v.bytes, &us))
        return bad(p, "expected a number or an RFC 3339 time such as 2026-01-31T12:00:00Z");
    if (!time && ((v.type != KITH_WIRE_INT && v.type != KITH_WIRE_FLOAT) || !isfinite(v.f)))
        return bad(p, "expected a number or an RFC 3339 time");
    if (*is_time >= 0 && *is_time != time)
        return bad(p, "a range holds numbers or times, not both");
    if (low ? node->has_low : node->has_high)
        return bad(p, low ? "gt and gte together" : "lt and lte together");
    *is_time = time;
    if (low) {
        node->has_low = true;
        node->low_open = open;
        node->low = v.f;
        node->low_us = us;
    } else {
        node->has_high = true;
        node->high_open = open;
        node->high = v.f;
        node->high_us = us;
    }
    return KITH_OK;
}

static enum kith_err parse_range(struct parser *p, struct kith_filter_node *node,
                                 enum kith_filter_kind kind)
{
    uint32_t n;
    enum kith_err err = read_map(p, &n);
    int is_time = -1;
    for (uint32_t i = 0; err == KITH_OK && i < n; i++) {
        struct kith_bytes name;
        if ((err = read_key(p, &name)) != KITH_OK)
            break;
        if (!kith_bytes_equal(name, "lt") && !kith_bytes_equal(name, "lte") &&
            !kith_bytes_equal(name, "gt") && !kith_bytes_equal(name, "gte"))
            return bad_key(p, name, "expected lt, lte, gt or gte, got");
        if (skip_nil(p))
            continue;
        size_t before = push(p, ".%.*s", (int)name.len, (const char *)name.data);
        err = parse_bound(p, node, name, &is_time);
        if (err == KITH_OK)
            pop(p, before);
    }
    if (err != KITH_OK)
        return err;
    if (kind == KITH_FILTER_VALUES_COUNT && is_time > 0)
        return bad(p, "expected numbers");
    node->kind = is_time > 0 ? KITH_FILTER_TIME_RANGE : kind;
    return KITH_OK;
}

/* ---- conditions ---------------------------------------------------------------------------- */

static enum kith_err parse_filter(struct parser *p, uint32_t *out);

static enum kith_err parse_has_id(struct parser *p, struct kith_filter_node *node)
{
    uint32_t n;
    if (kith_read_peek(&p->c) != KITH_WIRE_ARRAY || !kith_read_array(&p->c, &n))
        return bad(p, "expected an array of ids");
    enum kith_err err = count_values(p, n);
    const uint8_t *start = p->c.at;
    for (uint32_t i = 0; err == KITH_OK && i < n; i++) {
        struct kith_id id;
        if (!kith_filter_read_id(&p->c, &id)) {
            push(p, "[%u]", i);
            err = bad(p, "expected an unsigned integer or a UUID");
        }
    }
    node->kind = KITH_FILTER_HAS_ID;
    node->n_values = n;
    node->values = (struct kith_bytes){start, (size_t)(p->c.at - start)};
    return err;
}

/* {"is_empty": {"key": ...}} and {"is_null": {"key": ...}} */
static enum kith_err parse_keyed(struct parser *p, struct kith_filter_node *node,
                                 enum kith_filter_kind kind)
{
    uint32_t n;
    struct kith_bytes name;
    enum kith_err err = read_map(p, &n);
    if (err != KITH_OK)
        return err;
    if (n != 1)
        return bad(p, "expected {\"key\": ...}");
    if ((err = read_key(p, &name)) != KITH_OK)
        return err;
    if (!kith_bytes_equal(name, "key"))
        return bad_key(p, name, "expected key, got");
    push(p, ".key");
    node->kind = kind;
    return read_path(p, &node->key);
}

static enum kith_err parse_nested(struct parser *p, uint32_t at)
{
    uint32_t n, child = KITH_FILTER_NO_NODE;
    enum kith_err err = read_map(p, &n);
    for (uint32_t i = 0; err == KITH_OK && i < n; i++) {
        struct kith_bytes name;
        if ((err = read_key(p, &name)) != KITH_OK)
            break;
        size_t before =
            push(p, ".%.*s", name.len > 20 ? 20 : (int)name.len, (const char *)name.data);
        if (kith_bytes_equal(name, "key"))
            err = read_path(p, &p->filter->nodes[at].key);
        else if (kith_bytes_equal(name, "filter"))
            err = parse_filter(p, &child);
        else
            err = bad(p, "unknown field; nested has key and filter");
        if (err == KITH_OK)
            pop(p, before);
    }
    if (err != KITH_OK)
        return err;
    if (p->filter->nodes[at].key.len == 0 || child == KITH_FILTER_NO_NODE)
        return bad(p, "nested needs key and filter");
    p->filter->nodes[at].kind = KITH_FILTER_NESTED;
    p->filter->nodes[at].first_child = child;
    return KITH_OK;
}

/* {"key": k, "is_empty": true}: false is the condition's negation. */
static enum kith_err parse_flag(struct parser *p, uint32_t at, enum kith_filter_kind kind)
{
    bool wanted;
    if (kith_read_peek(&p->c) != KITH_WIRE_BOOL || !kith_read_bool(&p->c, &wanted))
        return bad(p, "expected a boolean");
    if (wanted) {
        p->filter->nodes[at].kind = kind;
        return KITH_OK;
    }
    uint32_t inner = 0;
    enum kith_err err = add_node(p, kind, &inner);
    if (err == KITH_OK) {
        p->filter->nodes[at].kind = KITH_FILTER_NONE;
        p->filter->nodes[at].first_child = inner;
    }
    return err;
}

/* One member of a field condition, `key` aside. */
static enum kith_err parse_field_member(struct parser *p, struct kith_bytes name, uint32_t at)
{
    struct kith_filter_node *node = &p->filter->nodes[at];
    if (kith_bytes_equal(name, "match"))
        return parse_match(p, node);
    if (kith_bytes_equal(name, "range"))
        return parse_range(p, node, KITH_FILTER_RANGE);
    if (kith_bytes_equal(name, "values_count"))
        return parse_range(p, node, KITH_FILTER_VALUES_COUNT);
    if (kith_bytes_equal(name, "is_empty"))
        return parse_flag(p, at, KITH_FILTER_IS_EMPTY);
    if (kith_bytes_equal(name, "is_null"))
        return parse_flag(p, at, KITH_FILTER_IS_NULL);
    if (name.len > 4 && memcmp(name.data, "geo_", 4) == 0)
        return kith_fail(p->diag, KITH_UNSUPPORTED, "%s: geo conditions are not supported",
                         p->where);
    return bad(p, "unknown condition");
}

/* {"key": k, <one condition>}; members in any order, null members ignored. */
static enum kith_err parse_field(struct parser *p, uint32_t n, uint32_t *out)
{
    uint32_t at = 0, conditions = 0;
    struct kith_bytes path = {0};
    enum kith_err err = add_node(p, KITH_FILTER_ALL, &at);
    for (uint32_t i = 0; err == KITH_OK && i < n; i++) {
        struct kith_bytes name;
        if ((err = read_key(p, &name)) != KITH_OK)
            break;
        if (skip_nil(p))
            continue;
        size_t before =
            push(p, ".%.*s", name.len > 20 ? 20 : (int)name.len, (const char *)name.data);
        if (kith_bytes_equal(name, "key")) {
            err = read_path(p, &path);
        } else if (++conditions > 1) {
            err = bad(p, "a field condition holds one condition; use several in must");
        } else {
            err = parse_field_member(p, name, at);
        }
        if (err == KITH_OK)
            pop(p, before);
    }
    if (err != KITH_OK)
        return err;
    if (path.len == 0)
        return bad(p, "key is missing");
    if (conditions == 0)
        return bad(p, "expected one of match, range, values_count, is_empty, is_null beside key");
    p->filter->nodes[at].key = path;
    uint32_t inner = p->filter->nodes[at].first_child;
    if (inner != KITH_FILTER_NO_NODE)
        p->filter->nodes[inner].key = path;
    *out = at;
    return KITH_OK;
}

/* {"has_id": ...}, {"is_empty": {...}}, {"is_null": {...}}, {"nested": {...}} */
static enum kith_err parse_special(struct parser *p, struct kith_bytes name, uint32_t *out)
{
    uint32_t at = 0;
    enum kith_err err = add_node(p, KITH_FILTER_ALL, &at);
    if (err != KITH_OK)
        return err;
    size_t before = push(p, ".%.*s", (int)name.len, (const char *)name.data);
    if (kith_bytes_equal(name, "has_id"))
        err = parse_has_id(p, &p->filter->nodes[at]);
    else if (kith_bytes_equal(name, "is_empty"))
        err = parse_keyed(p, &p->filter->nodes[at], KITH_FILTER_IS_EMPTY);
    else if (kith_bytes_equal(name, "is_null"))
        err = parse_keyed(p, &p->filter->nodes[at], KITH_FILTER_IS_NULL);
    else
        err = parse_nested(p, at);
    if (err == KITH_OK) {
        pop(p, before);
        *out = at;
    }
    return err;
}

static bool is_one_of(struct kith_bytes name, const char *const *names)
{
    for (; *names != NULL; names++)
        if (kith_bytes_equal(name, *names))
            return true;
    return false;
}

/* A condition's kind shows in its members' names, so they are looked at before they are read. */
static enum kith_err parse_condition(struct parser *p, uint32_t *out)
{
    static const char *const special[] = {"has_id", "is_empty", "is_null", "nested", NULL};
    static const char *const clauses[] = {"must", "should", "must_not", "min_should", NULL};
    struct kith_cursor ahead = p->c;
    uint32_t n;
    if (kith_read_peek(&p->c) != KITH_WIRE_MAP || !kith_read_map(&ahead, &n))
        return bad(p, "expected a condition (an object)");
    bool has_key = false, has_clause = n == 0;
    struct kith_bytes name = {0};
    for (struct kith_cursor c = ahead; n > 0 && c.err == KITH_OK && c.at < c.end;) {
        if (!kith_read_str(&c, &name) || !kith_read_skip(&c, NULL))
            return bad(p, "malformed");
        has_key = has_key || kith_bytes_equal(name, "key");
        has_clause = has_clause || is_one_of(name, clauses);
        if (has_key || has_clause || n == 1)
            break;
    }
    if (has_key) {
        p->c = ahead;
        return parse_field(p, n, out);
    }
    if (has_clause)
        return parse_filter(p, out);
    if (n == 1 && is_one_of(name, special)) {
        struct kith_bytes again;
        p->c = ahead;
        return kith_read_str(&p->c, &again) ? parse_special(p, again, out) : bad(p, "malformed");
    }
    if (kith_bytes_equal(name, "has_vector"))
        return kith_fail(p->diag, KITH_UNSUPPORTED, "%s: has_vector is not supported", p->where);
    return bad_key(p, name, "unknown condition");
}

/* ---- clauses ------------------------------------------------------------------------------- */

/* One condition or an array of them, hung below `parent` behind *last. */
static enum kith_err parse_conditions(struct parser *p, uint32_t parent, uint32_t *last)
{
    uint32_t n = 1, child;
    bool list = kith_read_peek(&p->c) == KITH_WIRE_ARRAY;
    if (list && !kith_read_array(&p->c, &n))
        return bad(p, "malformed");
    for (uint32_t i = 0; i < n; i++) {
        size_t before = list ? push(p, "[%u]", i) : p->where_len;
        enum kith_err err = parse_condition(p, &child);
        if (err != KITH_OK)
            return err;
        link_child(p, parent, *last, child);
        *last = child;
        pop(p, before);
    }
    return KITH_OK;
}

/* should, must_not: a node of their own, left out when they hold no condition. */
static enum kith_err parse_group(struct parser *p, enum kith_filter_kind kind, uint32_t parent,
                                 uint32_t *last)
{
    uint32_t group = 0, group_last = KITH_FILTER_NO_NODE;
    enum kith_err err = add_node(p, kind, &group);
    if (err == KITH_OK)
        err = parse_conditions(p, group, &group_last);
    if (err == KITH_OK && group_last != KITH_FILTER_NO_NODE) {
        link_child(p, parent, *last, group);
        *last = group;
    }
    return err;
}

static enum kith_err parse_min_should(struct parser *p, uint32_t parent, uint32_t *last)
{
    uint32_t n, group = 0, group_last = KITH_FILTER_NO_NODE;
    bool has_count = false;
    enum kith_err err = read_map(p, &n);
    if (err == KITH_OK)
        err = add_node(p, KITH_FILTER_AT_LEAST, &group);
    for (uint32_t i = 0; err == KITH_OK && i < n; i++) {
        struct kith_bytes name;
        if ((err = read_key(p, &name)) != KITH_OK)
            break;
        size_t before =
            push(p, ".%.*s", name.len > 20 ? 20 : (int)name.len, (const char *)name.data);
        if (kith_bytes_equal(name, "conditions"))
            err = parse_conditions(p, group, &group_last);
        else if (!kith_bytes_equal(name, "min_count"))
            err = bad(p, "unknown field; min_should has conditions and min_count");
        else if (!kith_read_u32(&p->c, &p->filter->nodes[group].min_count))
            err = bad(p, "expected an unsigned integer");
        else
            has_count = true;
        if (err == KITH_OK)
            pop(p, before);
    }
    if (err != KITH_OK)
        return err;
    if (!has_count)
        return bad(p, "min_count is missing");
    link_child(p, parent, *last, group);
    *last = group;
    return KITH_OK;
}

static enum kith_err parse_filter_members(struct parser *p, uint32_t at)
{
    uint32_t n, last = KITH_FILTER_NO_NODE;
    enum kith_err err = read_map(p, &n);
    for (uint32_t i = 0; err == KITH_OK && i < n; i++) {
        struct kith_bytes name;
        if ((err = read_key(p, &name)) != KITH_OK)
            break;
        size_t before =
            push(p, ".%.*s", name.len > 20 ? 20 : (int)name.len, (const char *)name.data);
        if (skip_nil(p))
            err = KITH_OK;
        else if (kith_bytes_equal(name, "must"))
            err = parse_conditions(p, at, &last);
        else if (kith_bytes_equal(name, "should"))
            err = parse_group(p, KITH_FILTER_ANY, at, &last);
        else if (kith_bytes_equal(name, "must_not"))
            err = parse_group(p, KITH_FILTER_NONE, at, &last);
        else if (kith_bytes_equal(name, "min_should"))
            err = parse_min_should(p, at, &last);
        else
            err = bad(p, "unknown field; a filter has must, should, must_not and min_should");
        if (err == KITH_OK)
            pop(p, before);
    }
    return err;
}

static enum kith_err parse_filter(struct parser *p, uint32_t *out)
{
    uint32_t at = 0;
    if (p->depth == KITH_FILTER_DEPTH_MAX)
        return kith_fail(p->diag, KITH_TOO_BIG, "%s: filters nest at most %u deep", p->where,
                         KITH_FILTER_DEPTH_MAX);
    enum kith_err err = add_node(p, KITH_FILTER_ALL, &at);
    if (err != KITH_OK)
        return err;
    p->depth++;
    err = parse_filter_members(p, at);
    p->depth--;
    if (err == KITH_OK)
        *out = at;
    return err;
}

enum kith_err kith_filter_parse(struct kith_filter *out, struct kith_bytes msgpack,
                                const char *where, struct kith_diag *diag)
{
    struct parser p = {.filter = out, .c = kith_cursor_of(msgpack.data, msgpack.len), .diag = diag};
    uint32_t root;
    out->n_nodes = 0;
    out->n_values = 0;
    if (msgpack.len == 0)
        return KITH_OK;
    push(&p, "%s", where);
    enum kith_err err = parse_filter(&p, &root);
    if (err == KITH_OK && !kith_cursor_done(&p.c))
        err = bad(&p, "malformed: bytes behind the filter");
    if (err != KITH_OK)
        out->n_nodes = 0;
    return err;
}

bool kith_filter_read_id(struct kith_cursor *c, struct kith_id *out)
{
    struct kith_value v;
    if (kith_read_peek(c) != KITH_WIRE_STR)
        return kith_read_id(c, out);
    return kith_read_value(c, &v) &&
           kith_id_parse_uuid((const char *)v.bytes.data, v.bytes.len, out);
}
