/* The HTTP/1.1 front door: sockets, framing, limits and admission. What a path means is the
 * handler's business.
 *
 * A request reaches the handler whole (head and body), framed without doubt (http_check.h), within
 * every limit of kith_limits.h and admitted against the in-flight bounds. What is not is answered
 * here, with the JSON error envelope, and never seen by the handler. Each request owns an arena
 * that dies with its reply.
 *
 * Owns: the listening socket, the connections, the requests. Borrows: the loop, the handler's ctx.
 * Threads: the loop's thread only; work done elsewhere comes back by kith_loop_post before
 * gateway_reply. Errors: open fails with KITH_IO (address) or KITH_NOMEM. Limits: below and
 * kith_limits.h. */
#ifndef GATEWAY_H
#define GATEWAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/kith_arena.h"
#include "common/kith_buf.h"
#include "common/kith_loop.h"
#include "proto/kith_err.h"

struct gateway;

enum gateway_method {
    GATEWAY_GET, /* HEAD arrives as GET too, with `head` set: its body is dropped on the way out */
    GATEWAY_PUT,
    GATEWAY_POST,
    GATEWAY_PATCH,
    GATEWAY_DELETE,
    GATEWAY_OPTIONS,
};
const char *gateway_method_name(enum gateway_method method); /* "GET" */

/* Text here is NUL-terminated, holds no NUL inside, and is valid UTF-8 where it was decoded. */
struct gateway_pair {
    const char *name;
    const char *value;
};

/* Everything in it lives until gateway_reply. */
struct gateway_request {
    /* Immutable for the handler */
    uint64_t id; /* unique in this process, for logs and frames; answered as X-Request-Id */
    enum gateway_method method;
    bool head;
    const char *path;      /* as sent, without the query: for logs */
    const char **segments; /* percent-decoded, empty ones left out: "//a/b%20c/" is {"a", "b c"} */
    uint32_t segments_n;
    const struct gateway_pair *query; /* decoded ('+' is a space), in order */
    uint32_t query_n;
    const struct gateway_pair *headers; /* names in lower case, values trimmed, as sent */
    uint32_t headers_n;
    const char *content_type; /* "" when absent */
    const char *body;         /* never NULL; KITH_JSON_PADDING readable bytes behind it */
    size_t body_bytes;
    uint64_t start_ns; /* kith_now_ns when the head was complete: for "time" in the answer */

    /* The handler's to use */
    uint64_t deadline_ms; /* on kith_now_ms; from X-Deadline-Ms or the default; may be changed */
    struct kith_arena arena;
    void *user; /* for the handler; starts as NULL */

    /* The gateway sets it when the client has gone: work may stop, gateway_reply is still due. */
    bool gone;
};

const char *gateway_query(const struct gateway_request *request,
                          const char *name); /* first value, or NULL */
const char *gateway_header(const struct gateway_request *request,
                           const char *name_lower_case); /* or NULL */

typedef void (*gateway_fn)(void *ctx, struct gateway_request *request);

/* Zero fields mean the default of kith_limits.h. */
struct gateway_options {
    const char *listen; /* "127.0.0.1:6333", "[::1]:0", "localhost:6333"; port 0 picks one */
    gateway_fn handle;  /* called on the loop; may reply at once or later */
    void *ctx;
    size_t body_bytes_max;
    size_t inflight_bytes_max; /* memory of all bodies in hand, read or being read */
    uint32_t inflight_max;     /* requests with the handler at once */
    uint32_t connections_max;
    uint32_t connections_per_ip_max;
    uint32_t header_timeout_ms; /* from the first byte of a request to the end of its head */
    uint32_t idle_timeout_ms;
    uint32_t body_grace_ms; /* then the average must be at least body_bytes_per_s_min */
    uint32_t body_bytes_per_s_min;
    uint32_t write_timeout_ms; /* a reader that takes nothing of its answer for so long is cut */
    uint32_t deadline_default_ms;
};

enum kith_err gateway_open(struct gateway **out, struct kith_loop *loop,
                           const struct gateway_options *options,
                           struct kith_diag *diag) KITH_MUST_CHECK;

/* "http://127.0.0.1:6333" with the real port; valid until gateway_close. */
const char *gateway_url(const struct gateway *gateway);

/* Answers, exactly once per request, from the handler or later. Moves *body (which becomes empty;
 * NULL = no body) and frees the request. content_type NULL = "application/json". extra: pairs put
 * into the head as they are (the caller's static or checked text, no CR or LF), e.g. Retry-After;
 * may be NULL. A body that failed (kith_buf.failed) becomes a 503. */
void gateway_reply(struct gateway_request *request, int status, const char *content_type,
                   struct kith_buf *body, const struct gateway_pair *extra, uint32_t extra_n);

/* The error envelope {"status":{"error":"text"},"time":0.001,"result":null} with the HTTP status of
 * err, and Retry-After: 1 with 429 and 503. Text is escaped. */
void gateway_reply_error(struct gateway_request *request, enum kith_err err, const char *text);

/* Stops accepting and closes idle connections; answers in hand are finished (with Connection:
 * close). done(ctx) is called on the loop, later, when no connection is left or grace_ms is over.
 * Optional: gateway_close alone cuts everything at once. */
void gateway_drain(struct gateway *gateway, uint32_t grace_ms, kith_loop_fn done, void *ctx);

/* Cuts what is left. Requests still with the handler must still be replied to, which then only
 * frees them; that is allowed after gateway_close, on the same thread. NULL allowed. */
void gateway_close(struct gateway *gateway);

struct gateway_stats {
    uint64_t requests;      /* handed to the handler */
    uint64_t refused;       /* framing errors, limits and 429s, answered here */
    uint64_t timeouts;      /* slow heads, slow bodies, slow readers, cut */
    uint64_t connections;   /* accepted, ever */
    uint32_t connections_n; /* open now */
    uint32_t inflight_n;    /* with the handler now */
    size_t inflight_bytes;  /* bodies in hand now */
    uint64_t bytes_in, bytes_out;
};
void gateway_stats(const struct gateway *gateway, struct gateway_stats *out);

#endif
