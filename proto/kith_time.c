/* RFC 3339 section 5.6, and the forms the HTTP API also takes: a bare date, a space instead of T,
 * no offset (UTC). */
#include "proto/kith_filter.h"

struct scan {
    const uint8_t *at;
    const uint8_t *end;
};

static bool digits(struct scan *s, unsigned n, int *out)
{
    int value = 0;
    if ((size_t)(s->end - s->at) < n)
        return false;
    for (unsigned i = 0; i < n; i++) {
        if (s->at[i] < '0' || s->at[i] > '9')
            return false;
        value = value * 10 + (s->at[i] - '0');
    }
    s->at += n;
    *out = value;
    return true;
}

static bool take(struct scan *s, char c)
{
    if (s->at == s->end || *s->at != (uint8_t)c)
        return false;
    s->at++;
    return true;
}

/* Days since 1970-01-01 in the proleptic Gregorian calendar (Hinnant, "chrono-Compatible Low-Level
 * Date Algorithms"). */
static int64_t days_from_civil(int64_t year, int month, int day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t year_of_era = year - era * 400;
    int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146097 + day_of_era - 719468;
}

static bool date(struct scan *s, int64_t *days)
{
    static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int year, month, day;
    if (!digits(s, 4, &year) || !take(s, '-') || !digits(s, 2, &month) || !take(s, '-') ||
        !digits(s, 2, &day))
        return false;
    if (month < 1 || month > 12 || day < 1)
        return false;
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    if (day > lengths[month - 1] + (month == 2 && leap))
        return false;
    *days = days_from_civil(year, month, day);
    return true;
}

static bool fraction(struct scan *s, int64_t *us)
{
    int64_t scale = 100000;
    if (s->at == s->end || *s->at < '0' || *s->at > '9')
        return false;
    for (; s->at < s->end && *s->at >= '0' && *s->at <= '9'; s->at++, scale /= 10)
        *us += (*s->at - '0') * scale; /* digits beyond microseconds add 0 */
    return true;
}

static bool clock_time(struct scan *s, int64_t *us)
{
    int hour, minute, second = 0;
    int64_t part = 0;
    if (!digits(s, 2, &hour) || !take(s, ':') || !digits(s, 2, &minute))
        return false;
    if (take(s, ':') && !digits(s, 2, &second))
        return false;
    if (take(s, '.') && !fraction(s, &part))
        return false;
    if (hour > 23 || minute > 59 || second > 60) /* 60: a leap second counts as the next one */
        return false;
    *us = ((int64_t)hour * 3600 + minute * 60 + second) * 1000000 + part;
    return true;
}

static bool offset(struct scan *s, int64_t *us)
{
    int hour, minute = 0;
    if (s->at == s->end || take(s, 'Z') || take(s, 'z'))
        return true;
    int sign = take(s, '+') ? 1 : take(s, '-') ? -1 : 0;
    if (sign == 0 || !digits(s, 2, &hour))
        return false;
    if (s->at < s->end) {
        (void)take(s, ':');
        if (!digits(s, 2, &minute))
            return false;
    }
    if (hour > 23 || minute > 59)
        return false;
    *us = sign * ((int64_t)hour * 3600 + minute * 60) * 1000000;
    return true;
}

bool kith_parse_time(struct kith_bytes text, int64_t *out_us)
{
    if (text.len < 10 || text.len > 40)
        return false;
    struct scan s = {text.data, text.data + text.len};
    int64_t days, time_us = 0, offset_us = 0;
    if (!date(&s, &days))
        return false;
    if (s.at < s.end) {
        if (!take(&s, 'T') && !take(&s, 't') && !take(&s, ' '))
            return false;
        if (!clock_time(&s, &time_us) || !offset(&s, &offset_us) || s.at != s.end)
            return false;
    }
    *out_us = days * 86400000000 + time_us - offset_us;
    return true;
}
