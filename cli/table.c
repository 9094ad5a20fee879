/* Widths follow Unicode's East Asian Width (W and F take two cells) and the default of terminals
 * for emoji; combining marks, joiners and variation selectors take none. The ranges are merged from
 * EastAsianWidth.txt and the Mn/Me/Cf categories, as coarse as display needs: libc's wcwidth would
 * depend on the locale being set, which a program in a container cannot count on. */
#include "cli/table.h"

#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include "common/kith_mem.h"

struct range {
    uint32_t from, to;
};

static const struct range none[] = {
    {0x0300, 0x036f},   {0x0483, 0x0489},   {0x0591, 0x05bd}, {0x0610, 0x061a}, {0x064b, 0x065f},
    {0x0e31, 0x0e31},   {0x0e34, 0x0e3a},   {0x0e47, 0x0e4e}, {0x1ab0, 0x1aff}, {0x1dc0, 0x1dff},
    {0x200b, 0x200f},   {0x202a, 0x202e},   {0x2060, 0x2064}, {0x20d0, 0x20f0}, {0x302a, 0x302d},
    {0x3099, 0x309a},   {0xfe00, 0xfe0f},   {0xfe20, 0xfe2f}, {0xfeff, 0xfeff}, {0x1f3fb, 0x1f3ff},
    {0xe0001, 0xe007f}, {0xe0100, 0xe01ef},
};

static const struct range wide[] = {
    {0x1100, 0x115f},   {0x231a, 0x231b},   {0x2329, 0x232a},   {0x23e9, 0x23ec},
    {0x23f0, 0x23f0},   {0x23f3, 0x23f3},   {0x25fd, 0x25fe},   {0x2614, 0x2615},
    {0x2648, 0x2653},   {0x267f, 0x267f},   {0x2693, 0x2693},   {0x26a1, 0x26a1},
    {0x26aa, 0x26ab},   {0x26bd, 0x26be},   {0x26c4, 0x26c5},   {0x26ce, 0x26ce},
    {0x26d4, 0x26d4},   {0x26ea, 0x26ea},   {0x26f2, 0x26f3},   {0x26f5, 0x26f5},
    {0x26fa, 0x26fa},   {0x26fd, 0x26fd},   {0x2705, 0x2705},   {0x270a, 0x270b},
    {0x2728, 0x2728},   {0x274c, 0x274c},   {0x274e, 0x274e},   {0x2753, 0x2755},
    {0x2757, 0x2757},   {0x2795, 0x2797},   {0x27b0, 0x27b0},   {0x27bf, 0x27bf},
    {0x2b1b, 0x2b1c},   {0x2b50, 0x2b50},   {0x2b55, 0x2b55},   {0x2e80, 0x303e},
    {0x3041, 0x33ff},   {0x3400, 0x4dbf},   {0x4e00, 0x9fff},   {0xa000, 0xa4cf},
    {0xa960, 0xa97f},   {0xac00, 0xd7a3},   {0xf900, 0xfaff},   {0xfe10, 0xfe19},
    {0xfe30, 0xfe6f},   {0xff00, 0xff60},   {0xffe0, 0xffe6},   {0x16fe0, 0x18aff},
    {0x1b000, 0x1b2ff}, {0x1f004, 0x1f004}, {0x1f0cf, 0x1f0cf}, {0x1f18e, 0x1f18e},
    {0x1f191, 0x1f19a}, {0x1f1e6, 0x1f320}, {0x1f32d, 0x1f335}, {0x1f337, 0x1f37c},
    {0x1f37e, 0x1f393}, {0x1f3a0, 0x1f3ca}, {0x1f3cf, 0x1f3d3}, {0x1f3e0, 0x1f3f0},
    {0x1f3f4, 0x1f3f4}, {0x1f3f8, 0x1f43e}, {0x1f440, 0x1f440}, {0x1f442, 0x1f4fc},
    {0x1f4ff, 0x1f53d}, {0x1f54b, 0x1f54e}, {0x1f550, 0x1f567}, {0x1f57a, 0x1f57a},
    {0x1f595, 0x1f596}, {0x1f5a4, 0x1f5a4}, {0x1f5fb, 0x1f64f}, {0x1f680, 0x1f6c5},
    {0x1f6cc, 0x1f6cc}, {0x1f6d0, 0x1f6d2}, {0x1f6d5, 0x1f6d7}, {0x1f6dd, 0x1f6df},
    {0x1f6eb, 0x1f6ec}, {0x1f6f4, 0x1f6fc}, {0x1f7e0, 0x1f7eb}, {0x1f7f0, 0x1f7f0},
    {0x1f90c, 0x1f93a}, {0x1f93c, 0x1f945}, {0x1f947, 0x1f9ff}, {0x1fa70, 0x1faff},
    {0x20000, 0x3fffd},
};

