#include "common/kith_config.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/kith_mem.h"
#include "proto/kith_limits.h"

/* One table of keys feeds everything: the YAML schema, the names of variables and flags, --help,
 * and one setter that checks a text whatever it came from. So the three sources cannot disagree.
 * YAML values are read as texts for the same reason: the setter's message names file and key.
 *
 * A known key that the role does not have is passed over in the file and the environment (one file
 * may serve a whole machine) and refused as a flag. */

enum kind { KIND_TEXT, KIND_ADDRESS, KIND_NUMBER, KIND_FLAG };

struct key {
    const char *name;
    enum kind kind;
    unsigned roles;
    size_t at; /* in struct kith_config */
    uint64_t max;
    const char *fallback, *value, *text;
};

#define AT(member_) offsetof(struct kith_config, member_)
#define HTTP_ROLES  (KITH_CONFIG_UP | KITH_CONFIG_COORDINATOR)
#define DATA_ROLES  (KITH_CONFIG_UP | KITH_CONFIG_SHARD)
#define REMOTE      (KITH_CONFIG_COORDINATOR | KITH_CONFIG_SHARD)

static const struct key keys[] = {
    {"data", KIND_TEXT, DATA_ROLES, AT(data), 0, "kith-data", "DIR",
     "folder of the points, made if missing"},
    {"listen", KIND_ADDRESS, KITH_CONFIG_ANY_ROLE, AT(listen), 0, "", "HOST:PORT",
     "address to listen on; port 0 takes a free one"},
    {"advertise", KIND_ADDRESS, KITH_CONFIG_ANY_ROLE, AT(advertise), 0, "", "HOST:PORT",
     "address that others use to reach this process, if it differs from listen"},
    {"metrics", KIND_ADDRESS, KITH_CONFIG_SHARD, AT(metrics), 0, "", "HOST:PORT",
     "answer GET /metrics there, over HTTP; not at all when not set"},
    {"registry", KIND_TEXT, REMOTE, AT(registry), 0, "etcd", "etcd", "where the map is kept"},
    {"etcd", KIND_TEXT, REMOTE, AT(etcd), 0, "http://127.0.0.1:2379", "URL[,URL...]",
     "etcd's endpoints"},
    {"cluster", KIND_TEXT, REMOTE, AT(cluster), 0, "default", "NAME",
     "name of the cluster: several may share one etcd"},
    {"node_name", KIND_TEXT, KITH_CONFIG_ANY_ROLE, AT(node_name), 0, "", "NAME",
     "name for humans; the host's name when not set"},
    {"encoders", KIND_TEXT, HTTP_ROLES, AT(encoders), 0, "", "DIR",
     "folder of encoder files (word vectors)"},
    {"default_slices", KIND_NUMBER, HTTP_ROLES, AT(default_slices), KITH_SLICES_PER_COLLECTION_MAX,
     "0", "N", "slices of a new collection; 0: 1 in kith up, else 2 per node"},
    {"threads", KIND_NUMBER, KITH_CONFIG_ANY_ROLE, AT(threads), KITH_POOL_THREADS_MAX, "0", "N",
     "worker threads; 0: one per CPU"},
    {"memory_lock_mib", KIND_NUMBER, DATA_ROLES, AT(memory_lock_mib), UINT64_MAX >> 20, "0", "MIB",
     "keep so much of the indexes locked in memory, codes first"},
    {"recall_one_in", KIND_NUMBER, DATA_ROLES, AT(recall_one_in), UINT32_MAX, "1000", "N",
     "search one in N queries again exactly when idle, for recall_at_k; 0: none"},
    {"no_realtime", KIND_FLAG, KITH_CONFIG_ANY_ROLE, AT(no_realtime), 0, "false", "",
     "searches beside a load do not go before all else on the machine"},
    {"log_level", KIND_TEXT, KITH_CONFIG_ANY_ROLE, AT(log_level), 0, "info", "LEVEL",
     "debug, info, warn or error"},
    {"insecure", KIND_FLAG, KITH_CONFIG_ANY_ROLE, AT(insecure), 0, "false", "",
     "listen where others can reach it, although there is no access control yet"},
};
#define N_KEYS (sizeof keys / sizeof *keys)

