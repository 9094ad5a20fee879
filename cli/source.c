#include "cli/source.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/npy.h"
#include "common/kith_json.h"
#include "common/kith_json_locate.h"
#include "common/kith_mem.h"
#include "proto/kith_limits.h"

#define READ_BYTES (256u * 1024)

struct source {
    int fd;
    enum source_format format;
    struct source_options options;
    uint64_t bytes;
    uint64_t row;
    uint64_t at; /* offset in the file of data[from] */

    uint8_t *data; /* a window of the file */
    size_t from, to, cap;
    bool eof;

    uint32_t dim;  /* npy, fvecs: of the first row */
    uint64_t rows; /* npy */
    uint64_t data_at;
    struct kith_buf line;
    float *numbers;
};

bool source_format_named(const char *name, enum source_format *out)
{
    static const char *const names[] = {"auto", "jsonl", "npy", "fvecs", "text"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum source_format)i;
            return true;
        }
    }
    return false;
}

/* At least `want` bytes into the window, or as many as the file still has. False: read error. */
static bool fill(struct source *source, size_t want, struct kith_diag *diag)
{
    while (!source->eof && source->to - source->from < want) {
        ssize_t n;

        if (source->from > 0) {
            memmove(source->data, source->data + source->from, source->to - source->from);
            source->to -= source->from;
            source->from = 0;
        }
        if (source->cap < source->to + READ_BYTES &&
            !kith_grow((void **)&source->data, &source->cap, source->to + READ_BYTES, 1)) {
            kith_fail(diag, KITH_NOMEM, "out of memory");
            return false;
        }
        n = read(source->fd, source->data + source->to, source->cap - source->to);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            kith_fail(diag, KITH_IO, "read: %s", strerror(errno));
            return false;
        }
        source->eof = n == 0;
        source->to += (size_t)n;
    }
    return true;
}

static void consume(struct source *source, size_t n)
{
    source->from += n;
    source->at += n;
}

static bool has_suffix(const char *path, const char *suffix)
{
    size_t n = strlen(path), m = strlen(suffix);

    return n >= m && strcmp(path + n - m, suffix) == 0;
}

static enum kith_err format_guess(struct source *source, const char *path, struct kith_diag *diag)
{
    static const struct {
        const char *suffix;
        enum source_format format;
    } known[] = {
        {".jsonl", SOURCE_JSONL}, {".ndjson", SOURCE_JSONL}, {".json", SOURCE_JSONL},
        {".fvecs", SOURCE_FVECS}, {".txt", SOURCE_TEXT},
    };
    const uint8_t *data = source->data + source->from;
    size_t n = source->to - source->from;

    if (n >= 6 && memcmp(data, "\x93NUMPY", 6) == 0) {
        source->format = SOURCE_NPY;
        return KITH_OK;
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (has_suffix(path, known[i].suffix)) {
            source->format = known[i].format;
            return KITH_OK;
        }
    }
    if (source->options.text_field != NULL || (n > 0 && data[0] == '{')) {
        source->format = SOURCE_JSONL;
        return KITH_OK;
    }
    return kith_fail(diag, KITH_BAD_REQUEST,
                     "cannot tell its format: say --format jsonl, npy, fvecs or text");
}

static enum kith_err matrix_start(struct source *source, struct kith_diag *diag)
{
    struct npy npy;
    enum kith_err err;

    if (source->format == SOURCE_NPY) {
        err = npy_read(&npy, source->data + source->from, source->to - source->from, diag);
        if (err != KITH_OK)
            return err;
        source->dim = npy.dim;
        source->rows = npy.rows;
        source->data_at = npy.data_at;
        if (source->bytes > 0 && (source->bytes - npy.data_at) / (4 * (uint64_t)npy.dim) < npy.rows)
            return kith_fail(diag, KITH_CORRUPT, "%llu rows are promised, the file is shorter",
                             (unsigned long long)npy.rows);
        consume(source, npy.data_at);
    }
    source->numbers = kith_alloc(KITH_DIM_MAX * sizeof(float));
    return source->numbers == NULL ? kith_fail(diag, KITH_NOMEM, "out of memory") : KITH_OK;
}

