#include "common/kith_http_client.h"

#include <curl/curl.h>
#include <pthread.h>
#include <string.h>
#include <strings.h>

#include "common/kith_json.h"
#include "common/kith_mem.h"

/* libcurl, twice: the easy interface for callers that may block, and the multi-socket interface for
 * a loop. In the second, curl tells which descriptors it waits for and when it wants a timer; every
 * event goes back by curl_multi_socket_action, and finished transfers are collected after it.
 *
 * curl forbids its own functions inside its callbacks, and a caller wants none of its callbacks
 * inside its calls. So starting only adds the transfer (curl asks for a timer at once), finished
 * calls are reported from the loop, and the one callback that does run inside curl (chunk) may do
 * nothing but take the bytes. */

#define RESPONSE_MAX_DEFAULT       ((size_t)64 << 20)
#define RESPONSE_HEADERS_MAX       ((size_t)64 << 10)
#define CONNECT_TIMEOUT_MS_DEFAULT 5000u

/* One request, either way. */
struct transfer {
    CURL *easy;
    struct curl_slist *headers;
    size_t response_max;
    bool too_big;
    bool refused; /* by the chunk callback */
    kith_http_chunk_fn chunk;
    void *chunk_ctx;
    struct kith_http_response *response;
    char error[CURL_ERROR_SIZE];
};

static void curl_start(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static void curl_once(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, curl_start);
}

/* ---- the response ---------------------------------------------------------------------------- */

void kith_http_response_fini(struct kith_http_response *response)
{
    kith_buf_fini(&response->body);
    kith_buf_fini(&response->headers);
    response->status = 0;
}

/* Headers are kept as "Name: value\0" one after the other. */
const char *kith_http_response_header(const struct kith_http_response *response, const char *name)
{
    const char *at = (const char *)response->headers.data;
    const char *end = at ? at + response->headers.len : NULL;
    const size_t len = strlen(name);
    const char *found = NULL;
    while (at && at < end) {
        if (strncasecmp(at, name, len) == 0 && at[len] == ':') {
            found = at + len + 1;
            found += strspn(found, " \t");
        }
        at += strlen(at) + 1;
    }
    return found;
}

static void response_reset(struct kith_http_response *response, size_t response_max)
{
    response->status = 0;
    kith_buf_reset(&response->body);
    kith_buf_reset(&response->headers);
    response->body.limit = response_max + KITH_JSON_PADDING + 1;
    response->headers.limit = RESPONSE_HEADERS_MAX;
}

static size_t on_header(char *data, size_t size, size_t n, void *ctx)
{
    struct transfer *transfer = ctx;
    struct kith_http_response *response = transfer->response;
    size_t len = size * n;
    while (len > 0 && (data[len - 1] == '\n' || data[len - 1] == '\r')) {
        len--;
    }
    if (len > 5 && memcmp(data, "HTTP/", 5) == 0) {
        kith_buf_reset(&response->headers); /* a new block, after "100 Continue" */
    } else if (len > 0 && !memchr(data, 0, len)) {
        kith_buf_append(&response->headers, data, len);
        kith_buf_byte(&response->headers, 0);
    }
    transfer->too_big |= response->headers.failed;
    return response->headers.failed ? 0 : size * n;
}

static size_t on_body(char *data, size_t size, size_t n, void *ctx)
{
    struct transfer *transfer = ctx;
    const size_t len = size * n;
    if (transfer->chunk) {
        long status = 0;
        curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
        if (status >= 200 && status < 300) {
            transfer->refused = !transfer->chunk(transfer->chunk_ctx, (const uint8_t *)data, len);
            return transfer->refused ? 0 : len;
        }
    }
    struct kith_buf *body = &transfer->response->body;
    if (len > transfer->response_max - body->len) {
        transfer->too_big = true;
        return 0;
    }
    kith_buf_append(body, data, len);
    return body->failed ? 0 : len;
}

