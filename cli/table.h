/* Tables for people: columns aligned by what a terminal shows, so that Chinese and emoji (two cells
 * each) do not push the rest aside.
 *
 * Owns: its cells. Threads: main. Errors: memory is out -> cells are empty, never a crash. */
#ifndef TABLE_H
#define TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define TABLE_COLUMNS_MAX 16u

struct table {
    /* Set by the caller before the first cell */
    size_t columns;
    bool right[TABLE_COLUMNS_MAX]; /* numbers align to the right */

    char **cells; /* row by row; the first row is the heading */
    size_t cells_n, cells_cap;
};

void table_cell(struct table *table, const char *text); /* copied; control bytes become spaces */
void table_cellf(struct table *table, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* width_max 0 = as wide as it gets; else the widest columns are cut, with an ellipsis. */
void table_print(const struct table *table, FILE *out, size_t width_max, bool colour);
void table_fini(struct table *table);

/* Cells that `n` bytes of UTF-8 take on a terminal; bytes that are no UTF-8 count one each. */
size_t table_width(const char *text, size_t n);
/* How many bytes of text fit into `width` cells. */
size_t table_fit(const char *text, size_t n, size_t width);

#endif
