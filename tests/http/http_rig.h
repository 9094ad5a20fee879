/* A gateway on its own thread, with a handler that counts, and a raw client beside it.
 *
 * Owns: the loop, the gateway, the thread. Threads: every function here is for the test's thread.
 */
#ifndef HTTP_RIG_H
#define HTTP_RIG_H

#include <pthread.h>
#include <semaphore.h>

#include "common/kith_loop.h"
#include "coordinator/gateway/gateway.h"

struct http_rig {
    struct kith_loop *loop;
    struct gateway *gateway;
    pthread_t thread;
    uint16_t port;

    /* Loop thread only; read through http_rig_look. */
    unsigned calls;
    unsigned smuggled; /* calls with "smuggled" in the path */
    struct gateway_request *held[64];
    unsigned held_n;
};

/* What the handler does, by path: "/hold" waits for http_rig_release, "/big" answers 8 MiB, all
 * else answers {"path":...,"bytes":N} at once. */
void http_rig_open(struct http_rig *rig, const struct gateway_options *options);
void http_rig_close(struct http_rig *rig);

struct http_rig_view {
    unsigned calls, smuggled, held_n;
    struct gateway_stats stats;
};
void http_rig_look(struct http_rig *rig, struct http_rig_view *out);
void http_rig_release(struct http_rig *rig); /* answers all that is held */

int http_rig_connect(const struct http_rig *rig);
void http_rig_send(int fd, const char *bytes, size_t n); /* a reset by the peer is not an error */

/* One answer: its status, or 0 when the stream ended before it was whole. body may be NULL. */
int http_rig_answer(int fd, char *body, size_t body_bytes);
bool http_rig_ended(int fd); /* waits for the end of the stream; false: more bytes came */

#endif