/* ---- setting --------------------------------------------------------------------------------- */

static char **text_at(struct kith_config *config, const struct key *key)
{
    return (char **)(void *)((char *)config + key->at);
}

bool kith_config_split(const char *address, char *host, size_t host_bytes, uint16_t *port)
{
    const char *colon = strrchr(address, ':');
    size_t len = colon ? (size_t)(colon - address) : 0;
    const char *from = address;
    if (len >= 2 && from[0] == '[' && from[len - 1] == ']') {
        from++;
        len -= 2;
    } else if (colon && memchr(address, ':', len)) {
        return false; /* IPv6 needs its brackets: where would the port begin? */
    }
    if (len == 0 || len >= host_bytes || strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
        !colon[1] || strlen(colon + 1) > 5) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        const unsigned char c = (unsigned char)from[i];
        if (!isalnum(c) && !strchr(".-_:%", c)) {
            return false;
        }
    }
    const unsigned long number = strtoul(colon + 1, NULL, 10);
    if (number > UINT16_MAX) {
        return false;
    }
    memcpy(host, from, len);
    host[len] = 0;
    *port = (uint16_t)number;
    return true;
}

bool kith_config_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (strcmp(host, "localhost") == 0) {
        return true;
    }
    if (inet_pton(AF_INET, host, &v4) == 1) {
        return ntohl(v4.s_addr) >> 24 == 127;
    }
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static enum kith_err set_number(struct kith_config *config, const struct key *key, const char *text,
                                const char *where, struct kith_diag *diag)
{
    char *end = NULL;
    errno = 0;
    const unsigned long long number = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end || errno) {
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: expected a number, got \"%.80s\"", where,
                         text);
    }
    if (number > key->max) {
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: at most %llu, got %llu", where,
                         (unsigned long long)key->max, number);
    }
    *(uint64_t *)(void *)((char *)config + key->at) = number;
    return KITH_OK;
}

static enum kith_err set_flag(struct kith_config *config, const struct key *key, const char *text,
                              const char *where, struct kith_diag *diag)
{
    static const char *const yes[] = {"true", "yes", "on", "1"};
    static const char *const no[] = {"false", "no", "off", "0"};
    bool *flag = (bool *)((char *)config + key->at);
    for (size_t i = 0; i < 4; i++) {
        if (strcmp(text, yes[i]) == 0) {
            *flag = true;
            return KITH_OK;
        }
        if (strcmp(text, no[i]) == 0) {
            *flag = false;
            return KITH_OK;
        }
    }
    return kith_fail(diag, KITH_BAD_REQUEST, "%s: expected true or false, got \"%.80s\"", where,
                     text);
}

static enum kith_err set(struct kith_config *config, const struct key *key, const char *text,
                         const char *where, struct kith_diag *diag)
{
    char host[256];
    uint16_t port = 0;
    if (key->kind == KIND_NUMBER) {
        return set_number(config, key, text, where, diag);
    }
    if (key->kind == KIND_FLAG) {
        return set_flag(config, key, text, where, diag);
    }
    if (key->kind == KIND_ADDRESS && text[0] &&
        !kith_config_split(text, host, sizeof host, &port)) {
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "%s: expected HOST:PORT (127.0.0.1:6333, [::1]:6333), got \"%.80s\"",
                         where, text);
    }
    char *copy = kith_strdup(text);
    if (!copy) {
        return kith_fail(diag, KITH_NOMEM, "%s: out of memory", where);
    }
    char **at = text_at(config, key);
    kith_free(*at);
    *at = copy;
    return KITH_OK;
}

