#include "shard/index/ivf_kernels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_testing.h"
#include "shard/index/ivf_format.h"

/* Memory that ends where reading becomes a fault. */
#define FENCED_BYTES (1u << 20)
static uint8_t *fence;

static int set_up(void **state)
{
    fence = test_fence(FENCED_BYTES);
    return fence != NULL ? random_set_up(state) : -1;
}

static void *aligned(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    assert_non_null(memory);
    return memory;
}

/* ---- lists ----------------------------------------------------------------------------------- */

#define LISTS 400u /* spans of 128 that do and do not fill up */
#define DIM4  40u

static void compare_lists(uint32_t dim4, uint32_t n)
{
    size_t bytes = (size_t)n * dim4 * 4;
    int8_t *centroids = (int8_t *)fence - bytes;
    int8_t query[DIM4 * 4];
    float minus[LISTS];
    for (size_t i = 0; i < bytes; i++)
        centroids[i] = (int8_t)((int)random_below(255) - 127);
    for (uint32_t i = 0; i < dim4 * 4; i++)
        query[i] = (int8_t)((int)random_below(255) - 127);
    for (uint32_t i = 0; i < n; i++)
        minus[i] = random_unit() * 100;
    struct ivf_kernels_lists lists = {centroids, minus, query, dim4, n, 0.0123f};
    static float want[2][LISTS], want_maxima[2][LISTS], got[LISTS], maxima[LISTS];
    ivf_kernels_scalar.rank_lists(&lists, want[0], want_maxima[0]);
    ivf_kernels_scalar.rank_lists_l1(&lists, want[1], want_maxima[1]);
    for (uint32_t v = 1; ivf_kernels_variant(v) != NULL; v++)
        for (int l1 = 0; l1 < 2; l1++) {
            const struct ivf_kernels *variant = ivf_kernels_variant(v);
            (l1 ? variant->rank_lists_l1 : variant->rank_lists)(&lists, got, maxima);
            uint32_t spans = (n + IVF_KERNELS_SPAN - 1) / IVF_KERNELS_SPAN;
            for (uint32_t i = 0; i < n; i++)
                if (!(got[i] == want[l1][i]))
                    fail_msg("%s l1 %d dim4 %u list %u: %a, scalar says %a", variant->name, l1,
                             dim4, i, (double)got[i], (double)want[l1][i]);
            for (uint32_t i = 0; i < spans * IVF_KERNELS_LANES; i++)
                assert_true(maxima[i] == want_maxima[l1][i]);
        }
}

/* Other queries beside it change nothing for a query. */
static void compare_batches(uint32_t dim4, uint32_t n)
{
    size_t bytes = (size_t)n * dim4 * 4;
    int8_t *centroids = (int8_t *)fence - bytes;
    static int8_t query[IVF_KERNELS_BATCH][DIM4 * 4];
    static float minus[LISTS], want[LISTS], want_maxima[LISTS];
    static float got[IVF_KERNELS_BATCH][LISTS], maxima[IVF_KERNELS_BATCH][LISTS];
    float *keys_at[IVF_KERNELS_BATCH], *maxima_at[IVF_KERNELS_BATCH];
    struct ivf_kernels_lists lists[IVF_KERNELS_BATCH];
    for (size_t i = 0; i < bytes; i++)
        centroids[i] = (int8_t)((int)random_below(255) - 127);
    for (uint32_t i = 0; i < n; i++)
        minus[i] = random_unit() * 100;
    for (uint32_t q = 0; q < IVF_KERNELS_BATCH; q++) {
        for (uint32_t i = 0; i < dim4 * 4; i++)
            query[q][i] = (int8_t)((int)random_below(255) - 127);
        lists[q] = (struct ivf_kernels_lists){centroids, minus, query[q], dim4, n, random_unit()};
        keys_at[q] = got[q];
        maxima_at[q] = maxima[q];
    }
    for (uint32_t v = 1; ivf_kernels_variant(v) != NULL; v++) {
        if (ivf_kernels_variant(v)->rank_batch == NULL)
            continue;
        ivf_kernels_variant(v)->rank_batch(lists, keys_at, maxima_at);
        for (uint32_t q = 0; q < IVF_KERNELS_BATCH; q++) {
            ivf_kernels_scalar.rank_lists(&lists[q], want, want_maxima);
            for (uint32_t i = 0; i < n; i++)
                assert_true(got[q][i] == want[i]);
            uint32_t spans = (n + IVF_KERNELS_SPAN - 1) / IVF_KERNELS_SPAN;
            for (uint32_t i = 0; i < spans * IVF_KERNELS_LANES; i++)
                assert_true(maxima[q][i] == want_maxima[i]);
        }
    }
}

