#include "coordinator/encode/encoder_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/kith_limits.h"

#define READ_BYTES (64u * 1024)

enum kith_err encoder_files_check(const char *field, const char *name, struct kith_diag *diag)
{
    kith_assert(field != NULL && name != NULL);
    size_t len = strlen(name);
    if (len == 0 || len > KITH_ENCODER_FILE_NAME_MAX) {
        return kith_fail(diag, KITH_BAD_REQUEST, "%s must have 1 to %u bytes", field,
                         KITH_ENCODER_FILE_NAME_MAX);
    }
    if (name[0] == '.') {
        return kith_fail(diag, KITH_BAD_REQUEST, "%s must not start with a dot", field);
    }
    for (size_t i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)name[i];
        if (byte == '/' || byte == '\\' || byte < 0x20 || byte == 0x7F) {
            return kith_fail(diag, KITH_BAD_REQUEST,
                             "%s must be a plain file name in the encoders' folder", field);
        }
    }
    return KITH_OK;
}

enum kith_err encoder_files_open_dir(const char *dir, int *fd, struct kith_diag *diag)
{
    int got = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (got < 0) {
        return kith_fail(diag, errno == ENOENT ? KITH_NOT_FOUND : KITH_IO,
                         "encoders' folder %.200s: errno %d", dir, errno);
    }
    *fd = got;
    return KITH_OK;
}

enum kith_err encoder_files_open(int dir_fd, const char *field, const char *name, int *fd,
                                 struct kith_diag *diag)
{
    enum kith_err err = encoder_files_check(field, name, diag);
    if (err != KITH_OK) {
        return err;
    }
    /* O_NONBLOCK: a fifo put there must not hang the open; regular files ignore it. */
    int got = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (got < 0) {
        if (errno == ENOENT) {
            return kith_fail(diag, KITH_NOT_FOUND, "%s: no file \"%.100s\" in the encoders' folder",
                             field, name);
        }
        if (errno == ELOOP) {
            return kith_fail(diag, KITH_BAD_REQUEST, "%s: \"%.100s\" is a symbolic link", field,
                             name);
        }
        return kith_fail(diag, KITH_IO, "%s: open \"%.100s\": errno %d", field, name, errno);
    }
    struct stat st;
    if (fstat(got, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(got);
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: \"%.100s\" is not a regular file", field,
                         name);
    }
    *fd = got;
    return KITH_OK;
}

enum kith_err encoder_files_read(int dir_fd, const char *field, const char *name,
                                 struct kith_buf *buf, struct kith_diag *diag)
{
    int fd = -1;
    enum kith_err err = encoder_files_open(dir_fd, field, name, &fd, diag);
    if (err != KITH_OK) {
        return err;
    }
    for (;;) {
        uint8_t *room = kith_buf_reserve(buf, READ_BYTES);
        if (room == NULL) {
            bool full = buf->limit != 0 && buf->len + READ_BYTES > buf->limit;
            err = kith_fail(diag, full ? KITH_TOO_BIG : KITH_NOMEM,
                            "%s: no room for \"%.100s\" beyond %zu bytes", field, name, buf->len);
            break;
        }
        ssize_t got = read(fd, room, READ_BYTES);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            err = kith_fail(diag, KITH_IO, "%s: read \"%.100s\": errno %d", field, name, errno);
        }
        if (got <= 0) {
            break;
        }
        buf->len += (size_t)got;
    }
    close(fd);
    return err;
}
