/* The one C++ file: simdjson's DOM behind a C face, and the shortest text of a float.
 *
 * simdjson leaves a parsed document as a tape of 64-bit words (its doc/tape.md): the top byte is a
 * type, the rest a payload; numbers take a second word; a container's payload holds the index past
 * its end and a count. A kith_json handle is an index into that tape, so walking costs no objects
 * and 768 floats are one loop. The On-Demand interface is faster still, but it checks only what is
 * visited: a document with garbage in an ignored field would pass.
 *
 * A parser's buffers are the dear part of a small parse, so each thread keeps one document of up
 * to CACHE_BYTES for its next call. Standard library numbers (std::to_chars) are used for writing:
 * shortest round-trip is Ryu there (Adams, PLDI 2018), and free of locale and allocation. */
#include "simdjson.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cfloat>
#include <cstring>
#include <new>

/* The headers of Kith are C11: what they declare has C linkage, and two of its words differ here.
 */
#define _Static_assert static_assert
#define _Noreturn [[noreturn]]
extern "C" {
#include "common/kith_json.h"
#include "common/kith_json_locate.h"
#include "common/kith_json_number.h"
#include "common/kith_mem.h"
#include "proto/kith_limits.h"
}

namespace
{
constexpr size_t CACHE_BYTES = 256 * 1024;
constexpr size_t SMALL_OBJECT = 12; /* members; fewer are compared pairwise */
constexpr uint64_t PAYLOAD = 0x00FFFFFFFFFFFFFF;
constexpr uint32_t COUNT_MAX = 0xFFFFFF; /* simdjson's counts saturate here */
} // namespace

static_assert(KITH_JSON_PADDING >= simdjson::SIMDJSON_PADDING, "callers leave room enough");

struct kith_json_doc {
    simdjson::dom::parser parser;
    size_t capacity = 0;
};

/* ---- the tape -------------------------------------------------------------------------------- */

static const uint64_t *tape_of(const kith_json_doc *doc)
{
    return doc->parser.doc.tape.get();
}

static char tag_at(const kith_json_doc *doc, size_t at)
{
    return static_cast<char>(tape_of(doc)[at] >> 56);
}

static uint64_t payload_at(const kith_json_doc *doc, size_t at)
{
    return tape_of(doc)[at] & PAYLOAD;
}

static size_t after(const kith_json_doc *doc, size_t at)
{
    switch (tag_at(doc, at)) {
    case '[':
    case '{':
        return static_cast<uint32_t>(payload_at(doc, at));
    case 'l':
    case 'u':
    case 'd':
        return at + 2;
    default:
        return at + 1;
    }
}

static const char *text_at(const kith_json_doc *doc, size_t at, size_t *len)
{
    const uint8_t *entry = doc->parser.doc.string_buf.get() + payload_at(doc, at);
    uint32_t bytes;
    memcpy(&bytes, entry, sizeof bytes);
    *len = bytes;
    return reinterpret_cast<const char *>(entry + sizeof bytes);
}

template <typename T> static T number_at(const kith_json_doc *doc, size_t at)
{
    T value;
    memcpy(&value, &tape_of(doc)[at + 1], sizeof value);
    return value;
}

/* ---- duplicate keys -------------------------------------------------------------------------- */

/* By length first: most keys differ there, and any total order will do. */
static int compare_keys(const kith_json_doc *doc, size_t a, size_t b)
{
    size_t a_len, b_len;
    const char *a_text = text_at(doc, a, &a_len);
    const char *b_text = text_at(doc, b, &b_len);
    if (a_len != b_len)
        return a_len < b_len ? -1 : 1;
    return memcmp(a_text, b_text, a_len);
}

static enum kith_err fail_duplicate(const kith_json_doc *doc, size_t key, struct kith_diag *diag)
{
    size_t len;
    const char *text = text_at(doc, key, &len);
    return kith_fail(diag, KITH_BAD_REQUEST, "the key \"%.*s\" appears twice in one object",
                     static_cast<int>(std::min<size_t>(len, 100)), text);
}

static enum kith_err check_small(const kith_json_doc *doc, size_t at, struct kith_diag *diag)
{
    size_t keys[SMALL_OBJECT];
    size_t n = 0;
    size_t end = after(doc, at) - 1;
    for (size_t key = at + 1; key < end; key = after(doc, key + 1)) {
        for (size_t i = 0; i < n; i++)
            if (compare_keys(doc, keys[i], key) == 0)
                return fail_duplicate(doc, key, diag);
        keys[n++] = key;
    }
    return KITH_OK;
}

