#include "common/kith_log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 1024

static const char *const level_names[] = {"DEBUG", "INFO", "WARN", "ERROR"};
static enum kith_log_level level_min = KITH_LOG_INFO;

void kith_log_level_min(enum kith_log_level level)
{
    level_min = level;
}

static void escape(char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

void kith_log_write(enum kith_log_level level, const char *event, const char *fmt, ...)
{
    if (level < level_min)
        return;
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* for the reader's eyes; decides nothing */
    struct tm utc;
    (void)gmtime_r(&now.tv_sec, &utc);

    char line[LINE_BYTES];
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
    int more = snprintf(line + n, sizeof line - n, ".%03ldZ %s %s ", now.tv_nsec / 1000000,
                        level_names[level], event);
    n += more > 0 ? (size_t)more : 0;
    va_list args;
    va_start(args, fmt);
    more = vsnprintf(line + n, sizeof line - n, fmt, args);
    va_end(args);
    size_t len = more < 0 ? n : n + (size_t)more;
    if (len > sizeof line - 2)
        len = sizeof line - 2;
    line[len] = '\0';
    escape(line);
    line[len] = '\n';
    /* One write per line keeps lines of several threads apart; nothing can be done if it fails. */
    ssize_t ignored = write(STDERR_FILENO, line, len + 1);
    (void)ignored;
}