static bool in_ranges(const struct range *ranges, size_t n, uint32_t c)
{
    size_t low = 0, high = n;

    while (low < high) {
        size_t mid = (low + high) / 2;
        if (c > ranges[mid].to)
            low = mid + 1;
        else
            high = mid;
    }
    return low < n && c >= ranges[low].from;
}

/* One code point; a byte that starts none is taken for itself. */
static size_t next(const char *text, size_t n, uint32_t *c)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t need = s[0] < 0xc2 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 1;

    *c = s[0];
    if (need == 1 || n < need)
        return 1;
    *c = s[0] & (0x7fu >> need);
    for (size_t i = 1; i < need; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            *c = s[0];
            return 1;
        }
        *c = *c << 6 | (s[i] & 0x3fu);
    }
    return need;
}

static size_t cells_of(uint32_t c)
{
    if (in_ranges(none, sizeof none / sizeof none[0], c))
        return 0;
    return in_ranges(wide, sizeof wide / sizeof wide[0], c) ? 2 : 1;
}

size_t table_fit(const char *text, size_t n, size_t width)
{
    size_t at = 0, used = 0;

    while (at < n) {
        uint32_t c;
        size_t step = next(text + at, n - at, &c);

        if (used + cells_of(c) > width)
            break;
        used += cells_of(c);
        at += step;
    }
    return at;
}

size_t table_width(const char *text, size_t n)
{
    size_t width = 0;

    for (size_t at = 0; at < n;) {
        uint32_t c;
        at += next(text + at, n - at, &c);
        width += cells_of(c);
    }
    return width;
}

void table_cell(struct table *table, const char *text)
{
    char *copy = kith_strdup(text);

    /* Stored text must not be able to move the cursor or change colours. C1 controls are the two
     * bytes c2 80 to c2 9f. */
    for (unsigned char *s = (unsigned char *)copy; s != NULL && *s != '\0'; s++) {
        if (*s < 0x20 || *s == 0x7f) {
            *s = ' ';
        } else if (s[0] == 0xc2 && s[1] >= 0x80 && s[1] <= 0x9f) {
            s[0] = ' ';
            s[1] = ' ';
        }
    }
    if (!kith_grow((void **)&table->cells, &table->cells_cap, table->cells_n + 1,
                   sizeof *table->cells)) {
        kith_free(copy);
        return;
    }
    table->cells[table->cells_n++] = copy;
}

void table_cellf(struct table *table, const char *fmt, ...)
{
    char text[512];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    table_cell(table, text);
}

static const char *cell(const struct table *table, size_t i)
{
    return table->cells[i] == NULL ? "" : table->cells[i];
}

/* Takes cells from the widest column until the row fits. */
static void squeeze(size_t *widths, size_t n, size_t width_max)
{
    for (;;) {
        size_t sum = 2 * (n - 1), widest = 0;

        for (size_t i = 0; i < n; i++) {
            sum += widths[i];
            if (widths[i] > widths[widest])
                widest = i;
        }
        if (sum <= width_max || widths[widest] <= 8)
            return;
        widths[widest]--;
    }
}

static void cell_print(const struct table *table, FILE *out, size_t i, size_t width)
{
    const char *text = cell(table, i);
    size_t n = strlen(text);
    size_t column = i % table->columns;
    size_t used = table_width(text, n);
    bool last = column + 1 == table->columns;

    if (used > width) {
        n = table_fit(text, n, width - 1);
        used = table_width(text, n) + 1;
    }
    if (table->right[column])
        fprintf(out, "%*s", (int)(width - used), "");
    fprintf(out, "%.*s%s", (int)n, text, text[n] == '\0' ? "" : "…");
    if (!last)
        fprintf(out, "%*s  ", table->right[column] ? 0 : (int)(width - used), "");
}

void table_print(const struct table *table, FILE *out, size_t width_max, bool colour)
{
    size_t widths[TABLE_COLUMNS_MAX] = {0};
    size_t rows = table->columns == 0 ? 0 : table->cells_n / table->columns;

    for (size_t i = 0; i < rows * table->columns; i++) {
        size_t width = table_width(cell(table, i), strlen(cell(table, i)));
        if (width > widths[i % table->columns])
            widths[i % table->columns] = width;
    }
    if (width_max > 0 && table->columns > 0)
        squeeze(widths, table->columns, width_max);
    for (size_t row = 0; row < rows; row++) {
        fputs(colour && row == 0 ? "\x1b[1m" : "", out);
        for (size_t column = 0; column < table->columns; column++)
            cell_print(table, out, row * table->columns + column, widths[column]);
        fputs(colour && row == 0 ? "\x1b[0m\n" : "\n", out);
    }
}

void table_fini(struct table *table)
{
    for (size_t i = 0; i < table->cells_n; i++)
        kith_free(table->cells[i]);
    kith_free(table->cells);
    table->cells = NULL;
    table->cells_n = 0;
    table->cells_cap = 0;
}
