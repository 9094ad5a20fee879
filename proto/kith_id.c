#include "proto/kith_id.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct kith_id kith_id_number(uint64_t number)
{
    return (struct kith_id){.lo = number};
}

int kith_id_compare(const struct kith_id *a, const struct kith_id *b)
{
    if (a->is_uuid != b->is_uuid)
        return a->is_uuid < b->is_uuid ? -1 : 1;
    if (a->hi != b->hi)
        return a->hi < b->hi ? -1 : 1;
    if (a->lo != b->lo)
        return a->lo < b->lo ? -1 : 1;
    return 0;
}

bool kith_id_equal(const struct kith_id *a, const struct kith_id *b)
{
    return a->lo == b->lo && a->hi == b->hi && a->is_uuid == b->is_uuid;
}

/* The finaliser of splitmix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number
 * Generators", 2014): a bijection with full avalanche, so consecutive numbers spread evenly. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t kith_id_hash(const struct kith_id *id)
{
    return mix(mix(id->hi + id->is_uuid) ^ id->lo);
}

uint32_t kith_id_slice(const struct kith_id *id, uint32_t n_slices)
{
    kith_assert(n_slices > 0);
    /* High bits choose the slice, so that hash tables inside a slice still see all low bits vary.
     */
    return (uint32_t)(((kith_id_hash(id) >> 32) * n_slices) >> 32);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool kith_id_parse_uuid(const char *text, size_t len, struct kith_id *out)
{
    static const char urn[] = "urn:uuid:";
    if (len == 36 + sizeof urn - 1 && memcmp(text, urn, sizeof urn - 1) == 0) {
        text += sizeof urn - 1;
        len = 36;
    }
    if (len != 36 && len != 32)
        return false;
    uint64_t half[2] = {0, 0};
    unsigned digits = 0;
    for (size_t i = 0; i < len; i++) {
        if (len == 36 && (i == 8 || i == 13 || i == 18 || i == 23)) {
            if (text[i] != '-')
                return false;
            continue;
        }
        int digit = hex_digit(text[i]);
        if (digit < 0)
            return false;
        half[digits / 16] = half[digits / 16] << 4 | (uint64_t)digit;
        digits++;
    }
    *out = (struct kith_id){.hi = half[0], .lo = half[1], .is_uuid = 1};
    return true;
}

size_t kith_id_format(const struct kith_id *id, char text[KITH_ID_TEXT_BYTES])
{
    int n;
    if (id->is_uuid == 0)
        n = snprintf(text, KITH_ID_TEXT_BYTES, "%" PRIu64, id->lo);
    else
        n = snprintf(text, KITH_ID_TEXT_BYTES, "%08x-%04x-%04x-%04x-%012" PRIx64,
                     (unsigned)(id->hi >> 32), (unsigned)(id->hi >> 16 & 0xffff),
                     (unsigned)(id->hi & 0xffff), (unsigned)(id->lo >> 48),
                     id->lo & 0xffffffffffffu);
    kith_assert(n > 0 && n < KITH_ID_TEXT_BYTES);
    return (size_t)n;
}

void kith_id_to_wire(const struct kith_id *id, uint8_t out[KITH_ID_WIRE_BYTES])
{
    out[0] = (uint8_t)id->is_uuid;
    for (unsigned i = 0; i < 8; i++) {
        out[1 + i] = (uint8_t)(id->hi >> (8 * i));
        out[9 + i] = (uint8_t)(id->lo >> (8 * i));
    }
}

bool kith_id_from_wire(const uint8_t in[KITH_ID_WIRE_BYTES], struct kith_id *out)
{
    struct kith_id id = {.is_uuid = in[0]};
    for (unsigned i = 0; i < 8; i++) {
        id.hi |= (uint64_t)in[1 + i] << (8 * i);
        id.lo |= (uint64_t)in[9 + i] << (8 * i);
    }
    if (id.is_uuid > 1 || (id.is_uuid == 0 && id.hi != 0))
        return false;
    *out = id;
    return true;
}
