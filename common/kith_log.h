/* Structured log: kith_log(WARN, "wal.fsync_slow", "shard=%u ms=%u", ...).
 *
 * One line on stderr: time, level, a stable event id, then key=value. Control bytes are escaped and
 * a line is cut at 1 KiB, so user input cannot forge lines. Never vectors, never documents. Log
 * once, where the error stops. Threads: any. */
#ifndef KITH_LOG_H
#define KITH_LOG_H

#include "proto/kith_err.h"

enum kith_log_level { KITH_LOG_DEBUG, KITH_LOG_INFO, KITH_LOG_WARN, KITH_LOG_ERROR };

#define kith_log(level_, event_, ...) kith_log_write(KITH_LOG_##level_, event_, __VA_ARGS__)

void kith_log_write(enum kith_log_level level, const char *event, const char *fmt, ...)
    KITH_PRINTF(3, 4);
void kith_log_level_min(enum kith_log_level level); /* before threads start; INFO by default */

#endif