/* ---- the file -------------------------------------------------------------------------------- */

static void *yaml_mem(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    if (size == 0) {
        kith_free(ptr);
        return NULL;
    }
    return kith_realloc(ptr, size);
}

/* libcyaml explains itself in log lines: the first is what happened, later ones where. */
struct yaml_words {
    char text[200];
};

static void yaml_log(cyaml_log_t level, void *ctx, const char *fmt, va_list args)
{
    struct yaml_words *words = ctx;
    char line[160];
    (void)level;
    vsnprintf(line, sizeof line, fmt, args);
    line[strcspn(line, "\n")] = 0;
    if (strstr(line, "Backtrace")) {
        return;
    }
    const char *from = strncmp(line, "Load: ", 6) == 0 ? line + 6 : line;
    from += strspn(from, " ");
    const size_t len = strlen(words->text);
    snprintf(words->text + len, sizeof words->text - len, "%s%s", len ? ", " : "", from);
}

static enum kith_err read_yaml(struct kith_config *config, unsigned role, const char *path,
                               struct kith_diag *diag)
{
    cyaml_schema_field_t fields[N_KEYS + 1] = {0};
    for (size_t i = 0; i < N_KEYS; i++) {
        fields[i].key = keys[i].name;
        fields[i].data_offset = (uint32_t)(i * sizeof(char *));
        fields[i].value.type = CYAML_STRING;
        fields[i].value.flags = CYAML_FLAG_POINTER_NULL | CYAML_FLAG_OPTIONAL;
        fields[i].value.data_size = sizeof(char);
        fields[i].value.string.max = KITH_TEXT_MAX;
    }
    const cyaml_schema_value_t schema = {
        .type = CYAML_MAPPING,
        .flags = CYAML_FLAG_POINTER,
        .data_size = sizeof(char *[N_KEYS]),
        .mapping = {.fields = fields},
    };
    struct yaml_words words = {0};
    const cyaml_config_t yaml = {
        .log_fn = yaml_log,
        .log_ctx = &words,
        .mem_fn = yaml_mem,
        .log_level = CYAML_LOG_ERROR,
    };
    char **values = NULL;
    const cyaml_err_t failed =
        cyaml_load_file(path, &yaml, &schema, (cyaml_data_t **)(void *)&values, NULL);
    if (failed) {
        return kith_fail(diag, KITH_BAD_REQUEST, "config %s: %s", path,
                         words.text[0] ? words.text : cyaml_strerror(failed));
    }
    enum kith_err err = KITH_OK;
    for (size_t i = 0; values && i < N_KEYS && !err; i++) {
        if (values[i] && (keys[i].roles & role)) {
            char where[KITH_DIAG_BYTES];
            snprintf(where, sizeof where, "config %.200s: %s", path, keys[i].name);
            err = set(config, &keys[i], values[i], where, diag);
        }
    }
    cyaml_free(&yaml, &schema, values, 0);
    return err;
}

/* ---- flags and the environment --------------------------------------------------------------- */

static const struct key *find_flag(const char *flag, size_t len)
{
    for (size_t i = 0; i < N_KEYS; i++) {
        const char *name = keys[i].name;
        size_t at = 0;
        while (at < len && name[at] && (flag[at] == '-' ? '_' : flag[at]) == name[at] &&
               flag[at] != '_') {
            at++;
        }
        if (at == len && !name[at]) {
            return &keys[i];
        }
    }
    return NULL;
}

struct flag {
    const char *name; /* after "--" */
    size_t name_len;
    const char *value; /* NULL: none was given */
    int n_used;        /* arguments */
};

