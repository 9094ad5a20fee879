/* One pass over the source, through a window of WINDOW_BYTES, which also bounds a line: nothing is
 * allocated from a number the file claims. What is read goes into the table at once
 * (wordvec_table.c).
 *
 * Lost: strtof, for its locale and its speed (33 us for 768 floats; parse_number needs about a
 * third). It keeps 19 digits and scales once, which is exact enough for f32. */
#include "coordinator/encode/wordvec_convert.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/kith_mem.h"
#include "coordinator/encode/wordvec_table.h"
#include "proto/kith_limits.h"

#define WINDOW_BYTES   (1u << 20)
#define LINE_BYTES_MAX (512u * 1024) /* 8192 numbers of 60 characters */
#define PROGRESS_BYTES (8u << 20)
_Static_assert(LINE_BYTES_MAX * 2 <= WINDOW_BYTES, "a line always fits the window");

struct convert {
    const struct wordvec_source *source;
    const struct wordvec_options *options;
    struct kith_diag *diag;
    /* The window over the source. */
    uint8_t *window;
    size_t at;
    size_t end;
    bool eof;
    uint64_t consumed;
    uint64_t reported;
    /* Of the source. */
    uint64_t words_claimed; /* 0: the form has no header */
    float *row;
    struct wordvec_table table;
};

static enum kith_err fill(struct convert *c)
{
    if (c->at > 0) {
        memmove(c->window, c->window + c->at, c->end - c->at);
        c->end -= c->at;
        c->at = 0;
    }
    while (!c->eof && c->end < WINDOW_BYTES) {
        ssize_t got = c->source->read(c->source->self, c->window + c->end, WINDOW_BYTES - c->end);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return kith_fail(c->diag, KITH_IO, "word-vector file: read: errno %d", errno);
        }
        c->eof = got == 0;
        c->end += (size_t)got;
    }
    if (c->options->progress != NULL && c->consumed - c->reported >= PROGRESS_BYTES) {
        c->reported = c->consumed;
        c->options->progress(c->consumed, c->source->bytes, c->options->progress_ctx);
    }
    return KITH_OK;
}

/* At least n bytes in the window unless the source ends before. */
static enum kith_err want(struct convert *c, size_t n)
{
    kith_assert(n <= WINDOW_BYTES);
    return c->end - c->at >= n || c->eof ? KITH_OK : fill(c);
}

static void take(struct convert *c, size_t n)
{
    kith_assert(n <= c->end - c->at);
    c->at += n;
    c->consumed += n;
}

/* --- text forms ------------------------------------------------------------------------------- */

static bool is_gap(uint8_t byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r';
}

/* e[+-]digits, all of text[at..len); adds to scale. */
static bool parse_exponent(const uint8_t *text, size_t len, size_t at, int *scale)
{
    int exponent = 0;
    int sign = 1;
    at++;
    if (at < len && (text[at] == '-' || text[at] == '+')) {
        sign = text[at++] == '-' ? -1 : 1;
    }
    size_t start = at;
    for (; at < len && text[at] >= '0' && text[at] <= '9'; at++) {
        exponent = exponent < 10000 ? exponent * 10 + (text[at] - '0') : exponent;
    }
    *scale += sign * exponent;
    return at == len && at > start;
}

/* [+-]digits[.digits][e[+-]digits], all of text[0..len). */
static bool parse_number(const uint8_t *text, size_t len, float *out)
{
    size_t at = 0;
    bool negative = false;
    uint64_t digits = 0;
    int scale = 0;
    int seen = 0;
    if (at < len && (text[at] == '-' || text[at] == '+')) {
        negative = text[at++] == '-';
    }
    for (bool point = false; at < len; at++) {
        if (text[at] == '.' && !point) {
            point = true;
            continue;
        }
        if (text[at] < '0' || text[at] > '9') {
            break;
        }
        seen++;
        if (digits < UINT64_MAX / 10 - 1) {
            digits = digits * 10 + (uint64_t)(text[at] - '0');
            scale -= point;
        } else {
            scale += !point;
        }
    }
    if (seen == 0 || (at < len && text[at] != 'e' && text[at] != 'E')) {
        return false;
    }
    if (at < len && !parse_exponent(text, len, at, &scale)) {
        return false;
    }
    double value = digits == 0 ? 0.0 : (double)digits * pow(10.0, scale);
    *out = (float)(negative ? -value : value);
    return true;
}

