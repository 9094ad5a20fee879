/* Files of the encoders' folder, named by users over HTTP.
 *
 * A name is a plain name: no slash, no leading dot, no control byte; it is opened relative to the
 * folder's descriptor without following a symbolic link, and must be a regular file, so that no
 * request can reach a file outside.
 *
 * Owns: nothing; descriptors belong to the caller. Threads: any.
 * Errors: BAD_REQUEST the name; NOT_FOUND; TOO_BIG; IO; NOMEM. `field` names the config field. */
#ifndef ENCODER_FILES_H
#define ENCODER_FILES_H

#include "common/kith_buf.h"
#include "proto/kith_err.h"

enum kith_err encoder_files_check(const char *field, const char *name,
                                  struct kith_diag *diag) KITH_MUST_CHECK;
enum kith_err encoder_files_open_dir(const char *dir, int *fd,
                                     struct kith_diag *diag) KITH_MUST_CHECK;
enum kith_err encoder_files_open(int dir_fd, const char *field, const char *name, int *fd,
                                 struct kith_diag *diag) KITH_MUST_CHECK;

/* Appends the whole file to buf (the caller's, also after a failure). */
enum kith_err encoder_files_read(int dir_fd, const char *field, const char *name,
                                 struct kith_buf *buf, struct kith_diag *diag) KITH_MUST_CHECK;

#endif