static enum kith_err finish(struct transfer *transfer, CURLcode code, struct kith_diag *diag)
{
    struct kith_http_response *response = transfer->response;
    long status = 0;
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
    response->status = (int)status;
    uint8_t *pad = kith_buf_reserve(&response->body, KITH_JSON_PADDING);
    if (pad) {
        memset(pad, 0, KITH_JSON_PADDING);
    }
    if (transfer->too_big) {
        return kith_fail(diag, KITH_TOO_BIG, "the answer is larger than %zu bytes",
                         transfer->response_max);
    }
    if (transfer->refused) {
        return kith_fail(diag, KITH_CANCELLED, "cancelled");
    }
    if (!pad || code == CURLE_OUT_OF_MEMORY) {
        return kith_fail(diag, KITH_NOMEM, "out of memory");
    }
    if (code == CURLE_OK) {
        return KITH_OK;
    }
    enum kith_err err = KITH_UNAVAILABLE;
    if (code == CURLE_OPERATION_TIMEDOUT) {
        err = KITH_TIMEOUT;
    } else if (code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_URL_MALFORMAT) {
        err = KITH_BAD_REQUEST;
    } else if (code == CURLE_WEIRD_SERVER_REPLY || code == CURLE_HTTP2) {
        err = KITH_PROTOCOL;
    }
    return kith_fail(diag, err, "%s",
                     transfer->error[0] ? transfer->error : curl_easy_strerror(code));
}

/* ---- the request ----------------------------------------------------------------------------- */

static bool set_headers(struct transfer *transfer, const struct kith_http_request *request)
{
    /* curl's own "Expect: 100-continue" would cost a round trip per large body. */
    struct curl_slist *list = curl_slist_append(NULL, "Expect:");
    bool ok = list != NULL;
    for (size_t i = 0; ok && request->headers && request->headers[i]; i++) {
        struct curl_slist *longer = curl_slist_append(list, request->headers[i]);
        ok = longer != NULL;
        list = ok ? longer : list;
    }
    transfer->headers = list;
    return ok && curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER, list) == CURLE_OK;
}

static bool set_body(CURL *easy, const struct kith_http_request *request, bool copy)
{
    if (strcmp(request->method, "HEAD") == 0) {
        return curl_easy_setopt(easy, CURLOPT_NOBODY, 1L) == CURLE_OK;
    }
    if (!request->body) {
        return true;
    }
    return curl_easy_setopt(easy, CURLOPT_POST, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_len) ==
               CURLE_OK &&
           curl_easy_setopt(easy, copy ? CURLOPT_COPYPOSTFIELDS : CURLOPT_POSTFIELDS,
                            request->body) == CURLE_OK;
}

static bool set_up(struct transfer *transfer, const struct kith_http_request *request, bool copy)
{
    CURL *easy = transfer->easy;
    const long connect_ms = (long)(request->connect_timeout_ms ? request->connect_timeout_ms
                                                               : CONNECT_TIMEOUT_MS_DEFAULT);
    transfer->response_max = request->response_max ? request->response_max : RESPONSE_MAX_DEFAULT;
    transfer->error[0] = 0;
    bool ok = curl_easy_setopt(easy, CURLOPT_URL, request->url) == CURLE_OK;
    ok = ok && curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK;
    ok = ok && curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1) == CURLE_OK;
    ok = ok && curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK;
    ok = ok && curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK;
    ok = ok && curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)request->timeout_ms) == CURLE_OK;
    ok = ok && curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, connect_ms) == CURLE_OK;
    ok = ok && curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->error) == CURLE_OK;
    ok = ok && curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header) == CURLE_OK;
    ok = ok && curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer) == CURLE_OK;
    ok = ok && curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK;
    ok = ok && curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer) == CURLE_OK;
    ok = ok && set_body(easy, request, copy) && set_headers(transfer, request);
    /* After the body: POST is only how curl sends one. */
    return ok && curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method) == CURLE_OK;
}

/* ---- blocking -------------------------------------------------------------------------------- */

struct kith_http_session {
    CURL *easy;
};

enum kith_err kith_http_session_open(struct kith_http_session **out, struct kith_diag *diag)
{
    curl_once();
    struct kith_http_session *session = kith_alloc(sizeof *session);
    if (session) {
        session->easy = curl_easy_init();
    }
    if (!session || !session->easy) {
        kith_free(session);
        return kith_fail(diag, KITH_NOMEM, "http client");
    }
    *out = session;
    return KITH_OK;
}

void kith_http_session_close(struct kith_http_session *session)
{
    if (session) {
        curl_easy_cleanup(session->easy);
        kith_free(session);
    }
}

