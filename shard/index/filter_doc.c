#include "shard/index/filter_doc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/storage/field_path.h"

/* ---- value lists --------------------------------------------------------------------------- */

enum item_type { ITEM_BOOL, ITEM_INT, ITEM_TEXT, ITEM_ID };

struct item {
    enum item_type type;
    union {
        int64_t number; /* BOOL, INT */
        struct kith_bytes text;
        struct kith_id id;
    };
};

struct filter_lists {
    uint32_t first[KITH_FILTER_NODES_MAX]; /* of each node, in items */
    uint32_t n[KITH_FILTER_NODES_MAX];
    struct item items[];
};

static int compare_items(const void *left, const void *right)
{
    const struct item *a = left;
    const struct item *b = right;
    if (a->type != b->type)
        return a->type < b->type ? -1 : 1;
    if (a->type == ITEM_ID)
        return kith_id_compare(&a->id, &b->id);
    if (a->type != ITEM_TEXT)
        return a->number < b->number ? -1 : a->number > b->number;
    if (a->text.len != b->text.len)
        return a->text.len < b->text.len ? -1 : 1;
    return a->text.len > 0 ? memcmp(a->text.data, b->text.data, a->text.len) : 0;
}

/* False for what no list can hold: floats, null, and integers beyond i64 (they equal nothing). */
static bool item_of(const struct kith_value *value, struct item *out)
{
    if (value->type == KITH_WIRE_BOOL) {
        *out = (struct item){.type = ITEM_BOOL, .number = value->boolean};
    } else if (value->type == KITH_WIRE_STR) {
        *out = (struct item){.type = ITEM_TEXT, .text = value->bytes};
    } else if (value->type == KITH_WIRE_INT && value->negative) {
        *out = (struct item){.type = ITEM_INT, .number = value->i};
    } else if (value->type == KITH_WIRE_INT && value->u <= INT64_MAX) {
        *out = (struct item){.type = ITEM_INT, .number = (int64_t)value->u};
    } else {
        return false;
    }
    return true;
}

static bool next_item(const struct kith_filter_node *node, struct kith_cursor *c, struct item *out,
                      bool *usable)
{
    struct kith_value value;
    *usable = true;
    if (node->kind == KITH_FILTER_HAS_ID) {
        out->type = ITEM_ID;
        return kith_filter_read_id(c, &out->id);
    }
    if (!kith_read_value(c, &value))
        return false;
    *usable = item_of(&value, out);
    return true;
}

enum kith_err filter_lists_new(struct filter_lists **out, const struct kith_filter *filter,
                               struct kith_diag *diag)
{
    struct filter_lists *lists =
        kith_alloc(sizeof *lists + filter->n_values * sizeof lists->items[0]);
    uint32_t n = 0;
    if (lists == NULL)
        return kith_fail(diag, KITH_NOMEM, "filter lists");
    for (uint32_t i = 0; i < filter->n_nodes; i++) {
        const struct kith_filter_node *node = &filter->nodes[i];
        struct kith_cursor c = kith_cursor_of(node->values.data, node->values.len);
        struct item item;
        bool usable;
        lists->first[i] = n;
        for (uint32_t v = 0; v < node->n_values && next_item(node, &c, &item, &usable); v++)
            if (usable && n < filter->n_values)
                lists->items[n++] = item;
        lists->n[i] = n - lists->first[i];
        if (lists->n[i] > 1)
            qsort(lists->items + lists->first[i], lists->n[i], sizeof item, compare_items);
    }
    *out = lists;
    return KITH_OK;
}

void filter_lists_free(struct filter_lists *lists)
{
    kith_free(lists);
}

/* ---- one point ----------------------------------------------------------------------------- */

struct doc {
    const struct kith_filter *filter;
    const struct filter_lists *lists;
    const struct kith_id *id;
};

struct leaf {
    const struct doc *doc;
    const struct kith_filter_node *node;
};

static bool in_list(const struct doc *doc, const struct kith_filter_node *node,
                    const struct item *wanted)
{
    if (doc->lists != NULL) {
        size_t i = (size_t)(node - doc->filter->nodes);
        return doc->lists->n[i] > 0 &&
               bsearch(wanted, doc->lists->items + doc->lists->first[i], doc->lists->n[i],
                       sizeof *wanted, compare_items) != NULL;
    }
    struct kith_cursor c = kith_cursor_of(node->values.data, node->values.len);
    struct item item;
    bool usable;
    for (uint32_t v = 0; v < node->n_values && next_item(node, &c, &item, &usable); v++)
        if (usable && compare_items(&item, wanted) == 0)
            return true;
    return false;
}

static bool in_range(const struct kith_filter_node *node, double value)
{
    if (isnan(value))
        return false;
    if (node->has_low && (node->low_open ? value <= node->low : value < node->low))
        return false;
    return !node->has_high || (node->high_open ? value < node->high : value <= node->high);
}

static bool in_time_range(const struct kith_filter_node *node, struct kith_bytes text)
{
    int64_t us;
    if (!kith_parse_time(text, &us))
        return false;
    if (node->has_low && (node->low_open ? us <= node->low_us : us < node->low_us))
        return false;
    return !node->has_high || (node->high_open ? us < node->high_us : us <= node->high_us);
}

