#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "cli/table.h"
#include "common/kith_mem.h"

static size_t width(const char *text)
{
    return table_width(text, strlen(text));
}

static void test_table_width_is_what_a_terminal_shows(void **state)
{
    (void)state;
    assert_int_equal(width(""), 0);
    assert_int_equal(width("abc"), 3);
    assert_int_equal(width("如何退款"), 8);
    assert_int_equal(width("é"), 1);
    assert_int_equal(width("e\xcc\x81"), 1); /* e and a combining accent */
    assert_int_equal(width("😀"), 2);
    assert_int_equal(width("❤\xef\xb8\x8f"), 1); /* text heart and a variation selector */
    assert_int_equal(width("ｆｕｌｌ"), 8);
    assert_int_equal(width("\xff\xfe"), 2); /* no UTF-8: a cell each */
    assert_int_equal(width("\xe5\xa6"), 2); /* cut short: the same */
}

static void test_table_fit_never_cuts_a_character(void **state)
{
    (void)state;
    assert_int_equal(table_fit("如何", 6, 3), 3);
    assert_int_equal(table_fit("如何", 6, 4), 6);
    assert_int_equal(table_fit("a如", 4, 2), 1);
    assert_int_equal(table_fit("abc", 3, 0), 0);
}

static char *printed(const struct table *table, size_t width_max, bool colour)
{
    char *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);

    table_print(table, out, width_max, colour);
    fclose(out);
    return text;
}

static void assert_printed(const struct table *table, size_t width_max, bool colour,
                           const char *want)
{
    char *text = printed(table, width_max, colour);

    assert_string_equal(text, want);
    free(text);
}

static void fill(struct table *table)
{
    table->columns = 3;
    table->right[0] = true;
    table_cell(table, "N");
    table_cell(table, "WORD");
    table_cell(table, "MORE");
    table_cellf(table, "%d", 1);
    table_cell(table, "如何退款");
    table_cell(table, "a long text to cut");
    table_cellf(table, "%d", 10);
    table_cell(table, "hi");
    table_cell(table, "x");
}

static void test_table_aligns_wide_characters(void **state)
{
    struct table table = {0};

    (void)state;
    fill(&table);
    assert_printed(&table, 0, false,
                   " N  WORD      MORE\n"
                   " 1  如何退款  a long text to cut\n"
                   "10  hi        x\n");
    assert_printed(&table, 24, true,
                   "\x1b[1m N  WORD      MORE\x1b[0m\n"
                   " 1  如何退款  a long te…\n"
                   "10  hi        x\n");
    table_fini(&table);
    assert_int_equal(kith_mem_live(), 0);
}

static void test_table_lets_no_stored_text_drive_the_terminal(void **state)
{
    struct table table = {.columns = 1};

    (void)state;
    table_cell(&table, "a\x1b[31mb\nc\x7f"
                       "d\xc2\x9b"
                       "e");
    assert_printed(&table, 0, false, "a [31mb c d  e\n");
    table_fini(&table);
}

static void test_table_survives_missing_memory(void **state)
{
    (void)state;
    for (long n = 0; n < 12; n++) {
        struct table table = {0};

        kith_mem_fail_after(n);
        fill(&table);
        kith_mem_fail_after(-1);
        free(printed(&table, 0, false));
        table_fini(&table);
        assert_int_equal(kith_mem_live(), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_width_is_what_a_terminal_shows),
        cmocka_unit_test(test_table_fit_never_cuts_a_character),
        cmocka_unit_test(test_table_aligns_wide_characters),
        cmocka_unit_test(test_table_lets_no_stored_text_drive_the_terminal),
        cmocka_unit_test(test_table_survives_missing_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
