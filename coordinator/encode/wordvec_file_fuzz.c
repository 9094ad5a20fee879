/* Two decoders of encoder files: first byte even: the input is a source file to convert (and what
 * comes out must open); odd: it is a table, its checksums put right so that the fuzzer gets past
 * them. */
#include <stdlib.h>
#include <string.h>

#include "common/kith_mem.h"
#include "coordinator/encode/wordvec_convert.h"
#include "coordinator/encode/wordvec_file.h"
#include "proto/kith_crc32c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct memory {
    const uint8_t *data;
    size_t len;
    size_t at;
    uint8_t *out;
    size_t out_len;
};

static ssize_t memory_read(void *self, void *buf, size_t n)
{
    struct memory *m = self;
    size_t left = m->len - m->at;
    n = n < left ? n : left;
    memcpy(buf, m->data + m->at, n);
    m->at += n;
    return (ssize_t)n;
}

static int memory_write(void *self, const void *data, size_t n, uint64_t at)
{
    struct memory *m = self;
    if (at + n > m->out_len) {
        uint8_t *out = kith_realloc(m->out, at + n);
        if (out == NULL) {
            return 12; /* ENOMEM */
        }
        memset(out + m->out_len, 0, at + n - m->out_len);
        m->out = out;
        m->out_len = at + n;
    }
    memcpy(m->out + at, data, n);
    return 0;
}

static void use(const struct wordvec_file *file)
{
    for (uint32_t row = 0; row < file->head.words && row < 100; row++) {
        const char *word = file->text + file->offsets[row];
        int64_t found = wordvec_file_find(file, word, file->offsets[row + 1] - file->offsets[row]);
        if (found >= 0) {
            (void)wordvec_file_row(file, (uint32_t)found)[file->head.dim - 1];
        }
    }
    (void)wordvec_file_find(file, "none", 4);
}

static void fuzz_source(const uint8_t *data, size_t size)
{
    struct memory m = {.data = data, .len = size};
    struct wordvec_source source = {memory_read, &m, size};
    struct wordvec_sink sink = {memory_write, &m};
    struct wordvec_options options = {0};
    if (wordvec_convert_stream(&source, &sink, &options, NULL) == KITH_OK) {
        struct wordvec_file file = {0};
        if (wordvec_file_view(&file, m.out, m.out_len, NULL) != KITH_OK) {
            abort(); /* what we write, we read */
        }
        use(&file);
    }
    kith_free(m.out);
}

static void fuzz_table(const uint8_t *data, size_t size)
{
    /* The header's 96 bytes, then the sections; the 4000 zeros between are not the fuzzer's. */
    struct wordvec_header head;
    struct wordvec_layout at;
    if (size < sizeof head) {
        return;
    }
    memcpy(&head, data, sizeof head);
    size_t len = WORDVEC_FILE_HEADER + size - sizeof head;
    uint8_t *bytes = kith_alloc(len);
    if (bytes == NULL) {
        return;
    }
    memcpy(bytes + WORDVEC_FILE_HEADER, data + sizeof head, size - sizeof head);
    memcpy(head.magic, WORDVEC_FILE_MAGIC, sizeof head.magic);
    head.version = WORDVEC_FILE_VERSION;
    head.fold_version = 1;
    head.file_bytes = len;
    if (wordvec_file_layout(&head, &at) && at.end == len) {
        head.crc_vectors =
            kith_crc32c(0, bytes + at.vectors, (size_t)head.words * head.dim * sizeof(float));
        head.crc_offsets = kith_crc32c(0, bytes + at.offsets, ((size_t)head.words + 1) * 4);
        head.crc_text = kith_crc32c(0, bytes + at.text, head.text_bytes);
        head.crc_index = kith_crc32c(0, bytes + at.index, head.slots * sizeof(struct wordvec_slot));
    }
    head.crc_header = kith_crc32c(0, &head, offsetof(struct wordvec_header, crc_header));
    memcpy(bytes, &head, sizeof head);
    struct wordvec_file file = {0};
    if (wordvec_file_view(&file, bytes, len, NULL) == KITH_OK) {
        use(&file);
    }
    kith_free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0) {
        (data[0] % 2 == 0 ? fuzz_source : fuzz_table)(data + 1, size - 1);
    }
    return 0;
}
