#include "shard/query/scroll.h"

/* A page is the `limit` first candidates in a total order (key, then id), kept in a bounded heap
 * whose root is the worst of them. Every part offers candidates; what differs is how few it can
 * get away with:
 *
 *   by id, many matches    along the segment's order of ids, until `limit` were offered or the heap
 *                          is full and the next id is worse than its root
 *   by id, few matches     all of them: reading ids in row order beats probing the bitmap n times
 *   by field, column       along the column's sorted numbers, until `limit` rows were offered and
 *                          the value changes (rows of equal value are not in order of id)
 *   otherwise (heads, fields without a column)  all matches, with their payloads
 *
 * Lost: a k-way merge of ordered parts. It needs every part ordered, and heads are not. */

#include <stdlib.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/query/order.h"

#define FEW_MATCHES 8u /* of n rows: fewer than n / 8 are gone through one by one */

struct pick {
    struct order_key key;
    struct kith_id id;
    struct parts_spot spot;
};

struct page {
    const struct kith_msg_scroll *msg;
    const struct parts_scope *scope;
    bool by_field;
    struct order_spec spec;
    struct pick *picks; /* a heap: the root comes last in the page */
    size_t cap;
    uint32_t n, limit;
    struct segment_cache cache;
    struct kith_diag *diag;
};

static int compare_picks(const struct page *page, const struct pick *a, const struct pick *b)
{
    if (page->by_field) {
        int order = order_compare(&a->key, &b->key);
        if (order != 0)
            return page->spec.descending ? -order : order;
    }
    return kith_id_compare(&a->id, &b->id);
}

static void sift_up(struct page *page, uint32_t at)
{
    while (at > 0) {
        uint32_t parent = (at - 1) / 2;
        if (compare_picks(page, &page->picks[parent], &page->picks[at]) >= 0)
            return;
        struct pick swap = page->picks[parent];
        page->picks[parent] = page->picks[at];
        page->picks[at] = swap;
        at = parent;
    }
}

static void sift_down(struct page *page, uint32_t at)
{
    for (;;) {
        uint32_t worst = at;
        for (uint32_t child = 2 * at + 1; child <= 2 * at + 2 && child < page->n; child++)
            if (compare_picks(page, &page->picks[child], &page->picks[worst]) > 0)
                worst = child;
        if (worst == at)
            return;
        struct pick swap = page->picks[worst];
        page->picks[worst] = page->picks[at];
        page->picks[at] = swap;
        at = worst;
    }
}

/* *useless: the page is full and everything in it comes before this pick. */
static enum kith_err offer(struct page *page, const struct pick *pick, bool *useless)
{
    *useless = false;
    if (page->n < page->limit) {
        if (!kith_grow((void **)&page->picks, &page->cap, (size_t)page->n + 1, sizeof *page->picks))
            return kith_fail(page->diag, KITH_NOMEM, "scroll");
        page->picks[page->n] = *pick;
        sift_up(page, page->n++);
    } else if (compare_picks(page, pick, &page->picks[0]) < 0) {
        page->picks[0] = *pick;
        sift_down(page, 0);
    } else {
        *useless = true;
    }
    return KITH_OK;
}

/* ---- by id --------------------------------------------------------------------------------- */

