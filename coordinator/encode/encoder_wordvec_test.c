#include "coordinator/encode/encoder_wordvec.h"

#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/kith_mem.h"

#define DIM 8

static char dir[64];

/* Words in the order of frequency. */
static const char vectors[] = "the 1 0 0 0 0 0 0 0.1\n"
                              "的 1 0 0 0 0 0 0 0.1\n"
                              "cat 0 1 0 0 0 0 0 0\n"
                              "dog 0 0.9 0.1 0 0 0 0 0\n"
                              "北京 0 0 1 0 0 0 0 0\n"
                              "大学 0 0 0 1 0 0 0 0\n"
                              "北京大学 0 0 0 0 1 0 0 0\n"
                              "mail 0 0 0 0 0 1 0 0\n"
                              "address 0 0 0 0 0 0 1 0\n";

static void write_file(const char *name, const char *text, size_t len)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, len, file), len);
    fclose(file);
}

static int setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/kith-wordvec-XXXXXX");
    if (mkdtemp(dir) == NULL) {
        return -1;
    }
    write_file("v.txt", vectors, strlen(vectors));
    write_file("dict", "北京 10\n大学 20\n", strlen("北京 10\n大学 20\n"));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static struct encoder *open_file(const char *file, const char *dictionary)
{
    struct encoder *enc = NULL;
    struct kith_diag diag = {0};
    struct encoder_config cfg = {
        .kind = "wordvec", .dir = dir, .file = file, .dictionary = dictionary};
    enum kith_err err = encoder_open(&enc, &cfg, &diag);
    if (err != KITH_OK) {
        fail_msg("%s: %s", kith_err_name(err), diag.text);
    }
    return enc;
}

static double likeness(const struct encoder *enc, const char *a, const char *b)
{
    float x[DIM];
    float y[DIM];
    double dot = 0;
    assert_int_equal(encoder_encode(enc, a, strlen(a), x, NULL), KITH_OK);
    assert_int_equal(encoder_encode(enc, b, strlen(b), y, NULL), KITH_OK);
    for (int i = 0; i < DIM; i++) {
        dot += (double)x[i] * (double)y[i];
    }
    return dot;
}

static void test_encoder_wordvec_averages_by_sif(void **state)
{
    (void)state;
    struct encoder *enc = open_file("v.txt", NULL);
    float out[DIM];
    assert_int_equal(encoder_dim(enc), DIM);
    assert_int_equal(encoder_encode(enc, "The CAT", 7, out, NULL), KITH_OK);
    /* Zipf over nine ranks, a = 1e-3: weights by hand. */
    double sum = 0;
    for (int r = 0; r < 9; r++) {
        sum += 1.0 / (r + 2.7);
    }
    double the = 1e-3 / (1e-3 + 1.0 / (2.7 * sum));
    double cat = 1e-3 / (1e-3 + 1.0 / (4.7 * sum));
    assert_true(fabs(out[0] / out[1] - the / cat) < 1e-5);
    double norm = 0;
    for (int i = 0; i < DIM; i++) {
        norm += (double)out[i] * (double)out[i];
    }
    assert_true(fabs(norm - 1) < 1e-5);
    assert_true(likeness(enc, "cat", "dog") > 0.9);
    assert_true(likeness(enc, "the cat", "a dog") > likeness(enc, "the cat", "北京"));
    encoder_close(enc);
}

static void test_encoder_wordvec_cuts_by_longest_match(void **state)
{
    (void)state;
    struct encoder *enc = open_file("v.txt", NULL);
    assert_true(likeness(enc, "北京大学", "北京 大学") < 0.1); /* one word of the vocabulary */
    encoder_close(enc);
    enc = open_file("v.txt", "dict");
    assert_true(likeness(enc, "北京大学", "北京 大学") > 0.99); /* two of the dictionary */
    encoder_close(enc);
}

static void test_encoder_wordvec_falls_back_for_unknown_words(void **state)
{
    (void)state;
    struct encoder *enc = open_file("v.txt", NULL);
    assert_true(likeness(enc, "mailaddress", "mail address") > 0.99); /* pieces */
    assert_true(likeness(enc, "dog's", "dog") > 0.99);                /* possessive */
    assert_true(likeness(enc, "qwertz", "qwertz") > 0.99);            /* hashed */
    assert_true(likeness(enc, "龘龘", "龘龘") > 0.99 && likeness(enc, "😀", "😀") > 0.99);
    float out[DIM];
    static const char *const empty[] = {"", "  ", "。。。", "--"};
    for (size_t i = 0; i < 4; i++) {
        struct kith_diag diag = {0};
        assert_int_equal(encoder_encode(enc, empty[i], strlen(empty[i]), out, &diag),
                         KITH_UNPROCESSABLE);
        assert_memory_equal(diag.text, "cannot encode: ", 15);
    }
    assert_int_equal(encoder_encode(enc, "\xC3", 1, out, NULL), KITH_BAD_REQUEST);
    encoder_close(enc);
}

