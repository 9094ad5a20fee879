/* The face of kith_net: messages, and the way a URL goes. */
#include <string.h>

#include "common/kith_mem.h"
#include "common/kith_net_internal.h"

enum kith_err kith_net_from_nng(int rv)
{
    switch (rv) {
    case 0:
        return KITH_OK;
    case NNG_ENOMEM:
        return KITH_NOMEM;
    case NNG_ETIMEDOUT:
        return KITH_TIMEOUT;
    case NNG_EADDRINVAL:
    case NNG_EINVAL:
        return KITH_BAD_REQUEST;
    default:
        return KITH_UNAVAILABLE;
    }
}

nng_msg *kith_net_to_nng(struct kith_net_msg *msg)
{
    return (nng_msg *)msg;
}

/* ---- messages -------------------------------------------------------------------------------- */

struct kith_net_msg *kith_net_msg_new(size_t bytes)
{
    nng_msg *msg = NULL;
    return nng_msg_alloc(&msg, bytes) == 0 ? (struct kith_net_msg *)msg : NULL;
}

uint8_t *kith_net_msg_data(struct kith_net_msg *msg)
{
    return nng_msg_body(kith_net_to_nng(msg));
}

size_t kith_net_msg_len(const struct kith_net_msg *msg)
{
    return nng_msg_len((const nng_msg *)msg);
}

void kith_net_msg_free(struct kith_net_msg *msg)
{
    if (msg != NULL)
        nng_msg_free(kith_net_to_nng(msg));
}

int kith_net_msg_sink(void *msg, const char *data, size_t len)
{
    nng_msg *to = msg;
    size_t need;
    if (!kith_add(nng_msg_len(to), len, &need) || need > KITH_NET_MESSAGE_MAX)
        return -1;
    /* The library grows a message to fit and no further; doubling keeps many small pieces cheap. */
    if (need > nng_msg_capacity(to) && nng_msg_reserve(to, need < 512 ? 1024 : need * 2) != 0)
        return -1;
    return nng_msg_append(to, data, len) == 0 ? 0 : -1;
}

/* ---- which way ------------------------------------------------------------------------------- */

static bool starts_with(const char *url, const char *scheme)
{
    return strncmp(url, scheme, strlen(scheme)) == 0;
}

static enum kith_err check_url(const char *url, struct kith_diag *diag)
{
    if ((!starts_with(url, "tcp://") && !starts_with(url, "inproc://")) ||
        strlen(url) + 8 > KITH_NET_URL_BYTES) /* a port may still have to go in */
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "%.100s: expected tcp://host:port or inproc://name", url);
    return KITH_OK;
}

enum kith_err kith_net_listen(struct kith_net_server **out, const char *url,
                              kith_net_serve_fn serve, void *ctx, struct kith_diag *diag)
{
    enum kith_err err = check_url(url, diag);
    if (err != KITH_OK)
        return err;
    return starts_with(url, "tcp:") ? kith_net_tcp_listen(out, url, serve, ctx, diag)
                                    : kith_net_inproc_listen(out, url, serve, ctx, diag);
}

const char *kith_net_server_url(const struct kith_net_server *server)
{
    return server->url;
}

void kith_net_server_close(struct kith_net_server *server)
{
    if (server == NULL)
        return;
    if (server->tcp)
        kith_net_tcp_server_close(server);
    else
        kith_net_inproc_server_close(server);
}

void kith_net_reply(struct kith_net_call *call, struct kith_net_msg *reply)
{
    if (call->tcp)
        kith_net_tcp_reply(call, reply);
    else
        kith_net_inproc_reply(call, reply);
}

enum kith_err kith_net_dial(struct kith_net_peer **out, const char *url, struct kith_diag *diag)
{
    enum kith_err err = check_url(url, diag);
    if (err != KITH_OK)
        return err;
    return starts_with(url, "tcp:") ? kith_net_tcp_dial(out, url, diag)
                                    : kith_net_inproc_dial(out, url, diag);
}

void kith_net_peer_close(struct kith_net_peer *peer)
{
    if (peer == NULL)
        return;
    if (peer->tcp)
        kith_net_tcp_peer_close(peer);
    else
        kith_net_inproc_peer_close(peer);
}

bool kith_net_peer_up(const struct kith_net_peer *peer)
{
    struct kith_net_peer *own = (struct kith_net_peer *)peer; /* its lock, nothing else, changes */
    return peer->tcp ? kith_net_tcp_peer_up(own) : kith_net_inproc_peer_up(own);
}

enum kith_err kith_net_ask(struct kith_net_peer *peer, struct kith_net_msg *request,
                           uint32_t timeout_ms, kith_net_done_fn done, void *ctx)
{
    kith_assert(request != NULL && done != NULL);
    return peer->tcp ? kith_net_tcp_ask(peer, request, timeout_ms, done, ctx)
                     : kith_net_inproc_ask(peer, request, timeout_ms, done, ctx);
}

#if defined(__SANITIZE_ADDRESS__)
/* NNG frees sockets and pipes on its reaper thread, some of them after main returned. Its leaks are
 * not ours to count; everything of Kith's goes through kith_mem and is. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libnng";
}
#endif

#if defined(__SANITIZE_THREAD__)
/* NNG counts references with atomics that the sanitizer does not see (the library is not built with
 * it), and so thinks that its reaper destroys mutexes which others may hold. Only that is hidden:
 * "race:libnng" would hide every race of ours below a callback of NNG. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:pthread_mutex_destroy\n";
}
#endif
