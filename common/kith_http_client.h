/* An HTTP client: libcurl's one home. Asynchronous on a loop (the registry's etcd), and blocking
 * (the CLI, tests).
 *
 * http and https only, no redirects, no proxy from the environment, no signals. Connections are
 * kept and reused per client. A body longer than response_max ends the request with KITH_TOO_BIG.
 *
 * Threads: a client belongs to one thread (asynchronous: its loop's). Errors: KITH_UNAVAILABLE (not
 * reachable, connection lost), KITH_TIMEOUT, KITH_TOO_BIG, KITH_PROTOCOL (not HTTP), KITH_NOMEM. An
 * HTTP status is not an error: look at response.status. */
#ifndef KITH_HTTP_CLIENT_H
#define KITH_HTTP_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#include "common/kith_buf.h"
#include "common/kith_loop.h"
#include "proto/kith_err.h"

/* Read during the call only, body too (it is copied by the asynchronous form). */
struct kith_http_request {
    const char *method; /* "GET" */
    const char *url;
    const char *const *headers; /* "Name: value", ..., NULL; NULL = none */
    const void *body;           /* NULL = no body */
    size_t body_len;
    uint32_t timeout_ms;         /* of the whole request; 0 = none (streams) */
    uint32_t connect_timeout_ms; /* 0 = 5000 */
    size_t response_max;         /* bytes of body (of one chunk in streams); 0 = 64 MiB */
};

/* Zero-initialise to start; may be used again for the next request, which empties it. */
struct kith_http_response {
    int status;
    struct kith_buf
        body; /* KITH_JSON_PADDING readable bytes follow body.data[len]; data[len] = 0 */
    struct kith_buf headers;
};
void kith_http_response_fini(struct kith_http_response *response);
/* The value of the last header of that name (any case), NULL when absent. Borrowed. */
const char *kith_http_response_header(const struct kith_http_response *response, const char *name);

/* ---- blocking -------------------------------------------------------------------------------- */

struct kith_http_session;
enum kith_err kith_http_session_open(struct kith_http_session **out, struct kith_diag *diag);
void kith_http_session_close(struct kith_http_session *session); /* NULL allowed */
/* The response holds whatever arrived, also on failure. */
enum kith_err kith_http_session_ask(struct kith_http_session *session,
                                    const struct kith_http_request *request,
                                    struct kith_http_response *response, struct kith_diag *diag);

/* ---- asynchronous ---------------------------------------------------------------------------- */

struct kith_http_client;
struct kith_http_call; /* one request under way; gone when its done callback returns */

enum kith_err kith_http_client_open(struct kith_http_client **out, struct kith_loop *loop,
                                    struct kith_diag *diag);
/* Calls under way end with KITH_CANCELLED first. NULL allowed. */
void kith_http_client_close(struct kith_http_client *client);

/* The response is borrowed for the callback. Exactly once per call, never from inside start. */
typedef void (*kith_http_done_fn)(void *ctx, enum kith_err err,
                                  const struct kith_http_response *response,
                                  const struct kith_diag *diag);
/* Streams: each piece of a 2xx body as it arrives; such a body is not kept in the response.
 * Returning false ends the request with KITH_CANCELLED. Must not cancel or close by itself. */
typedef bool (*kith_http_chunk_fn)(void *ctx, const uint8_t *data, size_t len);

/* chunk may be NULL. On failure nothing was started and done is not called. *out may be used until
 * done is called. */
enum kith_err kith_http_client_start(struct kith_http_client *client,
                                     const struct kith_http_request *request,
                                     kith_http_chunk_fn chunk, kith_http_done_fn done, void *ctx,
                                     struct kith_http_call **out);
/* Ends it without its callback. */
void kith_http_client_cancel(struct kith_http_call *call);

#endif