enum kith_err kith_http_session_ask(struct kith_http_session *session,
                                    const struct kith_http_request *request,
                                    struct kith_http_response *response, struct kith_diag *diag)
{
    struct transfer transfer = {.easy = session->easy, .response = response};
    response_reset(response, request->response_max ? request->response_max : RESPONSE_MAX_DEFAULT);
    curl_easy_reset(session->easy); /* options; connections stay */
    enum kith_err err = KITH_OK;
    if (set_up(&transfer, request, false)) {
        err = finish(&transfer, curl_easy_perform(session->easy), diag);
    } else {
        err = kith_fail(diag, KITH_NOMEM, "http client");
    }
    curl_easy_reset(session->easy); /* drops the pointers into this frame */
    curl_slist_free_all(transfer.headers);
    return err;
}

/* ---- asynchronous ---------------------------------------------------------------------------- */

struct kith_http_call {
    struct transfer transfer;
    struct kith_http_response response;
    kith_http_done_fn done;
    void *ctx;
    struct kith_http_client *client;
    struct kith_http_call *next, **link;
};

struct kith_http_client {
    CURLM *multi;
    struct kith_loop *loop;
    struct kith_timer *timer;
    struct kith_http_call *calls;
    struct socket *sockets;
};

/* A descriptor of curl's that the loop watches. */
struct socket {
    struct kith_http_client *client;
    struct kith_watch *watch;
    curl_socket_t fd;
    struct socket *next, **link;
};

static void call_free(struct kith_http_call *call)
{
    if (call->link) {
        *call->link = call->next;
        if (call->next) {
            call->next->link = call->link;
        }
    }
    if (call->transfer.easy) {
        curl_easy_cleanup(call->transfer.easy);
    }
    curl_slist_free_all(call->transfer.headers);
    kith_http_response_fini(&call->response);
    kith_free(call);
}

static void collect(struct kith_http_client *client)
{
    int left = 0;
    for (CURLMsg *msg = curl_multi_info_read(client->multi, &left); msg;
         msg = curl_multi_info_read(client->multi, &left)) {
        if (msg->msg != CURLMSG_DONE) {
            continue;
        }
        const CURLcode code = msg->data.result;
        struct kith_http_call *call = NULL;
        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &call);
        curl_multi_remove_handle(client->multi, call->transfer.easy); /* msg is gone now */
        struct kith_diag diag = {0};
        const enum kith_err err = finish(&call->transfer, code, &diag);
        call->done(call->ctx, err, &call->response, &diag);
        call_free(call);
    }
}

static void on_timer(void *ctx)
{
    struct kith_http_client *client = ctx;
    int running = 0;
    curl_multi_socket_action(client->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    collect(client);
}

static void on_socket(void *ctx, int events, bool error)
{
    struct socket *sock = ctx;
    struct kith_http_client *client = sock->client;
    const int mask = (events & KITH_READABLE ? CURL_CSELECT_IN : 0) |
                     (events & KITH_WRITABLE ? CURL_CSELECT_OUT : 0) |
                     (error ? CURL_CSELECT_ERR : 0);
    int running = 0;
    curl_multi_socket_action(client->multi, sock->fd, mask, &running); /* may free sock */
    collect(client);
}

static void socket_free(struct socket *sock)
{
    *sock->link = sock->next;
    if (sock->next) {
        sock->next->link = sock->link;
    }
    kith_watch_free(sock->watch);
    kith_free(sock);
}

static struct socket *socket_new(struct kith_http_client *client, curl_socket_t fd)
{
    struct socket *sock = kith_alloc(sizeof *sock);
    if (!sock) {
        return NULL;
    }
    sock->client = client;
    sock->fd = fd;
    if (kith_watch_new(&sock->watch, client->loop, fd, on_socket, sock)) {
        kith_free(sock);
        return NULL;
    }
    sock->link = &client->sockets;
    sock->next = client->sockets;
    if (sock->next) {
        sock->next->link = &sock->next;
    }
    client->sockets = sock;
    curl_multi_assign(client->multi, fd, sock);
    return sock;
}

/* curl's CURLMOPT_SOCKETFUNCTION. */
static int want_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket_ctx)
{
    struct kith_http_client *client = ctx;
    struct socket *sock = socket_ctx;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (sock) {
            curl_multi_assign(client->multi, fd, NULL);
            socket_free(sock);
        }
        return 0;
    }
    sock = sock ? sock : socket_new(client, fd);
    if (!sock) {
        /* Out of memory. Saying so (-1) would end every transfer of the client and all to come;
         * without a watch this one ends by its timeout. */
        return 0;
    }
    kith_watch_start(sock->watch, (what & CURL_POLL_IN ? KITH_READABLE : 0) |
                                      (what & CURL_POLL_OUT ? KITH_WRITABLE : 0));
    return 0;
}