static void test_ivf_kernels_rank_lists_alike(void **state)
{
    (void)state;
    for (uint32_t dim4 = 1; dim4 <= DIM4; dim4++) {
        compare_lists(dim4, 16 * (1 + random_below(LISTS / 16)));
        compare_batches(dim4, 16 * (1 + random_below(LISTS / 16)));
    }
}

/* Lists of `most` rows at most, some of them empty. */
static void compare_counts(uint32_t n, uint32_t most)
{
    static uint32_t lists[LISTS + 1], want[LISTS], got[LISTS];
    for (uint32_t i = 0; i < n; i++)
        lists[i + 1] = lists[i] + random_below(most + 1);
    uint32_t n_words = lists[n] / 64 + (lists[n] % 64 != 0);
    uint64_t *allowed = (uint64_t *)fence - n_words;
    for (uint32_t i = 0; i < n_words; i++)
        allowed[i] = (uint64_t)random_u32() << 32 | random_u32();
    for (uint32_t i = 0; i < n; i++) {
        want[i] = 0;
        for (uint32_t row = lists[i]; row < lists[i + 1]; row++)
            want[i] += (uint32_t)(allowed[row / 64] >> (row % 64) & 1);
    }
    for (uint32_t v = 0; ivf_kernels_variant(v) != NULL; v++) {
        ivf_kernels_variant(v)->count_rows(allowed, lists, n, got);
        assert_memory_equal(got, want, n * sizeof *want);
    }
}

static void test_ivf_kernels_count_rows_alike(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 100; round++)
        compare_counts(random_below(LISTS) + 1, random_below(round % 2 == 0 ? 9 : 1000));
}

static void compare_picks(float low, float high, uint32_t n, const float *keys)
{
    static float maxima[LISTS];
    static uint32_t want[LISTS + IVF_KERNELS_SLACK], got[LISTS + IVF_KERNELS_SLACK];
    for (uint32_t i = 0; i < n; i++) {
        float *maximum = &maxima[i / IVF_KERNELS_SPAN * IVF_KERNELS_LANES + i % IVF_KERNELS_LANES];
        if (i % IVF_KERNELS_SPAN < IVF_KERNELS_LANES || keys[i] > *maximum)
            *maximum = keys[i];
    }
    uint32_t n_want = ivf_kernels_scalar.pick(keys, maxima, n, low, high, want);
    uint32_t count = ivf_kernels_scalar.count(keys, n, low);
    for (uint32_t v = 1; ivf_kernels_variant(v) != NULL; v++) {
        assert_int_equal(ivf_kernels_variant(v)->pick(keys, maxima, n, low, high, got), n_want);
        assert_memory_equal(got, want, n_want * sizeof *want);
        assert_int_equal(ivf_kernels_variant(v)->count(keys, n, low), count);
    }
}

static void test_ivf_kernels_pick_alike(void **state)
{
    (void)state;
    float keys[LISTS];
    for (uint32_t round = 0; round < 200; round++) {
        uint32_t n = 16 * (1 + random_below(LISTS / 16));
        for (uint32_t i = 0; i < n; i++)
            keys[i] = (float)random_below(64) - 32;
        float low = (float)random_below(64) - 32;
        compare_picks(low, low + (float)random_below(20), n, keys);
        compare_picks(-INFINITY, INFINITY, n, keys);
    }
}

/* ---- the query ------------------------------------------------------------------------------- */

#define SUBS 40u

static void compare_tables(uint32_t n_subs, uint32_t sub_dim)
{
    static float query[SUBS * 9], words[SUBS * 9 * 16];
    static float want[SUBS * 16], low[SUBS], high[SUBS], got[SUBS * 16], lows[SUBS], highs[SUBS];
    for (uint32_t i = 0; i < n_subs * sub_dim; i++)
        query[i] = random_unit();
    for (uint32_t i = 0; i < n_subs * sub_dim * 16; i++)
        words[i] = random_unit();
    struct ivf_kernels_subs subs = {query, words, n_subs, sub_dim};
    ivf_kernels_scalar.products(&subs, want, low, high);
    uint8_t *bytes = aligned(2 * SUBS * 32), *others = bytes + SUBS * 32;
    ivf_kernels_scalar.tables(want, low, n_subs, 17.3f / (float)sub_dim, bytes);
    for (uint32_t v = 1; ivf_kernels_variant(v) != NULL; v++) {
        const struct ivf_kernels *variant = ivf_kernels_variant(v);
        variant->products(&subs, got, lows, highs);
        for (uint32_t i = 0; i < n_subs * 16; i++)
            assert_true(got[i] == want[i]);
        for (uint32_t i = 0; i < n_subs; i++)
            assert_true(lows[i] == low[i] && highs[i] == high[i]);
        memset(others, 0xff, SUBS * 32);
        variant->tables(want, low, n_subs, 17.3f / (float)sub_dim, others);
        assert_memory_equal(others, bytes, ivf_kernels_tables_bytes(n_subs));
    }
    free(bytes);
}