/* Sorting, not hashing: n log n whatever keys an attacker picks, and nothing to seed. */
static enum kith_err check_large(const kith_json_doc *doc, size_t at, struct kith_diag *diag)
{
    size_t n = 0;
    size_t end = after(doc, at) - 1;
    for (size_t key = at + 1; key < end; key = after(doc, key + 1))
        n++;
    size_t bytes;
    uint32_t *keys =
        kith_mul(n, sizeof *keys, &bytes) ? static_cast<uint32_t *>(kith_alloc(bytes)) : nullptr;
    if (keys == nullptr)
        return kith_fail(diag, KITH_NOMEM, "no memory to check an object of %zu members", n);
    size_t i = 0;
    for (size_t key = at + 1; key < end; key = after(doc, key + 1))
        keys[i++] = static_cast<uint32_t>(key); /* tape indexes are 32-bit inside simdjson too */
    std::sort(keys, keys + n,
              [doc](uint32_t a, uint32_t b) { return compare_keys(doc, a, b) < 0; });
    enum kith_err err = KITH_OK;
    for (i = 1; i < n && err == KITH_OK; i++)
        if (compare_keys(doc, keys[i - 1], keys[i]) == 0)
            err = fail_duplicate(doc, keys[i], diag);
    kith_free(keys);
    return err;
}

static enum kith_err check_object(const kith_json_doc *doc, size_t at, struct kith_diag *diag)
{
    uint64_t count = payload_at(doc, at) >> 32;
    if (count < 2)
        return KITH_OK;
    return count <= SMALL_OBJECT ? check_small(doc, at, diag) : check_large(doc, at, diag);
}

/* One pass over the tape. The depth is counted here because simdjson does not count an empty
 * container as a level. */
static enum kith_err check_document(const kith_json_doc *doc, struct kith_diag *diag)
{
    size_t end = static_cast<size_t>(payload_at(doc, 0));
    uint32_t depth = 0;
    for (size_t at = 1; at < end; at++) {
        switch (tag_at(doc, at)) {
        case '{': {
            enum kith_err err = check_object(doc, at, diag);
            if (err != KITH_OK)
                return err;
        }
            /* fall through */
        case '[':
            if (++depth > KITH_JSON_DEPTH_MAX)
                return kith_fail(diag, KITH_BAD_REQUEST,
                                 "not valid JSON: nested deeper than %u levels",
                                 KITH_JSON_DEPTH_MAX);
            break;
        case '}':
        case ']':
            depth--;
            break;
        case 'l':
        case 'u':
        case 'd':
            at++;
            break;
        default:
            break;
        }
    }
    return KITH_OK;
}

/* ---- opening --------------------------------------------------------------------------------- */

static void destroy(kith_json_doc *doc)
{
    if (doc == nullptr)
        return;
    doc->~kith_json_doc();
    kith_free(doc);
}

namespace
{
struct cache {
    kith_json_doc *doc = nullptr;
    ~cache()
    {
        destroy(doc);
    }
};
} // namespace
static thread_local cache kept;

static enum kith_err fail_parse(simdjson::error_code code, const char *text, size_t len,
                                struct kith_diag *diag)
{
    if (code == simdjson::MEMALLOC)
        return kith_fail(diag, KITH_NOMEM, "no memory to parse %zu bytes of JSON", len);
    if (code == simdjson::CAPACITY)
        return kith_fail(diag, KITH_TOO_BIG, "%zu bytes are too many for one JSON document", len);
    const char *what;
    size_t at = kith_json_locate(text, len, KITH_JSON_DEPTH_MAX, &what);
    if (len == 0 || (at == len && what != nullptr && kith_utf8_check(text, len) == len &&
                     strspn(text, " \t\r\n") >= len))
        return kith_fail(diag, KITH_BAD_REQUEST, "not valid JSON: the text is empty");
    if (code == simdjson::DEPTH_ERROR)
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "not valid JSON: nested deeper than %u levels near byte %zu",
                         KITH_JSON_DEPTH_MAX, at);
    if (what == nullptr) /* well-formed, so what remains is a number that has no place */
        return kith_fail(diag, KITH_BAD_REQUEST,
                         code == simdjson::STRING_ERROR
                             ? "not valid JSON: a \\u escape is half of a surrogate pair"
                             : "not valid JSON: a number is out of range");
    return kith_fail(diag, KITH_BAD_REQUEST, "not valid JSON: %s near byte %zu", what, at);
}

static kith_json_doc *take_doc(void)
{
    kith_json_doc *doc = kept.doc;
    kept.doc = nullptr;
    if (doc == nullptr) {
        void *memory = kith_alloc(sizeof(kith_json_doc));
        if (memory != nullptr)
            doc = new (memory) kith_json_doc();
    }
    return doc;
}