/* One value of a field: an element of its array, or itself when it is none. */
static bool value_matches(const struct leaf *leaf, const struct kith_value *value)
{
    const struct kith_filter_node *node = leaf->node;
    struct item item;
    bool number = value->type == KITH_WIRE_INT || value->type == KITH_WIRE_FLOAT;
    switch (node->kind) {
    case KITH_FILTER_MATCH_ANY:
        return item_of(value, &item) && in_list(leaf->doc, node, &item);
    case KITH_FILTER_MATCH_EXCEPT:
        return value->type != KITH_WIRE_NIL &&
               !(item_of(value, &item) && in_list(leaf->doc, node, &item));
    case KITH_FILTER_RANGE:
        return number && in_range(node, value->f);
    case KITH_FILTER_TIME_RANGE:
        return value->type == KITH_WIRE_STR && in_time_range(node, value->bytes);
    case KITH_FILTER_IS_NULL:
        return value->type == KITH_WIRE_NIL;
    default:
        return false;
    }
}

static bool on_any_value(void *ctx, struct kith_bytes bytes)
{
    const struct leaf *leaf = ctx;
    struct kith_cursor c = kith_cursor_of(bytes.data, bytes.len);
    struct kith_value value;
    if (!kith_read_value(&c, &value))
        return false;
    if (value.type != KITH_WIRE_ARRAY)
        return value_matches(leaf, &value);
    for (uint32_t n = value.count; n > 0; n--) {
        struct kith_cursor element = c;
        if (!kith_read_skip(&c, NULL) || !kith_read_value(&element, &value))
            return false;
        if (value_matches(leaf, &value))
            return true;
    }
    return false;
}

static bool on_not_empty(void *ctx, struct kith_bytes bytes)
{
    (void)ctx;
    struct kith_cursor c = kith_cursor_of(bytes.data, bytes.len);
    struct kith_value value;
    return kith_read_value(&c, &value) && value.type != KITH_WIRE_NIL &&
           !(value.type == KITH_WIRE_ARRAY && value.count == 0);
}

static bool on_count(void *ctx, struct kith_bytes bytes)
{
    const struct leaf *leaf = ctx;
    struct kith_cursor c = kith_cursor_of(bytes.data, bytes.len);
    struct kith_value value;
    if (!kith_read_value(&c, &value))
        return false;
    uint32_t count = value.type == KITH_WIRE_ARRAY ? value.count : value.type != KITH_WIRE_NIL;
    return in_range(leaf->node, count);
}

static bool eval(const struct doc *doc, uint32_t node, struct kith_bytes payload);

static bool on_objects(void *ctx, struct kith_bytes bytes)
{
    const struct leaf *leaf = ctx;
    struct kith_cursor c = kith_cursor_of(bytes.data, bytes.len);
    uint32_t n;
    if (kith_read_peek(&c) != KITH_WIRE_ARRAY || !kith_read_array(&c, &n))
        return false;
    for (; n > 0; n--) {
        struct kith_bytes element;
        bool object = kith_read_peek(&c) == KITH_WIRE_MAP;
        if (!kith_read_skip(&c, &element))
            return false;
        if (object && eval(leaf->doc, leaf->node->first_child, element))
            return true;
    }
    return false;
}

static uint32_t count_children(const struct doc *doc, const struct kith_filter_node *node,
                               uint32_t enough, struct kith_bytes payload)
{
    uint32_t n = 0;
    for (uint32_t child = node->first_child; child != KITH_FILTER_NO_NODE && n < enough;
         child = doc->filter->nodes[child].next_sibling)
        n += eval(doc, child, payload);
    return n;
}

static bool eval_all(const struct doc *doc, const struct kith_filter_node *node,
                     struct kith_bytes payload)
{
    for (uint32_t child = node->first_child; child != KITH_FILTER_NO_NODE;
         child = doc->filter->nodes[child].next_sibling)
        if (!eval(doc, child, payload))
            return false;
    return true;
}

static bool eval(const struct doc *doc, uint32_t at, struct kith_bytes payload)
{
    const struct kith_filter_node *node = &doc->filter->nodes[at];
    struct leaf leaf = {doc, node};
    switch (node->kind) {
    case KITH_FILTER_ALL:
        return eval_all(doc, node, payload);
    case KITH_FILTER_ANY:
        return count_children(doc, node, 1, payload) == 1;
    case KITH_FILTER_NONE:
        return count_children(doc, node, 1, payload) == 0;
    case KITH_FILTER_AT_LEAST:
        return count_children(doc, node, node->min_count, payload) == node->min_count;
    case KITH_FILTER_HAS_ID:
        return in_list(doc, node, &(struct item){.type = ITEM_ID, .id = *doc->id});
    case KITH_FILTER_IS_EMPTY:
        return !field_path_visit(payload, node->key, on_not_empty, NULL);
    case KITH_FILTER_VALUES_COUNT:
        return field_path_visit(payload, node->key, on_count, &leaf);
    case KITH_FILTER_NESTED:
        return field_path_visit(payload, node->key, on_objects, &leaf);
    default:
        return field_path_visit(payload, node->key, on_any_value, &leaf);
    }
}

bool filter_doc_node(const struct kith_filter *filter, const struct filter_lists *lists,
                     uint32_t node, const struct kith_id *id, struct kith_bytes payload)
{
    kith_assert(node < filter->n_nodes);
    const struct doc doc = {filter, lists, id};
    return eval(&doc, node, payload);
}

bool filter_doc(const struct kith_filter *filter, const struct filter_lists *lists,
                const struct kith_id *id, struct kith_bytes payload)
{
    return filter->n_nodes == 0 || filter_doc_node(filter, lists, 0, id, payload);
}
