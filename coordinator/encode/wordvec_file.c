/* Opening reads every byte once for the checksums (hardware CRC32C runs at memory speed; 137 MB
 * take about 50 ms from the page cache) and walks index and offsets, so that look-ups need no
 * checks: each probe ends at an empty slot, because there are exactly `words` used ones among more
 * slots than words. */
#include "coordinator/encode/wordvec_file.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "coordinator/encode/textfold.h"
#include "proto/kith_crc32c.h"
#include "proto/kith_hash.h"
#include "proto/kith_limits.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tables are mapped as they are stored");

uint64_t wordvec_file_hash(const char *word, size_t len)
{
    return kith_hash_mix(kith_hash_bytes(KITH_HASH_START, word, len));
}

static uint64_t align_up(uint64_t at)
{
    return (at + WORDVEC_FILE_ALIGN - 1) / WORDVEC_FILE_ALIGN * WORDVEC_FILE_ALIGN;
}

int wordvec_file_layout(const struct wordvec_header *head, struct wordvec_layout *out)
{
    /* Each factor is bounded first, so that no product below can pass 2^49. */
    if (head->dim == 0 || head->dim > KITH_DIM_MAX || head->words == 0 ||
        head->words > KITH_WORDVEC_WORDS_MAX || head->slots <= head->words ||
        head->slots > (uint64_t)KITH_WORDVEC_WORDS_MAX * 4 ||
        (head->slots & (head->slots - 1)) != 0 ||
        head->text_bytes > (uint64_t)head->words * KITH_WORDVEC_WORD_MAX) {
        return 0;
    }
    out->vectors = WORDVEC_FILE_HEADER;
    out->offsets = align_up(out->vectors + (uint64_t)head->words * head->dim * sizeof(float));
    out->text = align_up(out->offsets + ((uint64_t)head->words + 1) * sizeof(uint32_t));
    out->index = align_up(out->text + head->text_bytes);
    out->end = out->index + head->slots * sizeof(struct wordvec_slot);
    return 1;
}

static enum kith_err check_header(const struct wordvec_header *head, size_t len,
                                  struct wordvec_layout *layout, struct kith_diag *diag)
{
    if (memcmp(head->magic, WORDVEC_FILE_MAGIC, sizeof head->magic) != 0) {
        return kith_fail(diag, KITH_CORRUPT, "word-vector table: not one (magic)");
    }
    if (kith_crc32c(0, head, offsetof(struct wordvec_header, crc_header)) != head->crc_header) {
        return kith_fail(diag, KITH_CORRUPT, "word-vector table: header checksum");
    }
    if (head->version != WORDVEC_FILE_VERSION || head->fold_version != TEXTFOLD_VERSION) {
        return kith_fail(diag, KITH_CORRUPT, "word-vector table: version %u.%u, this is %u.%u",
                         head->version, head->fold_version, WORDVEC_FILE_VERSION, TEXTFOLD_VERSION);
    }
    if (!wordvec_file_layout(head, layout) || layout->end != head->file_bytes ||
        layout->end != len || head->word_cps_max == 0 ||
        head->word_cps_max > KITH_WORDVEC_WORD_MAX || !(head->norm_mean > 0.0f) ||
        !(head->norm_mean < 1e30f)) {
        return kith_fail(diag, KITH_CORRUPT, "word-vector table: sizes do not agree (%zu bytes)",
                         len);
    }
    return KITH_OK;
}

static enum kith_err check_sections(const struct wordvec_file *file, struct kith_diag *diag)
{
    const struct wordvec_header *head = &file->head;
    const struct {
        const char *name;
        const void *data;
        size_t bytes;
        uint32_t crc;
    } sections[] = {
        {"vectors", file->vectors, (size_t)head->words * head->dim * sizeof(float),
         head->crc_vectors},
        {"offsets", file->offsets, ((size_t)head->words + 1) * sizeof(uint32_t), head->crc_offsets},
        {"text", file->text, head->text_bytes, head->crc_text},
        {"index", file->index, head->slots * sizeof(struct wordvec_slot), head->crc_index},
    };
    for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++) {
        if (kith_crc32c(0, sections[i].data, sections[i].bytes) != sections[i].crc) {
            return kith_fail(diag, KITH_CORRUPT, "word-vector table: checksum of its %s",
                             sections[i].name);
        }
    }
    return KITH_OK;
}

