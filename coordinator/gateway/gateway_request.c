/* From a checked head to what the handler sees. The head is copied once into the request's arena
 * and cut there with NULs, so every text of a request is a C string with one owner. */
#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_json.h"
#include "common/kith_mem.h"
#include "coordinator/gateway/gateway_conn.h"

#define BODY_FIRST_BYTES (64u * 1024) /* memory follows what has arrived, not what was claimed */

static bool fields_fill(struct gateway_inflight *inflight, const struct http_check_head *head,
                        char *text)
{
    struct gateway_request *request = &inflight->request;
    struct gateway_pair *pairs =
        kith_arena_array(&request->arena, head->fields_n + 1, sizeof *pairs);

    if (pairs == NULL)
        return false;
    for (uint32_t i = 0; i < head->fields_n; i++) {
        const struct http_check_field *field = &head->fields[i];
        char *name = text + field->name.at;

        for (uint32_t k = 0; k < field->name.len; k++)
            if (name[k] >= 'A' && name[k] <= 'Z')
                name[k] = (char)(name[k] - 'A' + 'a');
        name[field->name.len] = '\0';                    /* was ':' */
        text[field->value.at + field->value.len] = '\0'; /* was white space or CR */
        pairs[i] = (struct gateway_pair){name, text + field->value.at};
    }
    request->headers = pairs;
    request->headers_n = head->fields_n;
    return true;
}

/* The next piece of text up to `stop`; *at ends behind it. */
static struct http_check_span piece(const char *text, size_t n, char stop, size_t *at)
{
    size_t from = *at;
    const char *end = memchr(text + from, stop, n - from);
    size_t to = end == NULL ? n : (size_t)(end - text);

    *at = to + 1;
    return (struct http_check_span){(uint32_t)from, (uint32_t)(to - from)};
}

/* Decodes into the arena; *bad tells a wrong text from missing memory. */
static const char *decode(struct kith_arena *arena, const char *text, size_t n, bool plus,
                          bool *bad)
{
    char *out = kith_arena_alloc(arena, n + 1);
    size_t out_n;

    if (out == NULL)
        return NULL;
    if (!http_check_decode(out, text, n, plus, &out_n)) {
        *bad = true;
        return NULL;
    }
    return out;
}

static size_t count_of(const char *text, size_t n, char c)
{
    size_t count = 0;

    for (size_t i = 0; i < n; i++)
        count += text[i] == c;
    return count;
}

static bool path_fill(struct gateway_request *request, const char *path, size_t n, bool *bad)
{
    const char **segments =
        kith_arena_array(&request->arena, count_of(path, n, '/') + 1, sizeof *segments);

    if (segments == NULL)
        return false;
    for (size_t at = 0; at < n;) {
        struct http_check_span span = piece(path, n, '/', &at);

        if (span.len == 0)
            continue;
        segments[request->segments_n] =
            decode(&request->arena, path + span.at, span.len, false, bad);
        if (segments[request->segments_n] == NULL)
            return false;
        request->segments_n++;
    }
    request->segments = segments;
    return true;
}

static bool query_fill(struct gateway_request *request, const char *query, size_t n, bool *bad)
{
    struct gateway_pair *pairs =
        kith_arena_array(&request->arena, count_of(query, n, '&') + 1, sizeof *pairs);

    if (pairs == NULL)
        return false;
    for (size_t at = 0; at < n;) {
        struct http_check_span span = piece(query, n, '&', &at);
        size_t name_at = 0;
        struct http_check_span name;
        struct gateway_pair *pair = &pairs[request->query_n];

        if (span.len == 0)
            continue;
        name = piece(query + span.at, span.len, '=', &name_at);
        if (name_at > span.len)
            name_at = span.len;
        pair->name = decode(&request->arena, query + span.at, name.len, true, bad);
        pair->value =
            decode(&request->arena, query + span.at + name_at, span.len - name_at, true, bad);
        if (pair->name == NULL || pair->value == NULL)
            return false;
        request->query_n++;
    }
    request->query = pairs;
    return true;
}

