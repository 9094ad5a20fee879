/* Paths into payloads: "a", "a.b", "a[].b" (objects inside an array), "a[2]", "\"odd.name\".b".
 *
 * A path yields the values it leads to, as they stand: an array is one value; how its elements
 * count is the business of whoever asks. A malformed path leads nowhere.
 * Owns: nothing; steps and values borrow from path and payload. Threads: any.
 * Errors: none; malformed payload bytes end the walk. Limits: KITH_FIELD_PATH_MAX. */
#ifndef FIELD_PATH_H
#define FIELD_PATH_H

#include <stdbool.h>
#include <stdint.h>

#include "common/kith_buf.h"
#include "proto/kith_limits.h"
#include "proto/kith_wire.h"

enum field_step_kind { FIELD_STEP_KEY, FIELD_STEP_EACH, FIELD_STEP_INDEX };

struct field_step {
    enum field_step_kind kind;
    struct kith_bytes key; /* KEY, without quotes */
    uint32_t index;        /* INDEX */
};

/* Takes the first step off *rest; false at the end or at a malformed place (then rest->len > 0). */
bool field_path_next(struct kith_bytes *rest, struct field_step *out);
bool field_path_valid(struct kith_bytes path);

/* Calls on_value for each value the path leads to, until it returns true. Returns whether it did.
 * `value` is one whole msgpack value; `payload` a msgpack map, or empty. */
typedef bool (*field_value_fn)(void *ctx, struct kith_bytes value);
bool field_path_visit(struct kith_bytes payload, struct kith_bytes path, field_value_fn on_value,
                      void *ctx);

/* How columns spell a path. One spelling per path: a key is quoted only when it must be. */
#define FIELD_PATH_ROOM                                                                            \
    (KITH_FIELD_PATH_MAX * 2 + 16) /* a nested filter's key in front, and "[]." */
struct field_path_text {
    size_t len;
    bool too_long;
    char text[FIELD_PATH_ROOM];
};
/* Appends ".key" (or "key" at the start). False when no path can name this key (it has a quote). */
bool field_path_append(struct field_path_text *text, struct kith_bytes key);
void field_path_append_each(struct field_path_text *text); /* "[]" */

enum field_path_form {
    FIELD_PATH_PLAIN,   /* *out is the spelling columns use */
    FIELD_PATH_ODD,     /* a path that columns do not have: an index, "[][]", or too long */
    FIELD_PATH_INVALID, /* malformed: leads nowhere */
};
/* `prefix` (may be empty) is the array of objects that path starts in, as in a nested filter. */
enum field_path_form field_path_normal(struct kith_bytes prefix, struct kith_bytes path,
                                       struct field_path_text *out);

#endif