enum kith_err source_open(struct source **out, const char *path,
                          const struct source_options *options, struct kith_diag *diag)
{
    struct source *source = kith_alloc(sizeof *source);
    enum kith_err err = KITH_OK;
    struct stat stat_buf;

    if (source == NULL)
        return kith_fail(diag, KITH_NOMEM, "out of memory");
    source->options = *options;
    source->format = options->format;
    source->line.limit = SOURCE_LINE_MAX + KITH_JSON_PADDING;
    source->fd = strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (source->fd < 0) {
        err = kith_fail(diag, KITH_NOT_FOUND, "%s", strerror(errno));
        goto out;
    }
    if (fstat(source->fd, &stat_buf) == 0 && S_ISDIR(stat_buf.st_mode)) {
        err = kith_fail(diag, KITH_BAD_REQUEST, "is a folder");
        goto out;
    }
    if (S_ISREG(stat_buf.st_mode))
        source->bytes = (uint64_t)stat_buf.st_size;
    if (!fill(source, NPY_HEADER_MAX, diag)) {
        err = KITH_IO;
        goto out;
    }
    if (source->format == SOURCE_AUTO)
        err = format_guess(source, path, diag);
    if (err == KITH_OK && (source->format == SOURCE_NPY || source->format == SOURCE_FVECS))
        err = matrix_start(source, diag);
    if (err != KITH_OK)
        goto out;
    if (!options->has_first_id)
        source->options.first_id = source_is_lines(source) ? 1 : 0;
    *out = source;
    source = NULL;
out:
    source_close(source);
    return err;
}

void source_close(struct source *source)
{
    if (source == NULL)
        return;
    if (source->fd >= 0)
        close(source->fd);
    kith_free(source->data);
    kith_free(source->numbers);
    kith_buf_fini(&source->line);
    kith_free(source);
}

bool source_seek(struct source *source, uint64_t offset, uint64_t row)
{
    if (offset > source->bytes || lseek(source->fd, (off_t)offset, SEEK_SET) < 0)
        return false;
    source->from = 0;
    source->to = 0;
    source->eof = false;
    source->at = offset;
    source->row = row;
    return true;
}

uint64_t source_at(const struct source *source)
{
    return source->at;
}

uint64_t source_row(const struct source *source)
{
    return source->row;
}

uint64_t source_bytes(const struct source *source)
{
    return source->bytes;
}

bool source_is_lines(const struct source *source)
{
    return source->format == SOURCE_JSONL || source->format == SOURCE_TEXT;
}

int source_fd(const struct source *source)
{
    return source->fd;
}

/* ---- lines ----------------------------------------------------------------------------------- */

/* The next line into source->line, without its end. BAD: too long, skipped. */
static enum source_result line_next(struct source *source, struct kith_diag *diag)
{
    bool too_long = false;

    kith_buf_reset(&source->line);
    for (;;) {
        const uint8_t *from, *end;
        size_t n;

        if (!fill(source, 1, diag))
            return SOURCE_ERROR;
        n = source->to - source->from;
        if (n == 0 && source->line.len == 0 && !too_long)
            return SOURCE_END;
        from = source->data + source->from;
        end = n == 0 ? NULL : memchr(from, '\n', n);
        if (end != NULL)
            n = (size_t)(end - from);
        if (source->line.len + n > SOURCE_LINE_MAX)
            too_long = true;
        else
            kith_buf_append(&source->line, from, n);
        consume(source, n + (end != NULL));
        if (end != NULL || source->from == source->to) {
            if (end == NULL && !source->eof)
                continue;
            break;
        }
    }
    source->row++;
    if (too_long) {
        kith_fail(diag, KITH_TOO_BIG, "longer than %u MiB", SOURCE_LINE_MAX >> 20);
        return SOURCE_BAD;
    }
    if (source->line.len > 0 && source->line.data[source->line.len - 1] == '\r')
        source->line.len--;
    if (source->row == 1 && source->line.len >= 3 &&
        memcmp(source->line.data, "\xef\xbb\xbf", 3) == 0) { /* a byte order mark */
        memmove(source->line.data, source->line.data + 3, source->line.len - 3);
        source->line.len -= 3;
    }
    return SOURCE_POINT;
}

static bool is_blank(const struct kith_buf *line)
{
    for (size_t i = 0; i < line->len; i++)
        if (line->data[i] != ' ' && line->data[i] != '\t')
            return false;
    return true;
}

static enum kith_err id_check(struct kith_json id, struct kith_diag *diag)
{
    uint64_t number;