enum kith_err kith_json_open(struct kith_json_doc **out, const char *text, size_t len,
                             struct kith_diag *diag)
{
    kith_json_doc *doc = take_doc();
    if (doc == nullptr)
        return kith_fail(diag, KITH_NOMEM, "no memory for a JSON document");
    /* simdjson counts the document itself as a level. */
    if (doc->capacity < len || doc->capacity == 0) {
        size_t capacity = std::max<size_t>(len, 16 * 1024);
        doc->capacity = 0;
        simdjson::error_code code = doc->parser.allocate(capacity, KITH_JSON_DEPTH_MAX + 1);
        if (code != simdjson::SUCCESS) {
            destroy(doc);
            return fail_parse(code, text, len, diag);
        }
        doc->capacity = capacity;
    }
    simdjson::error_code code =
        doc->parser.parse(reinterpret_cast<const uint8_t *>(text), len, false).error();
    enum kith_err err =
        code == simdjson::SUCCESS ? check_document(doc, diag) : fail_parse(code, text, len, diag);
    if (err == KITH_OK)
        *out = doc;
    else
        kith_json_close(doc);
    return err;
}

void kith_json_close(struct kith_json_doc *doc)
{
    if (doc == nullptr)
        return;
    if (kept.doc == nullptr && doc->capacity > 0 && doc->capacity <= CACHE_BYTES)
        kept.doc = doc;
    else
        destroy(doc);
}

struct kith_json kith_json_root(const struct kith_json_doc *doc)
{
    return {doc, 1};
}

/* ---- values ---------------------------------------------------------------------------------- */

enum kith_json_type kith_json_type(struct kith_json value)
{
    switch (tag_at(value.doc, value.at)) {
    case 't':
    case 'f':
        return KITH_JSON_BOOL;
    case 'l':
    case 'u':
        return KITH_JSON_INT;
    case 'd':
        return KITH_JSON_FLOAT;
    case '"':
        return KITH_JSON_STR;
    case '[':
        return KITH_JSON_ARRAY;
    case '{':
        return KITH_JSON_OBJECT;
    default:
        return KITH_JSON_NULL;
    }
}

const char *kith_json_type_name(enum kith_json_type type)
{
    static const char *const names[] = {"null",     "a boolean", "an integer", "a number",
                                        "a string", "an array",  "an object"};
    return names[type];
}

bool kith_json_bool(struct kith_json value, bool *out)
{
    char tag = tag_at(value.doc, value.at);
    if (tag != 't' && tag != 'f')
        return false;
    *out = tag == 't';
    return true;
}

bool kith_json_u64(struct kith_json value, uint64_t *out)
{
    char tag = tag_at(value.doc, value.at);
    if (tag == 'u') {
        *out = number_at<uint64_t>(value.doc, value.at);
        return true;
    }
    if (tag != 'l' || number_at<int64_t>(value.doc, value.at) < 0)
        return false;
    *out = number_at<uint64_t>(value.doc, value.at);
    return true;
}

bool kith_json_i64(struct kith_json value, int64_t *out)
{
    if (tag_at(value.doc, value.at) != 'l')
        return false;
    *out = number_at<int64_t>(value.doc, value.at);
    return true;
}

bool kith_json_f64(struct kith_json value, double *out)
{
    switch (tag_at(value.doc, value.at)) {
    case 'd':
        *out = number_at<double>(value.doc, value.at);
        return true;
    case 'l':
        *out = static_cast<double>(number_at<int64_t>(value.doc, value.at));
        return true;
    case 'u':
        *out = static_cast<double>(number_at<uint64_t>(value.doc, value.at));
        return true;
    default:
        return false;
    }
}

bool kith_json_str(struct kith_json value, const char **text, size_t *len)
{
    if (tag_at(value.doc, value.at) != '"')
        return false;
    *text = text_at(value.doc, value.at, len);
    return true;
}

bool kith_json_is(struct kith_json value, const char *text)
{
    const char *own;
    size_t len;
    return kith_json_str(value, &own, &len) && strlen(text) == len && memcmp(own, text, len) == 0;
}

size_t kith_json_count(struct kith_json value)
{
    char tag = tag_at(value.doc, value.at);
    if (tag != '[' && tag != '{')
        return 0;
    uint32_t count = static_cast<uint32_t>(payload_at(value.doc, value.at) >> 32) & COUNT_MAX;
    if (count < COUNT_MAX)
        return count;
    size_t n = 0;
    size_t end = after(value.doc, value.at) - 1;
    for (size_t at = value.at + 1; at < end; at = after(value.doc, at))
        n++;
    return tag == '[' ? n : n / 2;
}

/* ---- walking --------------------------------------------------------------------------------- */