static bool target_fill(struct gateway_request *request, char *target, size_t n, bool *bad)
{
    char *mark = memchr(target, '?', n);
    size_t path_n = mark == NULL ? n : (size_t)(mark - target);

    target[n] = '\0'; /* was the space before the version */
    if (!path_fill(request, target, path_n, bad))
        return false;
    if (!query_fill(request, mark == NULL ? target + n : mark + 1,
                    mark == NULL ? 0 : n - path_n - 1, bad))
        return false;
    target[path_n] = '\0';
    request->path = target;
    return true;
}

/* X-Deadline-Ms: how long the client will wait. Nonsense is ignored: it is advice, not input. */
static uint64_t deadline_ms(const struct gateway *gateway, const struct gateway_request *request)
{
    const char *text = gateway_header(request, "x-deadline-ms");
    uint64_t wait = 0;

    for (; text != NULL && *text >= '0' && *text <= '9' && wait <= KITH_DEADLINE_MAX_MS; text++)
        wait = wait * 10 + (uint64_t)(*text - '0');
    if (wait == 0)
        wait = gateway->options.deadline_default_ms;
    if (wait > KITH_DEADLINE_MAX_MS)
        wait = KITH_DEADLINE_MAX_MS;
    return kith_now_ms() + wait;
}

struct gateway_inflight *gateway_request_new(struct gateway *gateway,
                                             const struct http_check_head *head, const char *bytes,
                                             int *status, const char **reason)
{
    struct gateway_inflight *inflight = kith_alloc(sizeof *inflight);
    struct gateway_request *request;
    bool bad = false;
    char *text;

    *status = 503;
    *reason = "out of memory";
    if (inflight == NULL)
        return NULL;
    request = &inflight->request;
    inflight->gateway = gateway;
    inflight->body_want = (size_t)head->content_length;
    text = kith_arena_text(&request->arena, bytes, head->head_bytes);
    if (text == NULL || !fields_fill(inflight, head, text) ||
        !target_fill(request, text + head->target.at, head->target.len, &bad)) {
        if (bad) {
            *status = 400;
            *reason = "the request target is not valid percent-encoded UTF-8";
        }
        gateway_request_free(inflight);
        return NULL;
    }
    request->id = gateway->next_id++;
    request->method = head->method;
    request->head = head->head_only;
    request->content_type = gateway_header(request, "content-type");
    if (request->content_type == NULL)
        request->content_type = "";
    request->start_ns = kith_now_ns();
    request->deadline_ms = deadline_ms(gateway, request);
    return inflight;
}

bool gateway_request_grow(struct gateway_inflight *inflight, size_t bytes, int *status,
                          const char **reason)
{
    struct gateway *gateway = inflight->gateway;
    size_t cap = inflight->body_cap * 2;
    char *body;

    kith_assert(bytes <= inflight->body_want);
    if (bytes + KITH_JSON_PADDING <= inflight->body_cap)
        return true;
    if (cap < BODY_FIRST_BYTES)
        cap = BODY_FIRST_BYTES;
    if (cap < bytes + KITH_JSON_PADDING)
        cap = bytes + KITH_JSON_PADDING;
    if (cap > inflight->body_want + KITH_JSON_PADDING)
        cap = inflight->body_want + KITH_JSON_PADDING;
    if (gateway->stats.inflight_bytes + (cap - inflight->body_cap) >
        gateway->options.inflight_bytes_max) {
        *status = 429;
        *reason = "too many bytes of requests in hand: try again later";
        return false;
    }
    body = kith_realloc(inflight->body, cap);
    if (body == NULL) {
        *status = 503;
        *reason = "out of memory";
        return false;
    }
    gateway->stats.inflight_bytes += cap - inflight->body_cap;
    inflight->body = body;
    inflight->body_cap = cap;
    inflight->request.body = body;
    return true;
}

void gateway_request_free(struct gateway_inflight *inflight)
{
    if (inflight == NULL)
        return;
    inflight->gateway->stats.inflight_bytes -= inflight->body_cap;
    kith_free(inflight->body);
    kith_arena_fini(&inflight->request.arena);
    kith_free(inflight);
}