    if (kith_json_u64(id, &number) || kith_json_type(id) == KITH_JSON_STR)
        return KITH_OK;
    return kith_fail(diag, KITH_BAD_REQUEST, "id: want a whole number or a UUID, got %s",
                     kith_json_type_name(kith_json_type(id)));
}

/* A line that is a point already: checked here only as far as the server's message could not name
 * the line. */
static enum kith_err point_check(struct kith_json root, struct kith_diag *diag)
{
    struct kith_json_iter it = kith_json_iterate(root);
    struct kith_json value, id, vector;
    const char *key;
    size_t n;

    if (kith_json_type(root) != KITH_JSON_OBJECT)
        return kith_fail(diag, KITH_BAD_REQUEST, "want an object, got %s",
                         kith_json_type_name(kith_json_type(root)));
    while (kith_json_next_member(&it, &key, &n, &value))
        if (strcmp(key, "id") != 0 && strcmp(key, "vector") != 0 && strcmp(key, "payload") != 0)
            return kith_fail(diag, KITH_BAD_REQUEST,
                             "unknown field %.64s: want id, vector, payload (for other objects, "
                             "name the text to encode with --text-field)",
                             key);
    if (!kith_json_get(root, "id", &id))
        return kith_fail(diag, KITH_BAD_REQUEST, "id is missing");
    if (!kith_json_get(root, "vector", &vector))
        return kith_fail(diag, KITH_BAD_REQUEST, "vector is missing");
    if (kith_json_type(vector) != KITH_JSON_ARRAY && kith_json_type(vector) != KITH_JSON_OBJECT)
        return kith_fail(diag, KITH_BAD_REQUEST, "vector: want numbers or {\"text\": ...}, got %s",
                         kith_json_type_name(kith_json_type(vector)));
    return id_check(id, diag);
}

static void write_text_point(struct kith_json_writer *w, const char *text, size_t n)
{
    kith_jw_key(w, "vector");
    kith_jw_begin_object(w);
    kith_jw_key(w, "text");
    kith_jw_str(w, text, n);
    kith_jw_end_object(w);
    kith_jw_key(w, "payload");
}

/* Any object, with one field to encode. */
static enum kith_err object_write(struct source *source, struct kith_json root,
                                  struct kith_buf *out, struct kith_diag *diag)
{
    const char *field = source->options.text_field;
    struct kith_json_writer w = {.buf = out};
    struct kith_json id, value;
    bool has_id = kith_json_opt(root, "id", &id);
    const char *text, *key;
    size_t n;

    if (has_id && id_check(id, diag) != KITH_OK)
        return KITH_BAD_REQUEST;
    if (!kith_json_get(root, field, &value))
        return kith_fail(diag, KITH_BAD_REQUEST, "%.64s is missing", field);
    if (!kith_json_str(value, &text, &n) || n == 0)
        return kith_fail(diag, KITH_BAD_REQUEST, "%.64s: want a text that is not empty", field);
    kith_jw_begin_object(&w);
    kith_jw_key(&w, "id");
    if (has_id)
        cli_json_copy(&w, id);
    else
        kith_jw_u64(&w, source->options.first_id + source->row - 1);
    write_text_point(&w, text, n);
    kith_jw_begin_object(&w);
    for (struct kith_json_iter it = kith_json_iterate(root);
         kith_json_next_member(&it, &key, &n, &value);) {
        if (strcmp(key, "id") == 0)
            continue;
        kith_jw_key_n(&w, key, n);
        cli_json_copy(&w, value);
    }
    kith_jw_end_object(&w);
    kith_jw_end_object(&w);
    return KITH_OK;
}

static enum source_result json_point(struct source *source, struct kith_buf *out,
                                     struct kith_diag *diag)
{
    struct kith_json_doc *doc = NULL;
    enum kith_err err;

    if (kith_buf_reserve(&source->line, KITH_JSON_PADDING) == NULL) {
        kith_fail(diag, KITH_NOMEM, "out of memory");
        return SOURCE_ERROR;
    }
    err = kith_json_open(&doc, (const char *)source->line.data, source->line.len, diag);
    if (err != KITH_OK)
        return SOURCE_BAD;
    if (source->options.text_field != NULL) {
        err = object_write(source, kith_json_root(doc), out, diag);
    } else {
        err = point_check(kith_json_root(doc), diag);
        if (err == KITH_OK)
            kith_buf_append(out, source->line.data, source->line.len);
    }
    kith_json_close(doc);
    return err == KITH_OK ? SOURCE_POINT : SOURCE_BAD;
}

