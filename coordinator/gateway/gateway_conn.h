/* The inside of the gateway: one connection, the request on it, and what they share.
 *
 * Owns: a connection owns its socket, its watcher and its buffers; a request (struct
 * gateway_inflight) belongs to its connection until it is answered, or to itself once the
 * connection is gone. Threads: the loop's. Only gateway*.c may include this. */
#ifndef GATEWAY_CONN_H
#define GATEWAY_CONN_H

#include <sys/socket.h>

#include "coordinator/gateway/gateway.h"
#include "coordinator/gateway/http_check.h"

#define GATEWAY_READ_BYTES (16u * 1024) /* one recv; also how far we read ahead of an answer */
/* Then the others have their turn: copying as many takes 20 us, and 10 times that where the pages
 * of a large body are new. */
#define GATEWAY_TURN_BYTES (128u * 1024)
#define GATEWAY_LINGER_MS  1000u /* after the last answer, for the client to read it */

enum gateway_conn_state {
    GATEWAY_CONN_HEAD,    /* waiting for a request, or in its head */
    GATEWAY_CONN_BODY,    /* receiving a body */
    GATEWAY_CONN_HANDLER, /* the handler has the request */
    GATEWAY_CONN_WRITE,   /* sending the answer */
    GATEWAY_CONN_LINGER,  /* said our last word; throwing away what still comes */
};

struct gateway_inflight {
    struct gateway_request request; /* first: gateway_reply gets its address */
    struct gateway *gateway;
    struct gateway_conn *conn; /* NULL once the client has gone */
    char *body;
    size_t body_cap;  /* charged to the gateway's in-flight bytes */
    size_t body_want; /* Content-Length */
    bool admitted;
};

struct gateway_conn {
    struct gateway *gateway;
    struct gateway_conn *prev, *next;
    bool served; /* which list it is in */
    int fd;
    struct kith_watch *watch;
    struct sockaddr_storage peer;

    enum gateway_conn_state state;
    int armed;      /* events the watcher waits for */
    uint32_t depth; /* how many of our functions are above it on the stack */
    bool dead;      /* closed; freed when depth is 0 */
    bool eof;       /* the client will send no more */
    bool last;      /* close after the answer in hand */

    struct kith_buf in;
    size_t in_at;
    struct http_check_head head;
    struct gateway_inflight *request;

    char *out_head;
    size_t out_head_bytes;
    struct kith_buf out_body;
    size_t out_at; /* of head and body together */

    uint64_t since_ms;    /* the start of the state, or of the request's first byte */
    uint64_t window_ms;   /* start of the current window of minimum progress */
    size_t window_bytes;  /* moved in it */
    size_t discard_bytes; /* thrown away while lingering */
};

struct gateway_conn_list {
    struct gateway_conn *first, *last;
};

struct gateway {
    struct kith_loop *loop;
    struct gateway_options options; /* defaults filled in */
    int listen_fd;
    int spare_fd; /* given up to accept and close a connection when descriptors are out */
    struct kith_watch *listen_watch;
    struct kith_timer *timer;
    uint32_t tick_ms;
    bool ticking;
    char url[128];
    struct gateway_conn_list fresh, served; /* before and after the first request; oldest first */
    bool draining, closed;
    uint64_t drain_end_ms;
    kith_loop_fn drained;
    void *drained_ctx;
    uint64_t next_id;
    struct gateway_stats stats; /* inflight_n counts orphans too: they hold the gateway */
    uint64_t date_s;
    char date[32];
};

/* gateway_request.c. New: reads head (which is OK) and its bytes; on failure *status and *reason
 * say what to answer. */
struct gateway_inflight *gateway_request_new(struct gateway *gateway,
                                             const struct http_check_head *head, const char *bytes,
                                             int *status, const char **reason);
/* Room for at least `bytes` of body, up to body_want; false with *status and *reason. */
bool gateway_request_grow(struct gateway_inflight *inflight, size_t bytes, int *status,
                          const char **reason);
void gateway_request_free(struct gateway_inflight *inflight); /* NULL allowed */

/* gateway_conn.c. New takes fd on success only. */
enum kith_err gateway_conn_new(struct gateway *gateway, int fd,
                               const struct sockaddr_storage *peer);
void gateway_conn_close(struct gateway_conn *conn);
void gateway_conn_tick(struct gateway_conn *conn, uint64_t now_ms);
/* Between them a connection that is closed keeps its memory; the last one arms the watcher. */
void gateway_conn_enter(struct gateway_conn *conn);
void gateway_conn_leave(struct gateway_conn *conn);
void gateway_conn_turn(struct gateway_conn *conn, enum gateway_conn_state state);
/* Works through the bytes in hand as far as they go. */
void gateway_conn_process(struct gateway_conn *conn);

/* gateway_answer.c. Begins the answer; the request is gone then. */
void gateway_conn_answer(struct gateway_conn *conn, int status, const char *content_type,
                         struct kith_buf *body, const struct gateway_pair *extra, uint32_t extra_n);
/* Refuses what cannot be understood or afforded, and closes. */
void gateway_conn_refuse(struct gateway_conn *conn, int status, const char *reason);
/* Sends what the socket takes. */
void gateway_conn_flush(struct gateway_conn *conn);

/* gateway.c */
void gateway_conn_gone(struct gateway *gateway); /* a connection was freed */
void gateway_list_add(struct gateway_conn_list *list, struct gateway_conn *conn);
void gateway_list_remove(struct gateway_conn_list *list, struct gateway_conn *conn);
const char *gateway_date(struct gateway *gateway);
void gateway_error_body(struct kith_buf *out, const char *text, double seconds);

#endif
