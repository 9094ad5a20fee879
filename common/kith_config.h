/* Configuration: a YAML file (libcyaml's one home), the environment and flags.
 *
 * Precedence: flag > environment > file > default. Every key has one name in three spellings:
 * `http_listen` in the file, KITH_HTTP_LISTEN in the environment, --http-listen as a flag. Unknown
 * keys and flags are errors. The file is --config FILE, or KITH_CONFIG; without either none is
 * read.
 *
 * Owns: its texts. Threads: start-up only. Errors: KITH_BAD_REQUEST, e.g.
 * "config kith.yaml: listen: ...", "KITH_THREADS: ...", "--threads: ...". */
#ifndef KITH_CONFIG_H
#define KITH_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"

enum kith_config_role {
    KITH_CONFIG_UP = 1,
    KITH_CONFIG_COORDINATOR = 2,
    KITH_CONFIG_SHARD = 4,
    KITH_CONFIG_ANY_ROLE = 7,
};

struct kith_config {
    /* All texts are owned by this struct and never NULL. */
    char *data;       /* folder of the points (up, shard) */
    char *listen;     /* up, coordinator: HTTP "127.0.0.1:6333"; shard: rpc "127.0.0.1:6343" */
    char *advertise;  /* the address others use; "" = listen */
    char *metrics;    /* shard: HTTP for GET /metrics; "" = none */
    char *cluster;    /* name of the cluster in the registry */
    char *registry;   /* "etcd" or "file"; "" = by role: file for up, etcd for the others */
    char *etcd;       /* endpoints, comma-separated */
    char *node_name;  /* for humans; "" = the host's name */
    char *encoders;   /* folder of encoder files; "" = none */
    char *log_level;  /* debug, info, warn, error */
    uint64_t threads; /* workers; 0 = one per CPU */
    uint64_t recall_one_in;   /* queries to be compared with exact ones; 0 = none */
    uint64_t memory_lock_mib; /* of segments to keep in memory; 0 = none */
    uint64_t default_slices;  /* of a new collection; 0 = 1 in kith up, else 2 per node */
    bool insecure;            /* listen on an address others can reach, without access control */
    bool no_realtime;         /* threads that answer never go before all others */
    bool help;                /* --help was given; nothing was checked */
};

/* args: what follows the verb. `env` is environ-shaped. On success *out is complete and checked
 * (addresses parse, loopback unless insecure); kith_config_fini it in any case. */
enum kith_err kith_config_read(struct kith_config *out, enum kith_config_role role, int n_args,
                               char *const *args, char *const *env, struct kith_diag *diag);
void kith_config_fini(struct kith_config *config);

/* The table of keys for --help: one line per key that the role has. */
struct kith_config_key {
    const char *name, *value, *text, *fallback; /* "listen", "HOST:PORT", "...", "127.0.0.1:6333" */
};
size_t kith_config_keys(enum kith_config_role role, struct kith_config_key *out, size_t max);

/* "host:port", "[v6]:port" -> host without brackets and port. False when malformed. */
bool kith_config_split(const char *address, char *host, size_t host_bytes, uint16_t *port);
bool kith_config_loopback(const char *host); /* 127.0.0.0/8, ::1, localhost */

#endif