static enum source_result text_point(struct source *source, struct kith_buf *out,
                                     struct kith_diag *diag)
{
    struct kith_json_writer w = {.buf = out};
    const char *text = (const char *)source->line.data;
    size_t n = source->line.len;
    size_t bad_at = kith_utf8_check(text, n);

    if (bad_at < n || n > KITH_TEXT_MAX) {
        if (bad_at < n)
            kith_fail(diag, KITH_BAD_REQUEST, "not UTF-8 at byte %zu", bad_at);
        else
            kith_fail(diag, KITH_TOO_BIG, "longer than %u bytes", KITH_TEXT_MAX);
        return SOURCE_BAD;
    }
    kith_jw_begin_object(&w);
    kith_jw_key(&w, "id");
    kith_jw_u64(&w, source->options.first_id + source->row - 1);
    write_text_point(&w, text, n);
    kith_jw_begin_object(&w);
    kith_jw_key(&w, "text");
    kith_jw_str(&w, text, n);
    kith_jw_end_object(&w);
    kith_jw_end_object(&w);
    return SOURCE_POINT;
}

/* ---- matrices -------------------------------------------------------------------------------- */

static enum source_result vector_point(struct source *source, struct kith_buf *out,
                                       struct kith_diag *diag)
{
    struct kith_json_writer w = {.buf = out};

    for (uint32_t i = 0; i < source->dim; i++) {
        if (!isfinite(source->numbers[i])) {
            kith_fail(diag, KITH_BAD_REQUEST, "number %u is not finite", i);
            return SOURCE_BAD;
        }
    }
    kith_jw_begin_object(&w);
    kith_jw_key(&w, "id");
    kith_jw_u64(&w, source->options.first_id + source->row - 1);
    kith_jw_key(&w, "vector");
    kith_jw_begin_array(&w);
    for (uint32_t i = 0; i < source->dim; i++)
        kith_jw_f32(&w, source->numbers[i]);
    kith_jw_end_array(&w);
    kith_jw_end_object(&w);
    return SOURCE_POINT;
}

static enum source_result row_next(struct source *source, struct kith_diag *diag)
{
    size_t head = source->format == SOURCE_FVECS ? 4 : 0;
    size_t want;

    if (source->format == SOURCE_NPY && source->row == source->rows)
        return SOURCE_END;
    if (!fill(source, head, diag))
        return SOURCE_ERROR;
    if (head > 0) {
        uint32_t dim;

        if (source->to == source->from)
            return SOURCE_END;
        if (source->to - source->from < head)
            goto cut;
        memcpy(&dim, source->data + source->from, sizeof dim); /* little endian, as the format */
        if (dim == 0 || dim > KITH_DIM_MAX || (source->dim != 0 && dim != source->dim)) {
            /* Where the next row would begin is not known any more. */
            kith_fail(diag, KITH_CORRUPT, "row %llu says it has %u numbers: not a .fvecs file?",
                      (unsigned long long)source->row + 1, dim);
            return SOURCE_ERROR;
        }
        source->dim = dim;
    }
    want = head + source->dim * sizeof(float);
    if (!fill(source, want, diag))
        return SOURCE_ERROR;
    if (source->to - source->from < want)
        goto cut;
    memcpy(source->numbers, source->data + source->from + head, source->dim * sizeof(float));
    consume(source, want);
    source->row++;
    return SOURCE_POINT;
cut:
    kith_fail(diag, KITH_CORRUPT, "the file ends inside row %llu",
              (unsigned long long)source->row + 1);
    return SOURCE_ERROR;
}

enum source_result source_next(struct source *source, struct kith_buf *out, struct kith_diag *diag)
{
    enum source_result result;

    if (!source_is_lines(source)) {
        result = row_next(source, diag);
        return result == SOURCE_POINT ? vector_point(source, out, diag) : result;
    }
    do
        result = line_next(source, diag);
    while (result == SOURCE_POINT && is_blank(&source->line));
    if (result != SOURCE_POINT)
        return result;
    if (source->line.failed) {
        kith_fail(diag, KITH_NOMEM, "out of memory");
        return SOURCE_ERROR;
    }
    return source->format == SOURCE_TEXT ? text_point(source, out, diag)
                                         : json_point(source, out, diag);
}