static void test_ivf_kernels_fill_tables_alike(void **state)
{
    (void)state;
    for (uint32_t sub_dim = 1; sub_dim <= 9; sub_dim++)
        for (uint32_t n_subs = 2; n_subs <= SUBS; n_subs += 2)
            compare_tables(n_subs, sub_dim);
}

static void test_ivf_kernels_round_alike(void **state)
{
    (void)state;
    float values[100];
    int8_t want[100], got[100];
    for (uint32_t n = 1; n <= 100; n++) {
        for (uint32_t i = 0; i < n; i++) /* also halves, which are ties */
            values[i] = i % 3 == 0 ? (float)random_below(200) / 2 - 50 : random_unit() * 127;
        ivf_kernels_scalar.round(values, n, 1.0f, want);
        for (uint32_t v = 1; ivf_kernels_variant(v) != NULL; v++) {
            ivf_kernels_variant(v)->round(values, n, 1.0f, got);
            assert_memory_equal(got, want, n);
        }
    }
}

/* ---- codes ----------------------------------------------------------------------------------- */

#define SCAN_ROWS 300u

static int16_t random_i16(void)
{
    return (int16_t)(random_u32() >> 16);
}

struct found {
    uint32_t n;
    uint64_t blocks;
    uint32_t rows[SCAN_ROWS];
    int16_t estimates[SCAN_ROWS];
};

static void compare_scans(const struct ivf_kernels_scan *scan, uint32_t first, uint32_t end)
{
    static struct found want, got;
    want.blocks = 0;
    want.n = ivf_kernels_scalar.scan(scan, first, end, want.rows, want.estimates, &want.blocks);
    for (uint32_t v = 1; ivf_kernels_variant(v) != NULL; v++) {
        const struct ivf_kernels *variant = ivf_kernels_variant(v);
        got.blocks = 0;
        got.n = variant->scan(scan, first, end, got.rows, got.estimates, &got.blocks);
        if (got.n != want.n || got.blocks != want.blocks ||
            memcmp(got.rows, want.rows, want.n * sizeof *want.rows) != 0 ||
            memcmp(got.estimates, want.estimates, want.n * sizeof *want.estimates) != 0)
            fail_msg("%s with %u subs, rows %u to %u: %u rows, scalar says %u", variant->name,
                     scan->n_subs, first, end, got.n, want.n);
        got.n = variant->scan(scan, first, end, got.rows, NULL, &got.blocks);
        assert_int_equal(got.n, want.n);
        assert_memory_equal(got.rows, want.rows, want.n * sizeof *want.rows);
    }
}

#define LINE_ROWS   2000u /* in the lines of several registers */
#define LINE_BLOCKS (LINE_ROWS / IVF_BLOCK + 2)

struct blocks {
    uint32_t blocks[LINE_BLOCKS + IVF_KERNELS_SLACK], open[LINE_BLOCKS + IVF_KERNELS_SLACK];
    int16_t bounds[LINE_BLOCKS + IVF_KERNELS_SLACK];
};

static struct ivf_kernels_line line_at(struct blocks *blocks, uint32_t at)
{
    return (struct ivf_kernels_line){blocks->blocks + at, blocks->open + at, blocks->bounds + at};
}

/* Row by row. */
static uint32_t line_up(const uint64_t *allowed, uint32_t first, uint32_t end, int16_t bound,
                        struct blocks *out)
{
    uint32_t n = 0;
    for (uint32_t row = first; row < end; row++) {
        if (allowed != NULL && (allowed[row / 64] >> (row % 64) & 1) == 0)
            continue;
        if (n == 0 || out->blocks[n - 1] != row / IVF_BLOCK) {
            out->blocks[n] = row / IVF_BLOCK;
            out->open[n] = 0;
            out->bounds[n++] = bound;
        }
        out->open[n - 1] |= 1u << row % IVF_BLOCK;
    }
    return n;
}

