/* The registry's keys and values, in one place (docs/ARCHITECTURE.md, "Registry keys").
 *
 *   cluster                   {"id"}                       made once; the id in every frame
 *   leader                    {"id", "url"}                leased
 *   nodes/<node>              {"url", "name", "state", "version"}   leased
 *   collections/<name>        {"id", "dim", "metric", ...} coordinator/cluster/topology.c
 *   slices/<collection>/<n>   {"term", "primary", "in_sync", "replicas", "opened", "error"}
 *   dropped/<collection>      {"name"}                     a tombstone: the data is to be removed
 *
 * <node>, <collection> and ids in values are 16 hex digits; <n> is 4 decimal digits.
 * Values come from outside: readers check everything; KITH_CORRUPT, KITH_NOMEM. Unknown members are
 * ignored. Threads: no state. */
#ifndef KITH_KEYS_H
#define KITH_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/kith_buf.h"
#include "common/kith_json.h"
#include "common/kith_registry.h"

#define KITH_KEYS_CLUSTER     "cluster"
#define KITH_KEYS_LEADER      "leader"
#define KITH_KEYS_NODES       "nodes/"
#define KITH_KEYS_COLLECTIONS "collections/"
#define KITH_KEYS_SLICES      "slices/"
#define KITH_KEYS_DROPPED     "dropped/"

#define KITH_KEY_BYTES     128 /* any key below with its NUL */
#define KITH_KEYS_URL_MAX  256
#define KITH_KEYS_NAME_MAX 128
#define KITH_REPLICAS_MAX  8u

void kith_keys_node(char key[KITH_KEY_BYTES], uint64_t node);
void kith_keys_collection(char key[KITH_KEY_BYTES], const char *name);
void kith_keys_slice(char key[KITH_KEY_BYTES], uint64_t collection, uint32_t slice);
void kith_keys_dropped(char key[KITH_KEY_BYTES], uint64_t collection);
/* The reverse: false when key is none. */
bool kith_keys_parse_node(const char *key, uint64_t *node);
bool kith_keys_parse_slice(const char *key, uint64_t *collection, uint32_t *slice);
bool kith_keys_parse_dropped(const char *key, uint64_t *collection);
bool kith_keys_parse_id(const char *text, uint64_t *id); /* 16 hex digits, not all 0 */
uint64_t kith_keys_random_id(void);                      /* from the system; never 0 */

/* Makes the cluster's id if nobody has; call it after each change of the mirror until it is known.
 * 0: not known yet. */
uint64_t kith_keys_cluster(struct kith_registry *registry);

struct kith_node_value {
    char url[KITH_KEYS_URL_MAX]; /* rpc, as others reach it */
    char name[KITH_KEYS_NAME_MAX];
    char version[32];
    bool ready; /* else warming */
};
struct kith_slice_value {
    uint64_t term;
    uint64_t primary;
    bool opened;         /* its primary has it on disk: from now on it is never created again */
    enum kith_err error; /* not opened, because its primary said so */
    uint32_t n_in_sync, n_replicas;
    uint64_t in_sync[KITH_REPLICAS_MAX];
    uint64_t replicas[KITH_REPLICAS_MAX];
};
struct kith_leader_value {
    uint64_t id;
    char url[KITH_KEYS_URL_MAX];
};

/* Writers end the text with a NUL (counted in buf->len); look at buf->failed. */
void kith_keys_write_node(struct kith_buf *buf, const struct kith_node_value *value);
void kith_keys_write_slice(struct kith_buf *buf, const struct kith_slice_value *value);
void kith_keys_write_leader(struct kith_buf *buf, const struct kith_leader_value *value);
void kith_keys_write_cluster(struct kith_buf *buf, uint64_t id);
void kith_keys_write_dropped(struct kith_buf *buf, const char *name);

enum kith_err kith_keys_read_node(const char *text, size_t len, struct kith_node_value *out);
enum kith_err kith_keys_read_slice(const char *text, size_t len, struct kith_slice_value *out);
enum kith_err kith_keys_read_leader(const char *text, size_t len, struct kith_leader_value *out);
enum kith_err kith_keys_read_cluster(const char *text, size_t len, uint64_t *out);

/* Opens a value that lacks the parser's padding; `copy` holds it until both are freed. */
enum kith_err kith_keys_open(struct kith_json_doc **doc, struct kith_buf *copy, const char *text,
                             size_t len);
/* A string member that fits; false when absent or too long. */
bool kith_keys_text(struct kith_json object, const char *name, char *out, size_t out_bytes);
bool kith_keys_id(struct kith_json object, const char *name, uint64_t *out);

#endif