static void test_encoder_wordvec_converts_once(void **state)
{
    (void)state;
    char path[128];
    struct stat first;
    struct stat second;
    struct encoder *enc = open_file("v.txt", NULL);
    uint64_t fingerprint = encoder_fingerprint(enc);
    encoder_close(enc);
    snprintf(path, sizeof path, "%s/v.txt.kwv", dir);
    assert_int_equal(stat(path, &first), 0);
    enc = open_file("v.txt", NULL);
    assert_true(encoder_fingerprint(enc) == fingerprint);
    encoder_close(enc);
    assert_int_equal(stat(path, &second), 0);
    assert_true(first.st_ino == second.st_ino);
    enc = open_file("v.txt.kwv", NULL); /* the table alone serves too */
    assert_true(encoder_fingerprint(enc) == fingerprint);
    encoder_close(enc);
    enc = open_file("v.txt", "dict");
    assert_true(encoder_fingerprint(enc) != fingerprint);
    encoder_close(enc);
    /* Another source: converted again. */
    write_file("v.txt", "cat 1 2 3\n", 10);
    enc = open_file("v.txt", NULL);
    assert_int_equal(encoder_dim(enc), 3);
    assert_true(encoder_fingerprint(enc) != fingerprint);
    encoder_close(enc);
    write_file("v.txt", vectors, strlen(vectors));
}

static void test_encoder_wordvec_finds_each_damaged_byte(void **state)
{
    (void)state;
    char path[128];
    struct encoder *enc = open_file("v.txt", NULL);
    encoder_close(enc);
    snprintf(path, sizeof path, "%s/v.txt.kwv", dir);
    int fd = open(path, O_RDWR);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    for (off_t at = 0; at < st.st_size; at = at < 96 || at >= 4096 ? at + 1 : 4096) {
        uint8_t byte;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        uint8_t flipped = byte ^ 0x10;
        assert_int_equal(pwrite(fd, &flipped, 1, at), 1);
        struct encoder *got = NULL;
        struct encoder_config cfg = {.kind = "wordvec", .dir = dir, .file = "v.txt.kwv"};
        enum kith_err err = encoder_open(&got, &cfg, NULL);
        /* Padding between sections belongs to none. */
        if (err == KITH_OK) {
            assert_int_equal(byte, 0);
            encoder_close(got);
        } else {
            assert_int_equal(err, KITH_CORRUPT);
        }
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    /* The source is there: a damaged table is made anew without a word. */
    assert_int_equal(pwrite(fd, "X", 1, 4100), 1);
    close(fd);
    enc = open_file("v.txt", NULL);
    encoder_close(enc);
}

static void test_encoder_wordvec_stays_in_its_folder(void **state)
{
    (void)state;
    static const char *const bad[] = {"../v.txt", "/etc/passwd", "",     ".",   "..",
                                      ".hidden",  "a/b",         "a\\b", "a\nb"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct encoder *enc = NULL;
        struct kith_diag diag = {0};
        struct encoder_config cfg = {.kind = "wordvec", .dir = dir, .file = bad[i]};
        assert_int_equal(encoder_open(&enc, &cfg, &diag), KITH_BAD_REQUEST);
        assert_non_null(strstr(diag.text, "encoder.file"));
    }
    char path[128];
    snprintf(path, sizeof path, "%s/link", dir);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    snprintf(path, sizeof path, "%s/fifo", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    snprintf(path, sizeof path, "%s/folder", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    static const struct {
        const char *name;
        enum kith_err err;
    } odd[] = {{"link", KITH_BAD_REQUEST},
               {"fifo", KITH_BAD_REQUEST},
               {"folder", KITH_BAD_REQUEST},
               {"missing", KITH_NOT_FOUND}};
    for (size_t i = 0; i < 4; i++) {
        struct encoder *enc = NULL;
        struct encoder_config cfg = {.kind = "wordvec", .dir = dir, .file = odd[i].name};
        assert_int_equal(encoder_open(&enc, &cfg, NULL), odd[i].err);
        cfg.file = "v.txt";
        cfg.dictionary = odd[i].name;
        assert_int_equal(encoder_open(&enc, &cfg, NULL), odd[i].err);
    }
}

static void test_encoder_wordvec_survives_each_oom(void **state)
{
    (void)state;
    long before = kith_mem_live();
    char path[128];
    snprintf(path, sizeof path, "%s/v.txt.kwv", dir);
    for (long n = 0;; n++) {
        struct encoder *enc = NULL;
        struct encoder_config cfg = {
            .kind = "wordvec", .dir = dir, .file = "v.txt", .dictionary = "dict"};
        unlink(path);
        kith_mem_fail_after(n);
        enum kith_err err = encoder_open(&enc, &cfg, NULL);
        kith_mem_fail_after(-1);
        encoder_close(enc);
        assert_int_equal(kith_mem_live(), before);
        if (err == KITH_OK) {
            break;
        }
        assert_true(err == KITH_NOMEM && enc == NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encoder_wordvec_averages_by_sif),
        cmocka_unit_test(test_encoder_wordvec_cuts_by_longest_match),
        cmocka_unit_test(test_encoder_wordvec_falls_back_for_unknown_words),
        cmocka_unit_test(test_encoder_wordvec_converts_once),
        cmocka_unit_test(test_encoder_wordvec_finds_each_damaged_byte),
        cmocka_unit_test(test_encoder_wordvec_stays_in_its_folder),
        cmocka_unit_test(test_encoder_wordvec_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