static void compare_lines(const uint64_t *allowed, uint32_t first, uint32_t end)
{
    static struct blocks want, got;
    int16_t bound = random_i16();
    uint32_t n = line_up(allowed, first, end, bound, &want);
    for (uint32_t v = 0; ivf_kernels_variant(v) != NULL; v++) {
        const struct ivf_kernels *variant = ivf_kernels_variant(v);
        uint32_t n_got = variant->line_up(allowed, first, end, bound, line_at(&got, 0));
        if (n_got != n || memcmp(got.blocks, want.blocks, n * sizeof *want.blocks) != 0 ||
            memcmp(got.open, want.open, n * sizeof *want.open) != 0 ||
            memcmp(got.bounds, want.bounds, n * sizeof *want.bounds) != 0)
            fail_msg("%s, rows %u to %u: %u blocks, not %u, or others", variant->name, first, end,
                     n_got, n);
    }
}

static void test_ivf_kernels_line_up_alike(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 500; round++) {
        uint32_t first = random_below(LINE_ROWS), most = round % 2 == 0 ? 100 : LINE_ROWS;
        uint32_t end = first + random_below(most) + 1;
        end = end < LINE_ROWS ? end : LINE_ROWS;
        uint64_t *allowed = (uint64_t *)fence - (end + 63) / 64;
        for (uint32_t i = 0; i < (end + 63) / 64; i++)
            allowed[i] = round % 3 == 0 ? UINT64_C(1) << random_below(64)
                                        : (uint64_t)random_u32() << 32 | random_u32();
        compare_lines(allowed, first, end);
        compare_lines(NULL, first, end);
    }
}

/* The blocks of these rows, last one first: the rows found are the same. */
static void compare_blocks(const struct ivf_kernels_scan *scan, uint32_t first, uint32_t end)
{
    static struct blocks lined_up, blocks;
    struct ivf_kernels_found found[SCAN_ROWS / IVF_BLOCK + 1];
    static struct found want;
    uint64_t scanned = 0;
    want.n = ivf_kernels_scalar.scan(scan, first, end, want.rows, NULL, &scanned);
    uint32_t n = line_up(scan->allowed, first, end, scan->bound, &lined_up);
    for (uint32_t i = 0; i < n; i++) {
        blocks.blocks[i] = lined_up.blocks[n - 1 - i];
        blocks.open[i] = lined_up.open[n - 1 - i];
        blocks.bounds[i] = lined_up.bounds[n - 1 - i];
    }
    struct ivf_kernels_scan other = *scan;
    other.bound = INT16_MAX; /* each block has its own */
    other.allowed = NULL;
    for (uint32_t v = 0; ivf_kernels_variant(v) != NULL; v++) {
        const struct ivf_kernels *variant = ivf_kernels_variant(v);
        uint32_t some = random_below(n + 1), at = want.n;
        uint32_t n_found = variant->scan_blocks(&other, line_at(&blocks, 0), some, n, found);
        n_found += variant->scan_blocks(&other, line_at(&blocks, some), n - some, n - some,
                                        found + n_found);
        for (uint32_t i = 0; i < n_found; i++)
            for (uint32_t r = IVF_BLOCK; r-- > 0;)
                if ((found[i].rows >> r & 1) != 0 &&
                    (at == 0 || want.rows[--at] != found[i].block * IVF_BLOCK + r))
                    fail_msg("%s with %u subs, rows %u to %u: row %u of block %u", variant->name,
                             scan->n_subs, first, end, r, found[i].block);
        assert_int_equal(at, 0);
    }
}

/* A group of 8 table bytes sums to 255 at most. */
static void random_tables(uint8_t *tables, uint32_t n_subs)
{
    memset(tables, 0, ivf_kernels_tables_bytes(n_subs));
    for (uint32_t s = 0; s < n_subs; s++)
        for (uint32_t i = 0; i < 16; i++)
            tables[ivf_kernels_table(s) + i] = tables[ivf_kernels_table(s) + 16 + i] =
                (uint8_t)random_below(32);
}