/* "--name value", "--name=value", "--name" for a KIND_FLAG. */
static enum kith_err next_flag(int n_args, char *const *args, struct flag *out,
                               struct kith_diag *diag)
{
    const char *arg = args[0];
    if (strncmp(arg, "--", 2) != 0 || !arg[2]) {
        return kith_fail(diag, KITH_BAD_REQUEST, "unexpected argument \"%.80s\"", arg);
    }
    out->name = arg + 2;
    out->name_len = strcspn(out->name, "=");
    out->value = out->name[out->name_len] ? out->name + out->name_len + 1 : NULL;
    out->n_used = 1;
    const struct key *key = find_flag(out->name, out->name_len);
    const bool is_config = out->name_len == 6 && strncmp(out->name, "config", 6) == 0;
    const bool is_help = strcmp(out->name, "help") == 0;
    if (!key && !is_config && !is_help) {
        return kith_fail(diag, KITH_BAD_REQUEST, "--%.*s: no such option (see --help)",
                         (int)(out->name_len < 80 ? out->name_len : 80), out->name);
    }
    if (out->value || is_help || (key && key->kind == KIND_FLAG)) {
        return KITH_OK;
    }
    if (n_args < 2) {
        return kith_fail(diag, KITH_BAD_REQUEST, "--%s: a value is missing", out->name);
    }
    out->value = args[1];
    out->n_used = 2;
    return KITH_OK;
}

static const char *env_get(char *const *env, const char *name)
{
    const size_t len = strlen(name);
    for (; env && *env; env++) {
        if (strncmp(*env, name, len) == 0 && (*env)[len] == '=') {
            return *env + len + 1;
        }
    }
    return NULL;
}

static enum kith_err read_env(struct kith_config *config, unsigned role, char *const *env,
                              struct kith_diag *diag)
{
    for (size_t i = 0; i < N_KEYS; i++) {
        char name[64] = "KITH_";
        for (size_t j = 0; keys[i].name[j]; j++) {
            name[5 + j] = (char)toupper((unsigned char)keys[i].name[j]);
        }
        const char *value = env_get(env, name);
        if (value && (keys[i].roles & role)) {
            const enum kith_err err = set(config, &keys[i], value, name, diag);
            if (err) {
                return err;
            }
        }
    }
    return KITH_OK;
}

/* Sets what the flags say; *file and help when they are given. */
static enum kith_err read_flags(struct kith_config *config, unsigned role, int n_args,
                                char *const *args, const char **file, struct kith_diag *diag)
{
    struct flag flag = {0};
    for (int i = 0; i < n_args; i += flag.n_used) {
        enum kith_err err = next_flag(n_args - i, args + i, &flag, diag);
        if (err) {
            return err;
        }
        char where[96];
        snprintf(where, sizeof where, "--%.*s", (int)flag.name_len, flag.name);
        const struct key *key = find_flag(flag.name, flag.name_len);
        if (!key) {
            config->help |= strcmp(flag.name, "help") == 0;
            *file = flag.value ? flag.value : *file;
            continue;
        }
        if (!(key->roles & role)) {
            return kith_fail(diag, KITH_BAD_REQUEST, "%s: not an option of this verb", where);
        }
        err = set(config, key, flag.value ? flag.value : "true", where, diag);
        if (err) {
            return err;
        }
    }
    return KITH_OK;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static enum kith_err set_defaults(struct kith_config *config, unsigned role, struct kith_diag *diag)
{
    for (size_t i = 0; i < N_KEYS; i++) {
        const struct key *key = &keys[i];
        const char *fallback = key->fallback;
        if (key->at == AT(listen)) {
            fallback = role == KITH_CONFIG_SHARD ? "127.0.0.1:6343" : "127.0.0.1:6333";
        }
        if (key->at == AT(registry) && role == KITH_CONFIG_UP) {
            fallback = "file";
        }
        const enum kith_err err = set(config, key, fallback, key->name, diag);
        if (err) {
            return err;
        }
    }
    return KITH_OK;
}

/* set() parsed it. */
static enum kith_err check_address(const struct kith_config *config, const char *key,
                                   const char *address, char host[256], struct kith_diag *diag)
{
    uint16_t port = 0;
    if (!address[0]) {
        return KITH_OK;
    }
    kith_assert(kith_config_split(address, host, 256, &port));
    if (!kith_config_loopback(host) && !config->insecure) {
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "%s %s: others could reach this address, and Kith has no access "
                         "control yet; keep to 127.0.0.1, or add --insecure if the network is "
                         "trusted",
                         key, address);
    }
    return KITH_OK;
}