static enum kith_err check_index(const struct wordvec_file *file, struct kith_diag *diag)
{
    const struct wordvec_header *head = &file->head;
    for (uint32_t i = 0; i < head->words; i++) {
        if (file->offsets[i] >= file->offsets[i + 1] ||
            file->offsets[i + 1] - file->offsets[i] > KITH_WORDVEC_WORD_MAX) {
            return kith_fail(diag, KITH_CORRUPT, "word-vector table: offset of word %u", i);
        }
    }
    if (file->offsets[0] != 0 || file->offsets[head->words] != head->text_bytes) {
        return kith_fail(diag, KITH_CORRUPT, "word-vector table: offsets do not cover the text");
    }
    uint64_t used = 0;
    for (uint64_t i = 0; i < head->slots; i++) {
        if (file->index[i].row > head->words) {
            return kith_fail(diag, KITH_CORRUPT, "word-vector table: index names row %u",
                             file->index[i].row);
        }
        used += file->index[i].row != 0;
    }
    if (used != head->words) {
        return kith_fail(diag, KITH_CORRUPT, "word-vector table: index holds %llu words of %u",
                         (unsigned long long)used, head->words);
    }
    return KITH_OK;
}

enum kith_err wordvec_file_view(struct wordvec_file *out, const uint8_t *bytes, size_t len,
                                struct kith_diag *diag)
{
    struct wordvec_file file = {0};
    struct wordvec_layout layout = {0};
    kith_assert(out != NULL && bytes != NULL && (uintptr_t)bytes % 4 == 0);
    if (len < WORDVEC_FILE_HEADER) {
        return kith_fail(diag, KITH_CORRUPT, "word-vector table: %zu bytes are too short", len);
    }
    memcpy(&file.head, bytes, sizeof file.head);
    enum kith_err err = check_header(&file.head, len, &layout, diag);
    if (err != KITH_OK) {
        return err;
    }
    file.vectors = (const float *)(const void *)(bytes + layout.vectors);
    file.offsets = (const uint32_t *)(const void *)(bytes + layout.offsets);
    file.text = (const char *)(bytes + layout.text);
    file.index = (const struct wordvec_slot *)(const void *)(bytes + layout.index);
    err = check_sections(&file, diag);
    if (err == KITH_OK) {
        err = check_index(&file, diag);
    }
    if (err == KITH_OK) {
        *out = file;
    }
    return err;
}

enum kith_err wordvec_file_open(struct wordvec_file *out, int fd, struct kith_diag *diag)
{
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return kith_fail(diag, KITH_IO, "word-vector table: fstat: errno %d", errno);
    }
    if (st.st_size < (off_t)WORDVEC_FILE_HEADER) {
        return kith_fail(diag, KITH_CORRUPT, "word-vector table: %lld bytes are too short",
                         (long long)st.st_size);
    }
    size_t bytes = (size_t)st.st_size;
    void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        return kith_fail(diag, KITH_NOMEM, "word-vector table: mmap of %zu bytes: errno %d", bytes,
                         errno);
    }
    struct wordvec_file file = {0};
    enum kith_err err = wordvec_file_view(&file, map, bytes, diag);
    if (err != KITH_OK) {
        munmap(map, bytes);
        return err;
    }
    file.map = map;
    file.map_bytes = bytes;
    *out = file;
    return KITH_OK;
}

void wordvec_file_close(struct wordvec_file *file)
{
    if (file->map != NULL) {
        munmap(file->map, file->map_bytes);
    }
    memset(file, 0, sizeof *file);
}

int64_t wordvec_file_find(const struct wordvec_file *file, const char *word, size_t len)
{
    kith_assert(file->index != NULL);
    uint64_t hash = wordvec_file_hash(word, len);
    uint32_t tag = (uint32_t)(hash >> 32);
    uint64_t mask = file->head.slots - 1;
    for (uint64_t at = hash & mask; file->index[at].row != 0; at = (at + 1) & mask) {
        if (file->index[at].tag != tag) {
            continue;
        }
        uint32_t row = file->index[at].row - 1;
        uint32_t start = file->offsets[row];
        if (file->offsets[row + 1] - start == len && memcmp(file->text + start, word, len) == 0) {
            return row;
        }
    }
    return -1;
}

const float *wordvec_file_row(const struct wordvec_file *file, uint32_t row)
{
    kith_assert(row < file->head.words);
    return file->vectors + (size_t)row * file->head.dim;
}
