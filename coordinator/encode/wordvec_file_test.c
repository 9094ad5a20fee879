/* A table built by hand: what the converter never writes must be refused, checksums right or not.
 * Tables as the converter writes them are opened in wordvec_convert_test. */
#include "coordinator/encode/wordvec_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "coordinator/encode/textfold.h"
#include "proto/kith_crc32c.h"

struct table {
    struct wordvec_header head;
    struct wordvec_layout at;
    uint8_t *bytes;
};

/* Two words of two dimensions, "the" and "of", before sealing. */
static struct table table_make(void)
{
    struct table t = {0};
    memcpy(t.head.magic, WORDVEC_FILE_MAGIC, sizeof t.head.magic);
    t.head.version = WORDVEC_FILE_VERSION;
    t.head.fold_version = TEXTFOLD_VERSION;
    t.head.dim = 2;
    t.head.words = 2;
    t.head.slots = 8;
    t.head.text_bytes = 5;
    t.head.word_cps_max = 3;
    t.head.norm_mean = 1;
    assert_true(wordvec_file_layout(&t.head, &t.at));
    t.head.file_bytes = t.at.end;
    t.bytes = calloc(1, t.at.end);
    static const float vectors[] = {1, 2, 3, 4};
    static const uint32_t offsets[] = {0, 3, 5};
    memcpy(t.bytes + t.at.vectors, vectors, sizeof vectors);
    memcpy(t.bytes + t.at.offsets, offsets, sizeof offsets);
    memcpy(t.bytes + t.at.text, "theof", 5);
    struct wordvec_slot *index = (struct wordvec_slot *)(void *)(t.bytes + t.at.index);
    for (uint32_t row = 0; row < 2; row++) {
        uint64_t hash = wordvec_file_hash(row == 0 ? "the" : "of", row == 0 ? 3 : 2);
        uint64_t slot = hash % 8;
        while (index[slot].row != 0) {
            slot = (slot + 1) % 8;
        }
        index[slot] = (struct wordvec_slot){.tag = (uint32_t)(hash >> 32), .row = row + 1};
    }
    return t;
}

static void table_seal(struct table *t)
{
    t->head.crc_vectors = kith_crc32c(0, t->bytes + t->at.vectors, 16);
    t->head.crc_offsets = kith_crc32c(0, t->bytes + t->at.offsets, 12);
    t->head.crc_text = kith_crc32c(0, t->bytes + t->at.text, 5);
    t->head.crc_index = kith_crc32c(0, t->bytes + t->at.index, 64);
    t->head.crc_header = kith_crc32c(0, &t->head, offsetof(struct wordvec_header, crc_header));
    memcpy(t->bytes, &t->head, sizeof t->head);
}

static enum kith_err open_sealed(struct table *t)
{
    struct wordvec_file file = {0};
    table_seal(t);
    enum kith_err err = wordvec_file_view(&file, t->bytes, t->at.end, NULL);
    assert_true((err == KITH_OK) == (file.vectors != NULL));
    free(t->bytes);
    return err;
}

static void test_wordvec_file_finds_words(void **state)
{
    (void)state;
    struct table t = table_make();
    struct wordvec_file file = {0};
    table_seal(&t);
    assert_int_equal(wordvec_file_view(&file, t.bytes, t.at.end, NULL), KITH_OK);
    assert_int_equal(wordvec_file_find(&file, "the", 3), 0);
    assert_int_equal(wordvec_file_find(&file, "of", 2), 1);
    assert_int_equal(wordvec_file_find(&file, "off", 3), -1);
    assert_int_equal(wordvec_file_find(&file, "", 0), -1);
    assert_true(wordvec_file_row(&file, 1)[1] == 4);
    for (size_t len = 0; len < t.at.end; len++) { /* each shorter file */
        assert_int_equal(wordvec_file_view(&file, t.bytes, len, NULL), KITH_CORRUPT);
    }
    free(t.bytes);
}

static void test_wordvec_file_refuses_headers_that_lie(void **state)
{
    (void)state;
    for (int i = 0; i < 12; i++) {
        struct table t = table_make();
        switch (i) {
        case 0:
            t.head.magic[0] = 'X';
            break;
        case 1:
            t.head.version = 2;
            break;
        case 2:
            t.head.fold_version = 99;
            break;
        case 3:
            t.head.dim = 0;
            break;
        case 4:
            t.head.dim = UINT32_MAX;
            break;
        case 5:
            t.head.words = UINT32_MAX;
            break;
        case 6:
            t.head.slots = 6;
            break;
        case 7:
            t.head.slots = 2;
            break;
        case 8:
            t.head.slots = UINT64_MAX;
            break;
        case 9:
            t.head.text_bytes = UINT64_MAX;
            break;
        case 10:
            t.head.word_cps_max = 0;
            break;
        default:
            t.head.norm_mean = 0;
            break;
        }
        assert_int_equal(open_sealed(&t), KITH_CORRUPT);
    }
}

static void test_wordvec_file_refuses_sections_that_lie(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++) {
        struct table t = table_make();
        uint32_t *offsets = (uint32_t *)(void *)(t.bytes + t.at.offsets);
        struct wordvec_slot *index = (struct wordvec_slot *)(void *)(t.bytes + t.at.index);
        switch (i) {
        case 0:
            offsets[1] = 9;
            break; /* past the text */
        case 1:
            offsets[0] = 1;
            break; /* a byte of no word */
        case 2:
            offsets[1] = 0;
            break; /* an empty word */
        case 3:
            for (int s = 0; s < 8; s++) { /* no empty slot: a probe would not end */
                index[s].row = 1;
            }
            break;
        default:
            for (int s = 0; s < 8; s++) {
                index[s].row = index[s].row != 0 ? 3 : 0; /* a row that is not there */
            }
            break;
        }
        assert_int_equal(open_sealed(&t), KITH_CORRUPT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wordvec_file_finds_words),
        cmocka_unit_test(test_wordvec_file_refuses_headers_that_lie),
        cmocka_unit_test(test_wordvec_file_refuses_sections_that_lie),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