static uint32_t seek_id(const struct segment *segment, const struct kith_id *from)
{
    uint32_t low = 0;
    uint32_t high = segment_rows(segment);
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        struct kith_id id = segment_id(segment, segment_by_id(segment, middle));
        if (kith_id_compare(&id, from) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static enum kith_err along_ids(struct page *page, const struct parts_spot *part,
                               const struct segment *segment, const struct bitmap *set)
{
    struct pick pick = {.spot = *part};
    uint32_t offered = 0;
    bool useless = false;
    enum kith_err err = KITH_OK;
    for (uint32_t i = page->msg->has_from ? seek_id(segment, &page->msg->from) : 0;
         err == KITH_OK && i < segment_rows(segment) && offered < page->limit && !useless; i++) {
        pick.spot.row = segment_by_id(segment, i);
        if (!bitmap_contains(set, pick.spot.row))
            continue;
        pick.id = segment_id(segment, pick.spot.row);
        err = offer(page, &pick, &useless);
        offered++;
    }
    return err;
}

static enum kith_err each_id(struct page *page, const struct parts_spot *part,
                             const struct bitmap *set)
{
    struct parts_walk walk = {0};
    struct pick pick = {.spot = *part};
    enum kith_err err = KITH_OK;
    while (err == KITH_OK && parts_next(&walk, set, &pick.spot.row)) {
        bool useless;
        if (parts_id(&pick.spot, &pick.id) &&
            (!page->msg->has_from || kith_id_compare(&pick.id, &page->msg->from) >= 0))
            err = offer(page, &pick, &useless);
    }
    return err;
}

/* ---- by field ------------------------------------------------------------------------------ */

/* Takes rows out of `set` as they are offered: a row with several values counts once. */
static enum kith_err along_column(struct page *page, const struct parts_spot *part,
                                  const struct column *column, struct bitmap *set)
{
    struct order_walk walk;
    struct order_key last = {0};
    struct pick pick = {.spot = *part};
    uint32_t offered = 0;
    enum kith_err err = KITH_OK;
    order_walk_start(&walk, column, &page->spec);
    while (err == KITH_OK && order_walk_next(&walk, &pick.key, &pick.spot.row)) {
        bool useless;
        if (offered >= page->limit && order_compare(&pick.key, &last) != 0)
            break;
        if (!bitmap_contains(set, pick.spot.row) || !parts_id(&pick.spot, &pick.id))
            continue;
        bitmap_remove(set, pick.spot.row);
        err = offer(page, &pick, &useless);
        last = pick.key;
        offered++;
    }
    return err;
}

static enum kith_err each_payload(struct page *page, const struct parts_spot *part,
                                  const struct bitmap *set)
{
    struct parts_walk walk = {0};
    struct pick pick = {.spot = *part};
    enum kith_err err = KITH_OK;
    while (err == KITH_OK && parts_next(&walk, set, &pick.spot.row)) {
        struct parts_row row;
        bool useless;
        err = parts_read(&pick.spot, true, &page->cache, &row, page->diag);
        if (err != KITH_OK || !order_of_payload(&page->spec, row.payload, &pick.key))
            continue;
        pick.id = row.id;
        err = offer(page, &pick, &useless);
    }
    return err;
}

static enum kith_err page_part(struct page *page, const struct parts_spot *part)
{
    const struct segment *segment = parts_segment(part->view, part->part);
    const struct column *column;
    struct bitmap *set = NULL;
    enum kith_err err = parts_match(page->scope, part->view, part->part, &set, page->diag);
    if (err != KITH_OK)
        return err;
    if (!page->by_field) {
        bool many = segment != NULL && bitmap_count(set) * FEW_MATCHES >= segment_rows(segment);
        err = many ? along_ids(page, part, segment, set) : each_id(page, part, set);
    } else {
        enum column_find_result found =
            segment != NULL ? parts_column(segment_columns(segment), page->spec.path, &column)
                            : COLUMN_NOT_INDEXED;
        if (found == COLUMN_FOUND)
            err = along_column(page, part, column, set);
        else if (found == COLUMN_NOT_INDEXED)
            err = each_payload(page, part, set);
    }
    bitmap_free(set);
    return err;
}

/* ---- the page ------------------------------------------------------------------------------ */

static int compare_for_sort(const void *left, const void *right, void *ctx)
{
    return compare_picks(ctx, left, right);
}

static enum kith_err write_page(struct page *page, struct records *out)
{
    const struct records_want want = {page->msg->with_payload, page->msg->with_vector};
    struct kith_buf order = {0};
    struct kith_writer w = {.write = kith_buf_sink, .sink = &order};
    enum kith_err err = KITH_OK;
    if (page->n > 1)
        qsort_r(page->picks, page->n, sizeof *page->picks, compare_for_sort, page);
    for (uint32_t i = 0; err == KITH_OK && i < page->n; i++) {
        kith_buf_reset(&order);
        if (page->by_field)
            order_write(&page->picks[i].key, &w);
        if (order.failed)
            err = kith_fail(page->diag, KITH_NOMEM, "scroll");
        else
            err = records_add(out, &want, &page->picks[i].spot,
                              (struct kith_bytes){order.data, order.len}, page->diag);
    }
    kith_buf_fini(&order);
    if (err == KITH_OK)
        records_finish(out);
    return err;
}

enum kith_err scroll_run(struct records *out, const struct parts_scope *scope,
                         const struct kith_msg_scroll *msg, struct kith_diag *diag)
{
    struct page page = {.msg = msg, .scope = scope, .limit = msg->limit, .diag = diag};
    enum kith_err err = KITH_OK;
    page.by_field = msg->order_key.len > 0;
    page.spec = (struct order_spec){.path = msg->order_key, .descending = msg->descending};
    page.spec.has_start = page.by_field && msg->start_from.len > 0;
    if (msg->limit > SCROLL_LIMIT_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "limit: at most %u points a page", KITH_K_MAX);
    if (page.spec.has_start && !order_parse(msg->start_from, &page.spec.start))
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "order_by.start_from: expected a number or an RFC 3339 time");
    for (uint32_t v = 0; page.limit > 0 && v < scope->n_views; v++)
        for (uint32_t part = 0; err == KITH_OK && part < parts_count(scope->views[v]); part++)
            err = page_part(&page, &(struct parts_spot){scope->views[v], part, 0});
    if (err == KITH_OK)
        err = write_page(&page, out);
    err = view_verdict(scope->views, scope->n_views, err, diag);
    kith_free(page.picks);
    segment_cache_fini(&page.cache);
    return err;
}