/* The window from c->at up to the next '\n' (taken by the caller with +1 when there is one). */
static enum kith_err peek_line(struct convert *c, size_t *len, size_t *with_end)
{
    enum kith_err err = want(c, LINE_BYTES_MAX);
    if (err != KITH_OK) {
        return err;
    }
    size_t have = c->end - c->at;
    size_t look = have < LINE_BYTES_MAX ? have : LINE_BYTES_MAX;
    const uint8_t *line = c->window + c->at;
    const uint8_t *end = look > 0 ? memchr(line, '\n', look) : NULL;
    if (end == NULL && have >= LINE_BYTES_MAX) {
        return kith_fail(c->diag, KITH_CORRUPT,
                         "word-vector file: no line end within %u bytes after record %llu",
                         LINE_BYTES_MAX, (unsigned long long)c->table.records);
    }
    *len = end != NULL ? (size_t)(end - line) : have;
    *with_end = *len + (end != NULL);
    return KITH_OK;
}

/* Fills c->row from the last dim fields of the line; *word_len: what stands before them (words
 * may hold spaces in some GloVe files). */
static bool parse_line(struct convert *c, const uint8_t *line, size_t len, size_t *word_len)
{
    size_t end = len;
    for (uint32_t i = c->table.head.dim; i > 0; i--) {
        while (end > 0 && is_gap(line[end - 1])) {
            end--;
        }
        size_t start = end;
        while (start > 0 && !is_gap(line[start - 1])) {
            start--;
        }
        if (start == 0 || !parse_number(line + start, end - start, &c->row[i - 1])) {
            return false;
        }
        end = start;
    }
    while (end > 0 && is_gap(line[end - 1])) {
        end--;
    }
    *word_len = end;
    return end > 0;
}

static enum kith_err read_text(struct convert *c)
{
    for (;;) {
        size_t len = 0;
        size_t with_end = 0;
        size_t word_len = 0;
        enum kith_err err = peek_line(c, &len, &with_end);
        if (err != KITH_OK || with_end == 0) {
            return err;
        }
        const uint8_t *line = c->window + c->at;
        if (len > 0 && !(len == 1 && line[0] == '\r')) {
            if (!parse_line(c, line, len, &word_len)) {
                return kith_fail(c->diag, KITH_CORRUPT,
                                 "word-vector file: record %llu is not a word and %u numbers",
                                 (unsigned long long)c->table.records + 1, c->table.head.dim);
            }
            err = wordvec_table_add(&c->table, (const char *)line, word_len, c->row);
            if (err != KITH_OK) {
                return err;
            }
        }
        take(c, with_end);
    }
}

/* --- the binary form -------------------------------------------------------------------------- */

static enum kith_err read_binary(struct convert *c)
{
    size_t row_bytes = c->table.head.dim * sizeof *c->row;
    while (c->table.records < c->words_claimed) {
        size_t need = LINE_BYTES_MAX / 2 + row_bytes;
        enum kith_err err = want(c, need);
        if (err != KITH_OK) {
            return err;
        }
        while (c->at < c->end && c->window[c->at] == '\n') {
            take(c, 1);
        }
        size_t have = c->end - c->at;
        size_t look = have < LINE_BYTES_MAX / 4 ? have : LINE_BYTES_MAX / 4;
        const uint8_t *word = c->window + c->at;
        const uint8_t *gap = look > 0 ? memchr(word, ' ', look) : NULL;
        if (gap == NULL || (size_t)(gap - word) + 1 + row_bytes > have) {
            return kith_fail(
                c->diag, KITH_CORRUPT, "word-vector file: ends or breaks in record %llu of %llu",
                (unsigned long long)c->table.records + 1, (unsigned long long)c->words_claimed);
        }
        size_t word_len = (size_t)(gap - word);
        memcpy(c->row, gap + 1, row_bytes);
        err = wordvec_table_add(&c->table, (const char *)word, word_len, c->row);
        if (err != KITH_OK) {
            return err;
        }
        take(c, word_len + 1 + row_bytes);
    }
    return KITH_OK;
}

