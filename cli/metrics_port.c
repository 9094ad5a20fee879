#include "cli/metrics_port.h"

#include <stdio.h>
#include <string.h>

#include "common/kith_mem.h"
#include "coordinator/gateway/gateway.h"

#define CONNECTIONS_MAX 16u /* scrapers: a few, one at a time */
#define BODY_BYTES_MAX  1024u

struct metrics_port {
    struct kith_metrics *metrics;
    struct gateway *gateway;
    char url[320];
};

static void on_request(void *ctx, struct gateway_request *request)
{
    const struct metrics_port *port = ctx;
    struct kith_buf body = {0};
    if (request->segments_n != 1 || strcmp(request->segments[0], "metrics") != 0) {
        gateway_reply_error(request, KITH_NOT_FOUND,
                            "a shard node answers GET /metrics here and nothing else");
    } else if (request->method != GATEWAY_GET) {
        gateway_reply_error(request, KITH_METHOD, "/metrics: GET only");
    } else {
        kith_metrics_render(port->metrics, &body);
        gateway_reply(request, 200, "text/plain; version=0.0.4", &body, NULL, 0);
    }
}

enum kith_err metrics_port_open(struct metrics_port **out, struct kith_loop *loop,
                                struct kith_metrics *metrics, const char *listen,
                                struct kith_diag *diag)
{
    struct metrics_port *port = kith_alloc(sizeof *port);
    if (!port) {
        return kith_fail(diag, KITH_NOMEM, "metrics");
    }
    port->metrics = metrics;
    const struct gateway_options options = {
        .listen = listen,
        .handle = on_request,
        .ctx = port,
        .body_bytes_max = BODY_BYTES_MAX,
        .connections_max = CONNECTIONS_MAX,
        .connections_per_ip_max = CONNECTIONS_MAX,
    };
    const enum kith_err err = gateway_open(&port->gateway, loop, &options, diag);
    if (err) {
        kith_diag_prefix(diag, "metrics");
        kith_free(port);
        return err;
    }
    snprintf(port->url, sizeof port->url, "%.300s/metrics", gateway_url(port->gateway));
    *out = port;
    return KITH_OK;
}

void metrics_port_close(struct metrics_port *port)
{
    if (port) {
        gateway_close(port->gateway);
        kith_free(port);
    }
}

const char *metrics_port_url(const struct metrics_port *port)
{
    return port->url;
}
