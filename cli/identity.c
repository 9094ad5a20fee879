#include "cli/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/kith_keys.h"
#include "common/kith_mem.h"
#include "proto/kith_crc32c.h"

#define PATH_BYTES 4096
#define TEXT_BYTES 128

static enum kith_err failed(struct kith_diag *diag, const char *what, const char *path)
{
    return kith_fail(diag, errno == ENOSPC || errno == EDQUOT ? KITH_DISK_FULL : KITH_IO,
                     "%s %.200s: %s", what, path, strerror(errno));
}

static enum kith_err join(char path[PATH_BYTES], const char *dir, const char *name,
                          struct kith_diag *diag)
{
    const int n = snprintf(path, PATH_BYTES, "%s/%s", dir, name);
    return n > 0 && n < PATH_BYTES
               ? KITH_OK
               : kith_fail(diag, KITH_BAD_REQUEST, "data: the path is too long");
}

/* mkdir -p */
static enum kith_err make_dirs(const char *dir, struct kith_diag *diag)
{
    char path[PATH_BYTES];
    const size_t len = strlen(dir);
    if (len >= sizeof path) {
        return kith_fail(diag, KITH_BAD_REQUEST, "data: the path is too long");
    }
    for (size_t i = 1; i <= len; i++) {
        if (dir[i] == '/' || dir[i] == 0) {
            memcpy(path, dir, i);
            path[i] = 0;
            if (mkdir(path, 0700) && errno != EEXIST) {
                return failed(diag, "create", path);
            }
        }
    }
    return KITH_OK;
}

/* "kith-node 1 <node> <cluster or 16 zeroes> <crc32c of what is before>\n" */
static size_t format(char text[TEXT_BYTES], const struct identity *identity)
{
    const int n = snprintf(text, TEXT_BYTES, "kith-node 1 %016" PRIx64 " %016" PRIx64 " ",
                           identity->node, identity->cluster);
    const int m = snprintf(text + n, TEXT_BYTES - (size_t)n, "%08" PRIx32 "\n",
                           kith_crc32c(0, text, (size_t)n));
    return (size_t)(n + m);
}

static bool parse(const char *text, size_t len, struct identity *out)
{
    char again[TEXT_BYTES];
    struct identity identity = {0};
    if (sscanf(text, "kith-node 1 %16" SCNx64 " %16" SCNx64 " ", &identity.node,
               &identity.cluster) != 2 ||
        identity.node == 0 || format(again, &identity) != len || memcmp(again, text, len) != 0) {
        return false;
    }
    *out = identity;
    return true;
}

enum kith_err identity_save(const struct identity *identity, const char *dir,
                            struct kith_diag *diag)
{
    char path[PATH_BYTES];
    char tmp[PATH_BYTES];
    char text[TEXT_BYTES];
    const size_t len = format(text, identity);
    enum kith_err err = join(path, dir, "node", diag);
    err = err ? err : join(tmp, dir, "node.tmp", diag);
    if (err) {
        return err;
    }
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return failed(diag, "create", tmp);
    }
    if (write(fd, text, len) != (ssize_t)len || fsync(fd)) {
        err = failed(diag, "write", tmp);
    }
    close(fd);
    if (!err && rename(tmp, path)) {
        err = failed(diag, "rename to", path);
    }
    if (err) {
        return err;
    }
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd)) {
        err = failed(diag, "sync", dir);
    }
    if (fd >= 0) {
        close(fd);
    }
    return err;
}

enum kith_err identity_load(struct identity *out, const char *dir, struct kith_diag *diag)
{
    char path[PATH_BYTES];
    char text[TEXT_BYTES] = {0};
    enum kith_err err = make_dirs(dir, diag);
    err = err ? err : join(path, dir, "node", diag);
    if (err) {
        return err;
    }
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        const struct identity fresh = {.node = kith_keys_random_id()};
        err = identity_save(&fresh, dir, diag);
        if (!err) {
            *out = fresh;
        }
        return err;
    }
    if (fd < 0) {
        return failed(diag, "open", path);
    }
    const ssize_t len = read(fd, text, sizeof text - 1);
    if (len < 0) {
        err = failed(diag, "read", path);
    } else if (!parse(text, (size_t)len, out)) {
        err = kith_fail(diag, KITH_CORRUPT, "%.200s is damaged: whose folder is this?", path);
    }
    close(fd);
    return err;
}