/* curl's CURLMOPT_TIMERFUNCTION. */
static int want_timer(CURLM *multi, long timeout_ms, void *ctx)
{
    struct kith_http_client *client = ctx;
    (void)multi;
    if (timeout_ms < 0) {
        kith_timer_stop(client->timer);
    } else {
        kith_timer_start(client->timer, (uint64_t)timeout_ms, 0);
    }
    return 0;
}

enum kith_err kith_http_client_open(struct kith_http_client **out, struct kith_loop *loop,
                                    struct kith_diag *diag)
{
    curl_once();
    struct kith_http_client *client = kith_alloc(sizeof *client);
    if (!client) {
        return kith_fail(diag, KITH_NOMEM, "http client");
    }
    client->loop = loop;
    enum kith_err err = kith_timer_new(&client->timer, loop, on_timer, client);
    if (err) {
        goto out;
    }
    client->multi = curl_multi_init();
    if (!client->multi ||
        curl_multi_setopt(client->multi, CURLMOPT_SOCKETFUNCTION, want_socket) != CURLM_OK ||
        curl_multi_setopt(client->multi, CURLMOPT_SOCKETDATA, client) != CURLM_OK ||
        curl_multi_setopt(client->multi, CURLMOPT_TIMERFUNCTION, want_timer) != CURLM_OK ||
        curl_multi_setopt(client->multi, CURLMOPT_TIMERDATA, client) != CURLM_OK) {
        err = KITH_NOMEM;
        goto out;
    }
    *out = client;
    return KITH_OK;
out:
    kith_http_client_close(client);
    return kith_fail(diag, err, "http client");
}

void kith_http_client_close(struct kith_http_client *client)
{
    if (!client) {
        return;
    }
    while (client->calls) {
        struct kith_http_call *call = client->calls;
        const struct kith_diag diag = {.err = KITH_CANCELLED};
        curl_multi_remove_handle(client->multi, call->transfer.easy);
        call->done(call->ctx, KITH_CANCELLED, &call->response, &diag);
        call_free(call);
    }
    if (client->multi) {
        curl_multi_cleanup(client->multi);
    }
    while (client->sockets) {
        socket_free(client->sockets);
    }
    kith_timer_free(client->timer);
    kith_free(client);
}

enum kith_err kith_http_client_start(struct kith_http_client *client,
                                     const struct kith_http_request *request,
                                     kith_http_chunk_fn chunk, kith_http_done_fn done, void *ctx,
                                     struct kith_http_call **out)
{
    struct kith_http_call *call = kith_alloc(sizeof *call);
    if (!call) {
        return KITH_NOMEM;
    }
    call->client = client;
    call->done = done;
    call->ctx = ctx;
    call->transfer.response = &call->response;
    call->transfer.chunk = chunk;
    call->transfer.chunk_ctx = ctx;
    call->transfer.easy = curl_easy_init();
    if (!call->transfer.easy || !set_up(&call->transfer, request, true) ||
        curl_easy_setopt(call->transfer.easy, CURLOPT_PRIVATE, call) != CURLE_OK) {
        call_free(call);
        return KITH_NOMEM;
    }
    response_reset(&call->response, call->transfer.response_max);
    if (curl_multi_add_handle(client->multi, call->transfer.easy) != CURLM_OK) {
        call_free(call);
        return KITH_NOMEM;
    }
    call->link = &client->calls;
    call->next = client->calls;
    if (call->next) {
        call->next->link = &call->next;
    }
    client->calls = call;
    if (out) {
        *out = call;
    }
    return KITH_OK;
}

void kith_http_client_cancel(struct kith_http_call *call)
{
    curl_multi_remove_handle(call->client->multi, call->transfer.easy);
    call_free(call);
}