static void scan_shape(uint32_t n_subs)
{
    size_t blocks = ivf_format_blocks(SCAN_ROWS);
    size_t code_bytes = blocks * ivf_format_block_bytes(n_subs);
    uint8_t *tables = aligned(ivf_kernels_tables_bytes(n_subs)), *codes = fence - code_bytes;
    int16_t *terms = aligned(ivf_format_terms_bytes(SCAN_ROWS));
    uint64_t allowed[SCAN_ROWS / 64 + 1];
    random_tables(tables, n_subs);
    for (size_t i = 0; i < code_bytes; i++)
        codes[i] = (uint8_t)random_u32();
    for (uint32_t i = 0; i < blocks * IVF_BLOCK; i++)
        terms[i] = random_i16();
    const struct ivf_kernels_ahead ahead = {codes, terms};
    for (uint32_t round = 0; round < 40; round++) {
        uint32_t kind = random_below(4);
        for (uint32_t i = 0; i < SCAN_ROWS / 64 + 1; i++)
            allowed[i] = kind == 0   ? 0
                         : kind == 1 ? UINT64_C(1) << random_below(64)
                                     : (uint64_t)random_u32() << 32 | random_u32();
        struct ivf_kernels_scan scan = {
            .codes = codes,
            .terms = terms,
            .tables = tables,
            .allowed = kind == 3 ? NULL : allowed,
            .ahead = &ahead,
            .n_ahead = round % 2,
            .n_subs = n_subs,
            .bias = (int16_t)(-(int32_t)((n_subs + 7) / 8 * 255 / 2)),
            .factor = (int16_t)(round % 3 == 0 ? (int)random_below(300) : random_i16() | 1),
            .bound = (int16_t)(round % 5 == 0 ? INT16_MIN : random_i16() / 16),
            .shift = (uint16_t)random_below(4),
        };
        uint32_t first = random_below(SCAN_ROWS);
        uint32_t end = first + random_below(SCAN_ROWS - first) + 1;
        compare_scans(&scan, first, end);
        compare_scans(&scan, 0, SCAN_ROWS);
        compare_blocks(&scan, first, end);
        compare_blocks(&scan, 0, SCAN_ROWS);
    }
    free(tables);
    free(terms);
}

static void test_ivf_kernels_scan_codes_alike(void **state)
{
    (void)state;
    for (uint32_t n_subs = 2; n_subs <= 100; n_subs += 2)
        scan_shape(n_subs);
    scan_shape(CODEBOOK_SUBS_MAX);
}

/* ---- rows of bytes --------------------------------------------------------------------------- */

#define ROWS8 5u

static void compare_scores(uint32_t row_bytes)
{
    static const uint32_t list[ROWS8] = {4, 0, 2, 1, 3};
    uint8_t *rows = fence - (size_t)ROWS8 * row_bytes, *query = aligned(row_bytes);
    for (size_t i = 0; i < (size_t)ROWS8 * row_bytes; i++)
        rows[i] = (uint8_t)random_u32();
    for (uint32_t i = 0; i < ROWS8; i++) {
        float tail[2] = {random_unit(), random_unit() * 1000};
        memcpy(rows + (i + 1) * row_bytes - IVF_ROW8_TAIL, tail, sizeof tail);
    }
    struct ivf_kernels_rows8 rows8 = {rows, query, row_bytes, 0, 0.07f};
    for (uint32_t i = 0; i < row_bytes; i++) {
        bool tail = i >= row_bytes - IVF_ROW8_TAIL;
        query[i] = tail ? 0 : (uint8_t)((int)random_below(255) - 127);
        rows8.minus += 128 * (int8_t)query[i];
    }
    float want[2][ROWS8], got[ROWS8];
    ivf_kernels_scalar.dot8(&rows8, list, ROWS8, want[0]);
    ivf_kernels_scalar.sad8(&rows8, list, ROWS8, want[1]);
    for (uint32_t v = 1; ivf_kernels_variant(v) != NULL; v++)
        for (int sad = 0; sad < 2; sad++) {
            const struct ivf_kernels *variant = ivf_kernels_variant(v);
            (sad ? variant->sad8 : variant->dot8)(&rows8, list, ROWS8, got);
            for (uint32_t i = 0; i < ROWS8; i++)
                if (!(got[i] == want[sad][i]))
                    fail_msg("%s sad %d, %u bytes, row %u: %a, scalar says %a", variant->name, sad,
                             row_bytes, i, (double)got[i], (double)want[sad][i]);
        }
    free(query);
}

static void test_ivf_kernels_score_bytes_alike(void **state)
{
    (void)state;
    for (uint32_t row_bytes = 64; row_bytes <= 2048; row_bytes += 64)
        compare_scores(row_bytes);
    compare_scores(ivf_format_row8_bytes(KITH_DIM_MAX));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ivf_kernels_rank_lists_alike),
        cmocka_unit_test(test_ivf_kernels_count_rows_alike),
        cmocka_unit_test(test_ivf_kernels_pick_alike),
        cmocka_unit_test(test_ivf_kernels_fill_tables_alike),
        cmocka_unit_test(test_ivf_kernels_round_alike),
        cmocka_unit_test(test_ivf_kernels_line_up_alike),
        cmocka_unit_test(test_ivf_kernels_scan_codes_alike),
        cmocka_unit_test(test_ivf_kernels_score_bytes_alike),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