struct kith_json_iter kith_json_iterate(struct kith_json value)
{
    char tag = tag_at(value.doc, value.at);
    if (tag != '[' && tag != '{')
        return {value.doc, 0, 0};
    return {value.doc, value.at + 1, after(value.doc, value.at) - 1};
}

bool kith_json_next(struct kith_json_iter *iter, struct kith_json *value)
{
    if (iter->at >= iter->end)
        return false;
    *value = {iter->doc, iter->at};
    iter->at = after(iter->doc, iter->at);
    return true;
}

bool kith_json_next_member(struct kith_json_iter *iter, const char **key, size_t *key_len,
                           struct kith_json *value)
{
    if (iter->at >= iter->end)
        return false;
    *key = text_at(iter->doc, iter->at, key_len);
    *value = {iter->doc, iter->at + 1};
    iter->at = after(iter->doc, iter->at + 1);
    return true;
}

bool kith_json_get(struct kith_json object, const char *key, struct kith_json *out)
{
    if (tag_at(object.doc, object.at) != '{')
        return false;
    size_t want = strlen(key);
    struct kith_json_iter iter = kith_json_iterate(object);
    const char *text;
    size_t len;
    struct kith_json value;
    while (kith_json_next_member(&iter, &text, &len, &value))
        if (len == want && memcmp(text, key, len) == 0) {
            *out = value;
            return true;
        }
    return false;
}

bool kith_json_opt(struct kith_json object, const char *key, struct kith_json *out)
{
    struct kith_json value;
    if (!kith_json_get(object, key, &value) || tag_at(value.doc, value.at) == 'n')
        return false;
    *out = value;
    return true;
}

/* ---- vectors --------------------------------------------------------------------------------- */

static enum kith_err fail_element(struct kith_json array, size_t index, const char *where,
                                  struct kith_diag *diag)
{
    struct kith_json_iter iter = kith_json_iterate(array);
    struct kith_json value = array;
    for (size_t i = 0; i <= index; i++)
        if (!kith_json_next(&iter, &value))
            break;
    double number;
    if (kith_json_f64(value, &number))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s[%zu]: %g does not fit a 32-bit float", where,
                         index, number);
    return kith_fail(diag, KITH_BAD_REQUEST, "%s[%zu]: expected a number, found %s", where, index,
                     kith_json_type_name(kith_json_type(value)));
}

enum kith_err kith_json_f32s(struct kith_json array, float *out, size_t n, const char *where,
                             struct kith_diag *diag)
{
    if (tag_at(array.doc, array.at) != '[')
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: expected an array of %zu numbers, found %s",
                         where, n, kith_json_type_name(kith_json_type(array)));
    size_t count = kith_json_count(array);
    if (count != n)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: expected %zu numbers, found %zu", where, n,
                         count);
    const kith_json_doc *doc = array.doc;
    const uint64_t *tape = tape_of(doc);
    size_t at = array.at + 1;
    for (size_t i = 0; i < n; i++, at += 2) {
        char tag = static_cast<char>(tape[at] >> 56);
        double value;
        if (tag == 'd')
            value = number_at<double>(doc, at);
        else if (tag == 'l')
            value = static_cast<double>(number_at<int64_t>(doc, at));
        else if (tag == 'u')
            value = static_cast<double>(number_at<uint64_t>(doc, at));
        else
            return fail_element(array, i, where, diag);
        if (!(std::fabs(value) <= static_cast<double>(FLT_MAX)))
            return fail_element(array, i, where, diag);
        out[i] = static_cast<float>(value);
    }
    return KITH_OK;
}

/* ---- numbers as text ------------------------------------------------------------------------- */

namespace
{
constexpr size_t NUMBER_BYTES = 32; /* "-2.2250738585072014e-308" is 24 */

template <typename T> void write_float(struct kith_buf *buf, T value, bool keep_point)
{
    uint8_t *to = kith_buf_reserve(buf, NUMBER_BYTES);
    if (to == nullptr)
        return;
    char *text = reinterpret_cast<char *>(to);
    char *end = std::to_chars(text, text + NUMBER_BYTES - 2, value).ptr;
    auto len = static_cast<size_t>(end - text);
    /* "3" would come back as an integer, "-0" as plain zero. */
    if ((keep_point || value == 0) && memchr(text, '.', len) == nullptr &&
        memchr(text, 'e', len) == nullptr && (keep_point || text[0] == '-')) {
        memcpy(end, ".0", 2);
        len += 2;
    }
    buf->len += len;
}
} // namespace

void kith_json_number_f32(struct kith_buf *buf, float value)
{
    write_float(buf, value, false);
}

void kith_json_number_f64(struct kith_buf *buf, double value)
{
    write_float(buf, value, true);
}