/* --- telling the forms apart ------------------------------------------------------------------ */

static size_t fields_count(const uint8_t *line, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        n += !is_gap(line[i]) && (i == 0 || is_gap(line[i - 1]));
    }
    return n;
}

static bool parse_header(const uint8_t *line, size_t len, uint64_t numbers[2])
{
    size_t n = 0;
    if (fields_count(line, len) != 2) {
        return false;
    }
    numbers[0] = 0;
    numbers[1] = 0;
    for (size_t i = 0; i < len; i++) {
        if (is_gap(line[i])) {
            n += i > 0 && !is_gap(line[i - 1]);
            continue;
        }
        if (line[i] < '0' || line[i] > '9' || n > 1 || numbers[n] > (1ull << 40)) {
            return false;
        }
        numbers[n] = numbers[n] * 10 + (uint64_t)(line[i] - '0');
    }
    return numbers[0] > 0 && numbers[1] > 0;
}

static enum kith_err set_dim(struct convert *c, uint64_t dim)
{
    if (dim < 2 || dim > KITH_DIM_MAX) {
        return kith_fail(c->diag, KITH_CORRUPT, "word-vector file: %llu dimensions, not 2 to %u",
                         (unsigned long long)dim, KITH_DIM_MAX);
    }
    c->table.head.dim = (uint32_t)dim;
    c->row = kith_alloc(dim * sizeof *c->row);
    return c->row != NULL ? KITH_OK : kith_fail(c->diag, KITH_NOMEM, "word vector");
}

/* After a header: is what follows a text line? A row of floats holds bytes no number has. */
static bool looks_like_text(struct convert *c)
{
    size_t have = c->end - c->at;
    const uint8_t *line = c->window + c->at;
    const uint8_t *end = have > 0 ? memchr(line, '\n', have) : NULL;
    size_t word_len = 0;
    return parse_line(c, line, end != NULL ? (size_t)(end - line) : have, &word_len);
}

static enum kith_err read_source(struct convert *c)
{
    size_t len = 0;
    size_t with_end = 0;
    uint64_t numbers[2] = {0};
    enum kith_err err = peek_line(c, &len, &with_end);
    if (err != KITH_OK) {
        return err;
    }
    if (!parse_header(c->window + c->at, len, numbers)) {
        size_t fields = fields_count(c->window + c->at, len);
        err = set_dim(c, fields > 0 ? fields - 1 : 0);
        return err == KITH_OK ? read_text(c) : err;
    }
    if (numbers[0] > KITH_WORDVEC_WORDS_MAX) {
        return kith_fail(c->diag, KITH_TOO_BIG, "word-vector file: %llu words, limit %u",
                         (unsigned long long)numbers[0], KITH_WORDVEC_WORDS_MAX);
    }
    c->words_claimed = numbers[0];
    err = set_dim(c, numbers[1]);
    if (err != KITH_OK) {
        return err;
    }
    take(c, with_end);
    err = want(c, LINE_BYTES_MAX);
    if (err != KITH_OK) {
        return err;
    }
    err = looks_like_text(c) ? read_text(c) : read_binary(c);
    if (err == KITH_OK && c->table.records != c->words_claimed) {
        err = kith_fail(c->diag, KITH_CORRUPT,
                        "word-vector file: its first line says %llu words, it holds %llu",
                        (unsigned long long)c->words_claimed, (unsigned long long)c->table.records);
    }
    return err;
}