static enum kith_err check(struct kith_config *config, unsigned role, struct kith_diag *diag)
{
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    char host[256];
    enum kith_err err = check_address(config, "metrics", config->metrics, host, diag);
    err = err ? err : check_address(config, "listen", config->listen, host, diag);
    if (err) {
        return err;
    }
    const bool everywhere = strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
    if (everywhere && role == KITH_CONFIG_SHARD && !config->advertise[0]) {
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "advertise: needed when listening on %s: which address do others use?",
                         config->listen);
    }
    bool known = false;
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        known |= strcmp(config->log_level, levels[i]) == 0;
    }
    if (!known) {
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "log_level: expected debug, info, warn or error, got \"%.40s\"",
                         config->log_level);
    }
    if (role != KITH_CONFIG_UP && strcmp(config->registry, "etcd") != 0) {
        return kith_fail(diag, KITH_BAD_REQUEST, "registry: only etcd serves several processes");
    }
    if (!config->data[0]) {
        return kith_fail(diag, KITH_BAD_REQUEST, "data: expected a folder");
    }
    const size_t len = strlen(config->cluster);
    if (len == 0 || len > KITH_NAME_MAX || strpbrk(config->cluster, "/ \t\n")) {
        return kith_fail(diag, KITH_BAD_REQUEST, "cluster: 1 to %u characters without / or blanks",
                         KITH_NAME_MAX);
    }
    if (!config->node_name[0]) {
        if (gethostname(host, sizeof host)) {
            snprintf(host, sizeof host, "unnamed");
        }
        host[64] = 0;
        kith_free(config->node_name);
        config->node_name = kith_strdup(host);
    }
    return config->node_name ? KITH_OK : kith_fail(diag, KITH_NOMEM, "out of memory");
}

enum kith_err kith_config_read(struct kith_config *out, enum kith_config_role role, int n_args,
                               char *const *args, char *const *env, struct kith_diag *diag)
{
    const char *file = env_get(env, "KITH_CONFIG");
    *out = (struct kith_config){0};
    enum kith_err err = set_defaults(out, role, diag);
    if (err) {
        return err;
    }
    /* Once to find the file and mistakes, once to have the last word. */
    err = read_flags(out, role, n_args, args, &file, diag);
    if (err || out->help) {
        return err;
    }
    if (file) {
        err = read_yaml(out, role, file, diag);
    }
    if (!err) {
        err = read_env(out, role, env, diag);
    }
    if (!err) {
        err = read_flags(out, role, n_args, args, &file, diag);
    }
    return err ? err : check(out, role, diag);
}

void kith_config_fini(struct kith_config *config)
{
    for (size_t i = 0; i < N_KEYS; i++) {
        if (keys[i].kind == KIND_TEXT || keys[i].kind == KIND_ADDRESS) {
            kith_free(*text_at(config, &keys[i]));
        }
    }
    *config = (struct kith_config){0};
}

size_t kith_config_keys(enum kith_config_role role, struct kith_config_key *out, size_t max)
{
    size_t n = 0;
    for (size_t i = 0; i < N_KEYS && n < max; i++) {
        if (keys[i].roles & (unsigned)role) {
            const char *fallback = keys[i].fallback;
            if (keys[i].at == AT(listen)) {
                fallback = role == KITH_CONFIG_SHARD ? "127.0.0.1:6343" : "127.0.0.1:6333";
            }
            out[n++] =
                (struct kith_config_key){keys[i].name, keys[i].value, keys[i].text, fallback};
        }
    }
    return n;
}