/* --- the whole -------------------------------------------------------------------------------- */

enum kith_err wordvec_convert_stream(const struct wordvec_source *source,
                                     const struct wordvec_sink *sink,
                                     const struct wordvec_options *options, struct kith_diag *diag)
{
    kith_assert(source != NULL && sink != NULL && options != NULL);
    struct convert c = {.source = source, .options = options, .diag = diag};
    enum kith_err err = wordvec_table_init(&c.table, sink, diag);
    if (err != KITH_OK) {
        goto out;
    }
    c.window = kith_alloc(WINDOW_BYTES);
    if (c.window == NULL) {
        err = kith_fail(diag, KITH_NOMEM, "word-vector conversion buffers");
        goto out;
    }
    err = read_source(&c);
    if (err == KITH_OK) {
        err = wordvec_table_finish(&c.table, options);
    }
    if (err == KITH_OK && options->progress != NULL) {
        options->progress(c.consumed, source->bytes, options->progress_ctx);
    }
out:
    kith_free(c.window);
    kith_free(c.row);
    wordvec_table_fini(&c.table);
    return err;
}

/* --- files ------------------------------------------------------------------------------------ */

static ssize_t fd_read(void *self, void *buf, size_t n)
{
    return read(*(int *)self, buf, n);
}

static int fd_write(void *self, const void *data, size_t n, uint64_t at)
{
    const char *bytes = data;
    while (n > 0) {
        ssize_t put_n = pwrite(*(int *)self, bytes, n, (off_t)at);
        if (put_n < 0 && errno == EINTR) {
            continue;
        }
        if (put_n <= 0) {
            return put_n < 0 ? errno : EIO;
        }
        bytes += put_n;
        n -= (size_t)put_n;
        at += (uint64_t)put_n;
    }
    return 0;
}

enum kith_err wordvec_convert_file(int dir_fd, int source_fd, const char *name,
                                   const struct wordvec_options *options, struct kith_diag *diag)
{
    /* Unique among processes by pid, among threads by a counter nothing is ordered by. */
    static atomic_uint serial;
    char temp[256];
    struct stat st;
    enum kith_err err = KITH_OK;
    int fd = -1;
    int made = snprintf(temp, sizeof temp, ".%s.%ld.%u", name, (long)getpid(),
                        atomic_fetch_add_explicit(&serial, 1, memory_order_relaxed));
    if (made < 0 || (size_t)made >= sizeof temp) {
        return kith_fail(diag, KITH_BAD_REQUEST, "word-vector table: its name is too long");
    }
    if (fstat(source_fd, &st) != 0) {
        return kith_fail(diag, KITH_IO, "word-vector file: fstat: errno %d", errno);
    }
    fd = openat(dir_fd, temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0) {
        return kith_fail(diag, KITH_IO, "word-vector table: create %.100s: errno %d", temp, errno);
    }
    struct wordvec_options own = *options;
    own.source_bytes = (uint64_t)st.st_size;
    own.source_mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    struct wordvec_source source = {fd_read, &source_fd, own.source_bytes};
    struct wordvec_sink sink = {fd_write, &fd};
    err = wordvec_convert_stream(&source, &sink, &own, diag);
    if (err == KITH_OK && (fsync(fd) != 0 || renameat(dir_fd, temp, dir_fd, name) != 0)) {
        err = kith_fail(diag, errno == ENOSPC ? KITH_DISK_FULL : KITH_IO,
                        "word-vector table: publish %.100s: errno %d", name, errno);
    }
    if (err == KITH_OK && fsync(dir_fd) != 0) {
        err = kith_fail(diag, KITH_IO, "encoders' folder: fsync: errno %d", errno);
    }
    if (err != KITH_OK) {
        unlinkat(dir_fd, temp, 0);
    }
    close(fd);
    return err;
}
