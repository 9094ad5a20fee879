#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_etcd_decode.h"
#include "common/kith_etcd_encode.h"
#include "common/kith_http_client.h"
#include "common/kith_json.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "common/kith_registry_etcd_impl.h"
#include "proto/kith_limits.h"

/* The registry of a cluster: etcd by its v3 JSON gateway.
 *
 * One state machine keeps the mirror: CHECK (the revision now) -> GRANT (a lease, if there is none)
 * -> READ (all keys in pages of one revision, when the mirror is empty or the watched revision was
 * compacted away) -> WATCH (from the revision after the mirror's). Any failure goes to the next
 * endpoint and, after a pause that grows to a few seconds, to CHECK. Meanwhile the mirror stays as
 * it is: readers notice nothing.
 *
 * A watch that says nothing may be a quiet registry or a dead connection, so while watching the
 * lease is kept alive every KEEPALIVE_MS, and its answer is the sign of life.
 *
 * Only complete states are shown: a full read replaces the mirror as a whole, and events are
 * applied a response at a time (etcd never splits a revision between responses unless asked to). A
 * transaction is done when the watch has brought its revision, so its maker reads its own write.
 *
 * CHECK reads linearizably: among honest members of one etcd the revision cannot be lower than any
 * revision seen before. If it is, or if the cluster's id is another, somebody restored an old
 * backup or started an empty etcd under our address. Obeying would forget collections and resurrect
 * deleted ones, so the last map is kept, an ERROR is logged and status shows it, until the etcd is
 * put right or Kith is restarted by somebody who means it.
 *
 * Lost: a thread with blocking curl (one more thread, and every answer to be posted); serving reads
 * from etcd itself (the registry must not be on the query path). */

#define PAGE_KEYS         500u
#define KEEPALIVE_MS      2500u /* three tries within KITH_LEASE_TTL_S */
#define KEEPALIVE_WAIT_MS 3000u
#define BACKOFF_MIN_MS    100u
#define BACKOFF_MAX_MS    3000u
#define REVOKE_MS         500u /* at close: part of KITH_CLOSE_GRACE_MS */
#define STREAM_MAX        ((size_t)64 << 20)

/* ---- asking ---------------------------------------------------------------------------------- */

enum kith_err kith_registry_etcd_ask(struct registry_etcd *etcd, const char *path,
                                     const struct kith_buf *body, uint32_t timeout_ms,
                                     kith_http_done_fn done, void *ctx, struct kith_http_call **out)
{
    static const char *const headers[] = {"Content-Type: application/json", NULL};
    struct kith_buf url = {0};
    kith_buf_text(&url, etcd->endpoints[etcd->at]);
    kith_buf_text(&url, path);
    kith_buf_byte(&url, 0);
    enum kith_err err = KITH_NOMEM;
    if (!url.failed && !body->failed) {
        const struct kith_http_request request = {
            .method = "POST",
            .url = (const char *)url.data,
            .headers = headers,
            .body = body->data,
            .body_len = body->len,
            .timeout_ms = timeout_ms,
            .connect_timeout_ms = 2000,
        };
        err = kith_http_client_start(etcd->http, &request, NULL, done, ctx, out);
    }
    kith_buf_fini(&url);
    return err;
}

static void cancel(struct kith_http_call **call)
{
    if (*call) {
        kith_http_client_cancel(*call);
        *call = NULL;
    }
}

static void set_connected(struct registry_etcd *etcd, bool connected)
{
    if (etcd->base.connected != connected) {
        etcd->base.connected = connected;
        kith_registry_changed(&etcd->base);
    }
}

/* Ends what is under way on this endpoint and begins again with the next one after a pause. */
static void fail_over(struct registry_etcd *etcd, const char *why)
{
    if (etcd->phase != PHASE_PAUSE && (etcd->base.connected || etcd->backoff_ms == 0)) {
        kith_log(WARN, "registry.away", "etcd=%s why=\"%s\"", etcd->endpoints[etcd->at], why);
    }
    cancel(&etcd->step);
    cancel(&etcd->watch);
    cancel(&etcd->beat);
    kith_timer_stop(etcd->beat_timer);
    kith_timer_stop(etcd->stream_timer);
    kith_buf_reset(&etcd->stream);
    kith_registry_mirror_fini(&etcd->fresh);
    set_connected(etcd, false);
    etcd->phase = PHASE_PAUSE;
    etcd->at = (etcd->at + 1) % etcd->n_endpoints;
    etcd->backoff_ms = etcd->backoff_ms ? etcd->backoff_ms * 2 : BACKOFF_MIN_MS;
    if (etcd->backoff_ms > BACKOFF_MAX_MS) {
        etcd->backoff_ms = BACKOFF_MAX_MS;
    }
    /* Half to full, so that a cluster of processes does not come back as one. */
    const uint32_t jitter = (uint32_t)(kith_now_ns() / 1000 % (etcd->backoff_ms / 2 + 1));
    kith_timer_start(etcd->retry, etcd->backoff_ms / 2 + jitter, 0);
}

/* False: the call failed; the machine is already on its way to the next endpoint. */
static bool step_ok(struct registry_etcd *etcd, enum kith_err err, const struct kith_diag *diag)
{
    if (err && !etcd->closing) {
        fail_over(etcd, diag->text[0] ? diag->text : kith_err_text(err));
    }
    return !err && !etcd->closing;
}

/* ---- the lease ------------------------------------------------------------------------------- */

void kith_registry_etcd_lost_lease(struct registry_etcd *etcd)
{
    if (etcd->lease) {
        kith_log(WARN, "registry.lease_lost", "lease=%016" PRIx64, etcd->lease);
        etcd->lease = 0;
    }
}

static void got_lease(struct registry_etcd *etcd, const struct kith_http_response *response)
{
    struct kith_diag diag = {0};
    struct kith_etcd_lease lease;
    if (kith_etcd_read_lease((const char *)response->body.data, response->body.len, &lease,
                             &diag)) {
        fail_over(etcd, diag.text);
        return;
    }
    if (lease.ttl_s > 0) {
        etcd->lease = lease.id;
    } else {
        kith_registry_etcd_lost_lease(etcd);
        kith_timer_start(etcd->beat_timer, 0, KEEPALIVE_MS); /* a new one at once */
    }
}

void kith_registry_etcd_beat_now(struct registry_etcd *etcd)
{
    kith_timer_start(etcd->beat_timer, 0, KEEPALIVE_MS);
}

static void on_beat_done(void *ctx, enum kith_err err, const struct kith_http_response *response,
                         const struct kith_diag *diag)
{
    struct registry_etcd *etcd = ctx;
    etcd->beat = NULL;
    if (step_ok(etcd, err, diag)) {
        got_lease(etcd, response);
        kith_registry_etcd_txn_announce_all(etcd);
    }
}

static void on_beat(void *ctx)
{
    struct registry_etcd *etcd = ctx;
    if (etcd->beat || etcd->phase != PHASE_WATCH) {
        return;
    }
    if (!etcd->base.connected) {
        fail_over(etcd, "the watch did not begin");
        return;
    }
    struct kith_buf body = {0};
    enum kith_err err = KITH_OK;
    if (etcd->lease) {
        kith_etcd_write_lease(&body, etcd->lease);
        err = kith_registry_etcd_ask(etcd, "/v3/lease/keepalive", &body, KEEPALIVE_WAIT_MS,
                                     on_beat_done, etcd, &etcd->beat);
    } else {
        kith_etcd_write_grant(&body, KITH_LEASE_TTL_S);
        err = kith_registry_etcd_ask(etcd, "/v3/lease/grant", &body, KEEPALIVE_WAIT_MS,
                                     on_beat_done, etcd, &etcd->beat);
    }
    kith_buf_fini(&body);
    if (err) {
        fail_over(etcd, kith_err_text(err));
    }
}

/* ---- WATCH ----------------------------------------------------------------------------------- */

/* The key after the prefix; NULL when it is none of ours. */
static const char *own_key(const struct registry_etcd *etcd, const struct kith_etcd_kv *kv)
{
    const size_t len = strlen(etcd->prefix);
    if (kv->key_len <= len || strlen(kv->key) != kv->key_len ||
        strncmp(kv->key, etcd->prefix, len) != 0 || !kith_registry_key_ok(kv->key + len)) {
        return NULL;
    }
    return kv->key + len;
}

static enum kith_err put_kv(struct registry_etcd *etcd, struct kith_registry_mirror *mirror,
                            const struct kith_etcd_kv *kv)
{
    const char *key = own_key(etcd, kv);
    if (!key) {
        return KITH_OK; /* written by a stranger */
    }
    if (kv->deleted) {
        (void)kith_registry_mirror_drop(mirror, key);
        return KITH_OK;
    }
    if (mirror->n >= KITH_REGISTRY_KEYS_MAX) {
        return KITH_TOO_BIG;
    }
    const struct kith_registry_entry entry = {
        .key = (char *)(uintptr_t)key, /* borrowed: put copies */
        .text = (char *)(uintptr_t)kv->value,
        .len = kv->value_len,
        .revision = kv->revision,
        .lease = kv->lease,
    };
    return kith_registry_mirror_put(mirror, &entry) ? KITH_OK : KITH_NOMEM;
}

struct events {
    struct registry_etcd *etcd;
    uint64_t revision; /* the highest */
};

static enum kith_err on_event(void *ctx, const struct kith_etcd_kv *kv)
{
    struct events *events = ctx;
    events->revision = kv->revision > events->revision ? kv->revision : events->revision;
    return put_kv(events->etcd, &events->etcd->base.mirror, kv);
}

/* One line of the stream. False: the watch is over. */
static bool take_line(struct registry_etcd *etcd, const char *line, size_t len)
{
    struct kith_etcd_watch watch;
    struct kith_diag diag = {0};
    struct events events = {.etcd = etcd, .revision = etcd->base.revision};
    const enum kith_err err = kith_etcd_read_watch(line, len, &watch, on_event, &events, &diag);
    if (err) {
        /* A response may be half applied: read everything again. */
        etcd->reread = true;
        kith_registry_changed(&etcd->base);
        fail_over(etcd, diag.text[0] ? diag.text : kith_err_text(err));
        return false;
    }
    if (watch.canceled) {
        etcd->reread |= watch.compact_revision > 0;
        fail_over(etcd, watch.compact_revision > 0 ? "the watched revision was compacted"
                                                   : "the watch was cancelled");
        return false;
    }
    if (watch.created) {
        kith_log(INFO, "registry.watching", "etcd=%s revision=%" PRIu64, etcd->endpoints[etcd->at],
                 etcd->base.revision);
        etcd->backoff_ms = 0;
        set_connected(etcd, true);
        kith_timer_start(etcd->beat_timer, 0, KEEPALIVE_MS);
    }
    if (events.revision > etcd->base.revision) {
        etcd->base.revision = events.revision;
        kith_registry_changed(&etcd->base);
    }
    return true;
}

static void read_stream(void *ctx)
{
    struct registry_etcd *etcd = ctx;
    size_t done = 0;
    if (!kith_buf_reserve(&etcd->stream, KITH_JSON_PADDING)) {
        fail_over(etcd, "an event is too large");
        return;
    }
    while (etcd->phase == PHASE_WATCH && done < etcd->stream.len) {
        const char *line = (const char *)etcd->stream.data + done;
        const char *end = memchr(line, '\n', etcd->stream.len - done);
        if (!end) {
            break;
        }
        const size_t len = (size_t)(end - line);
        if (len > 0 && !take_line(etcd, line, len)) {
            return; /* the stream was reset */
        }
        done += len + 1;
    }
    etcd->stream.len -= done;
    memmove(etcd->stream.data, etcd->stream.data + done, etcd->stream.len);
    kith_registry_etcd_txn_announce_all(etcd);
    kith_registry_etcd_txn_settle(etcd);
}

/* Runs inside curl: only takes the bytes. */
static bool on_chunk(void *ctx, const uint8_t *data, size_t len)
{
    struct registry_etcd *etcd = ctx;
    kith_buf_append(&etcd->stream, data, len);
    kith_timer_start(etcd->stream_timer, 0, 0);
    return !etcd->stream.failed;
}

static void on_watch_end(void *ctx, enum kith_err err, const struct kith_http_response *response,
                         const struct kith_diag *diag)
{
    struct registry_etcd *etcd = ctx;
    etcd->watch = NULL;
    if (etcd->closing) {
        return;
    }
    read_stream(etcd); /* the last words may say why */
    if (etcd->phase == PHASE_WATCH && !etcd->watch) {
        char why[64];
        snprintf(why, sizeof why, "the watch ended with status %d", response->status);
        fail_over(etcd, err && diag->text[0] ? diag->text : why);
    }
}

static void begin_watch(struct registry_etcd *etcd)
{
    static const char *const headers[] = {"Content-Type: application/json", NULL};
    struct kith_buf url = {0};
    struct kith_buf body = {0};
    enum kith_err err = KITH_NOMEM;
    etcd->phase = PHASE_WATCH;
    kith_buf_reset(&etcd->stream);
    etcd->stream.limit = STREAM_MAX;
    kith_buf_text(&url, etcd->endpoints[etcd->at]);
    kith_buf_text(&url, "/v3/watch");
    kith_buf_byte(&url, 0);
    kith_etcd_write_watch(&body, etcd->prefix, etcd->base.revision + 1);
    if (!url.failed && !body.failed) {
        const struct kith_http_request request = {
            .method = "POST",
            .url = (const char *)url.data,
            .headers = headers,
            .body = body.data,
            .body_len = body.len,
            .connect_timeout_ms = 2000,
        };
        err = kith_http_client_start(etcd->http, &request, on_chunk, on_watch_end, etcd,
                                     &etcd->watch);
    }
    kith_buf_fini(&url);
    kith_buf_fini(&body);
    if (err) {
        fail_over(etcd, kith_err_text(err));
        return;
    }
    /* Before "created" comes, the first keepalive is the deadline of the watch. */
    kith_timer_start(etcd->beat_timer, KEEPALIVE_MS, KEEPALIVE_MS);
}

/* ---- READ ------------------------------------------------------------------------------------ */

struct page {
    struct registry_etcd *etcd;
    struct kith_buf last; /* the last key, relative, NUL-terminated */
};

static enum kith_err on_page_kv(void *ctx, const struct kith_etcd_kv *kv)
{
    struct page *page = ctx;
    const size_t len = strlen(page->etcd->prefix);
    kith_buf_reset(&page->last);
    if (kv->key_len > len) {
        kith_buf_text(&page->last, kv->key + len); /* a stranger's key may hold a NUL: cut there */
    }
    kith_buf_byte(&page->last, 1); /* the next key is after this one: no key of ours holds \1 */
    kith_buf_byte(&page->last, 0);
    return page->last.failed ? KITH_NOMEM : put_kv(page->etcd, &page->etcd->fresh, kv);
}

static void on_page(void *ctx, enum kith_err err, const struct kith_http_response *response,
                    const struct kith_diag *diag);

static void ask_page(struct registry_etcd *etcd, const char *from)
{
    struct kith_buf body = {0};
    etcd->phase = PHASE_READ;
    kith_etcd_write_range(&body, etcd->prefix, from, etcd->fresh_revision, PAGE_KEYS);
    const enum kith_err err = kith_registry_etcd_ask(
        etcd, "/v3/kv/range", &body, KITH_REGISTRY_ETCD_MS, on_page, etcd, &etcd->step);
    kith_buf_fini(&body);
    if (err) {
        fail_over(etcd, kith_err_text(err));
    }
}

static void begin_read(struct registry_etcd *etcd)
{
    kith_registry_mirror_fini(&etcd->fresh);
    etcd->fresh_revision = 0;
    ask_page(etcd, "");
}

static void on_page(void *ctx, enum kith_err err, const struct kith_http_response *response,
                    const struct kith_diag *diag)
{
    struct registry_etcd *etcd = ctx;
    struct page page = {.etcd = etcd};
    struct kith_etcd_header header = {0};
    struct kith_diag own = {0};
    bool more = false;
    etcd->step = NULL;
    if (!step_ok(etcd, err, diag)) {
        return;
    }
    err = kith_etcd_read_range((const char *)response->body.data, response->body.len, &header,
                               &more, on_page_kv, &page, &own);
    if (err || header.revision < etcd->base.revision) {
        fail_over(etcd, own.text[0] ? own.text : kith_err_text(err));
        goto out;
    }
    if (!etcd->fresh_revision) {
        etcd->fresh_revision = header.revision;
    }
    if (more && page.last.len > 0) {
        ask_page(etcd, (const char *)page.last.data);
        goto out;
    }
    kith_registry_mirror_fini(&etcd->base.mirror);
    etcd->base.mirror = etcd->fresh;
    etcd->fresh = (struct kith_registry_mirror){0};
    etcd->base.revision = etcd->fresh_revision;
    etcd->base.synced = true;
    etcd->reread = false;
    kith_registry_changed(&etcd->base);
    begin_watch(etcd);
    kith_registry_etcd_txn_settle(etcd);
out:
    kith_buf_fini(&page.last);
}

/* ---- CHECK, GRANT ---------------------------------------------------------------------------- */

static void proceed(struct registry_etcd *etcd)
{
    if (etcd->base.synced && !etcd->reread) {
        begin_watch(etcd);
    } else {
        begin_read(etcd);
    }
}

static void on_grant(void *ctx, enum kith_err err, const struct kith_http_response *response,
                     const struct kith_diag *diag)
{
    struct registry_etcd *etcd = ctx;
    etcd->step = NULL;
    if (!step_ok(etcd, err, diag)) {
        return;
    }
    got_lease(etcd, response);
    if (etcd->phase == PHASE_GRANT) {
        proceed(etcd);
    }
}

static void begin_grant(struct registry_etcd *etcd)
{
    struct kith_buf body = {0};
    etcd->phase = PHASE_GRANT;
    kith_etcd_write_grant(&body, KITH_LEASE_TTL_S);
    const enum kith_err err = kith_registry_etcd_ask(
        etcd, "/v3/lease/grant", &body, KITH_REGISTRY_ETCD_MS, on_grant, etcd, &etcd->step);
    kith_buf_fini(&body);
    if (err) {
        fail_over(etcd, kith_err_text(err));
    }
}

/* False: this is not the etcd we know, or it is an older state of it. */
static bool accept(struct registry_etcd *etcd, const struct kith_etcd_header *header)
{
    struct kith_diag why = {0};
    if (etcd->cluster && header->cluster != etcd->cluster) {
        kith_fail(&why, KITH_CONFLICT,
                  "another etcd answers at %s (cluster %016" PRIx64 ", not %016" PRIx64
                  "): keeping the last map; restart Kith if this is meant",
                  etcd->endpoints[etcd->at], header->cluster, etcd->cluster);
    } else if (header->revision < etcd->base.revision) {
        kith_fail(&why, KITH_CONFLICT,
                  "etcd at %s went back from revision %" PRIu64 " to %" PRIu64
                  " (an old backup?): keeping the last map; restart Kith if this is meant",
                  etcd->endpoints[etcd->at], etcd->base.revision, header->revision);
    }
    if (why.text[0] && !etcd->base.troubled) {
        kith_log(ERROR, "registry.refused", "%s", why.text);
    }
    if (etcd->base.troubled != (why.text[0] != 0)) {
        kith_registry_changed(&etcd->base);
    }
    etcd->base.troubled = why.text[0] != 0;
    etcd->base.trouble = why;
    return !etcd->base.troubled;
}

static void on_check(void *ctx, enum kith_err err, const struct kith_http_response *response,
                     const struct kith_diag *diag)
{
    struct registry_etcd *etcd = ctx;
    struct kith_etcd_header header = {0};
    struct kith_diag own = {0};
    bool more = false;
    etcd->step = NULL;
    if (!step_ok(etcd, err, diag)) {
        return;
    }
    struct page none = {.etcd = etcd};
    err = kith_etcd_read_range((const char *)response->body.data, response->body.len, &header,
                               &more, on_page_kv, &none, &own);
    kith_buf_fini(&none.last);
    if (err) {
        fail_over(etcd, own.text);
        return;
    }
    if (!accept(etcd, &header)) {
        fail_over(etcd, "refused");
        return;
    }
    etcd->cluster = header.cluster;
    if (etcd->lease) {
        proceed(etcd);
    } else {
        begin_grant(etcd);
    }
}

static void on_retry(void *ctx)
{
    struct registry_etcd *etcd = ctx;
    struct kith_buf body = {0};
    etcd->phase = PHASE_CHECK;
    kith_etcd_write_check(&body, etcd->prefix);
    const enum kith_err err = kith_registry_etcd_ask(
        etcd, "/v3/kv/range", &body, KITH_REGISTRY_ETCD_MS, on_check, etcd, &etcd->step);
    kith_buf_fini(&body);
    if (err) {
        fail_over(etcd, kith_err_text(err));
    }
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Gives the lease back, so that others need not wait for its end. Blocks, shortly. */
static void revoke(struct registry_etcd *etcd)
{
    static const char *const headers[] = {"Content-Type: application/json", NULL};
    struct kith_http_session *session = NULL;
    struct kith_http_response response = {0};
    struct kith_buf url = {0};
    struct kith_buf body = {0};
    kith_buf_text(&url, etcd->endpoints[etcd->at]);
    kith_buf_text(&url, "/v3/lease/revoke");
    kith_buf_byte(&url, 0);
    kith_etcd_write_lease(&body, etcd->lease);
    if (!url.failed && !body.failed && !kith_http_session_open(&session, NULL)) {
        const struct kith_http_request request = {
            .method = "POST",
            .url = (const char *)url.data,
            .headers = headers,
            .body = body.data,
            .body_len = body.len,
            .timeout_ms = REVOKE_MS,
        };
        (void)kith_http_session_ask(session, &request, &response, NULL);
    }
    kith_http_session_close(session);
    kith_http_response_fini(&response);
    kith_buf_fini(&url);
    kith_buf_fini(&body);
}

static void etcd_close(struct kith_registry *registry)
{
    struct registry_etcd *etcd = etcd_of(registry);
    etcd->closing = true;
    kith_http_client_close(etcd->http); /* ends the transactions under way */
    kith_registry_etcd_txn_cancel_all(etcd);
    if (etcd->lease && etcd->base.connected) {
        revoke(etcd);
    }
    kith_timer_free(etcd->retry);
    kith_timer_free(etcd->beat_timer);
    kith_timer_free(etcd->stream_timer);
    kith_timer_free(etcd->expire_timer);
    kith_timer_free(etcd->announce_timer);
    for (size_t i = 0; i < etcd->n_announced; i++) {
        kith_free(etcd->announced[i].key);
        kith_free(etcd->announced[i].value);
    }
    for (size_t i = 0; i < etcd->n_endpoints; i++) {
        kith_free(etcd->endpoints[i]);
    }
    kith_registry_mirror_fini(&etcd->fresh);
    kith_buf_fini(&etcd->stream);
    kith_free(etcd->prefix);
    kith_registry_fini(&etcd->base);
    kith_free(etcd);
}

static const struct kith_registry_ops etcd_ops = {.close = etcd_close,
                                                  .commit = kith_registry_etcd_txn_commit,
                                                  .announce = kith_registry_etcd_txn_announce};

static enum kith_err take_endpoints(struct registry_etcd *etcd, const char *list,
                                    struct kith_diag *diag)
{
    while (*list) {
        const size_t len = strcspn(list, ",");
        size_t keep = len;
        while (keep > 0 && list[keep - 1] == '/') {
            keep--;
        }
        if (strncmp(list, "http://", 7) != 0 && strncmp(list, "https://", 8) != 0) {
            return kith_fail(diag, KITH_BAD_REQUEST, "etcd: expected http://HOST:PORT, got %.*s",
                             (int)(len < 80 ? len : 80), list);
        }
        if (etcd->n_endpoints == KITH_REGISTRY_ENDPOINTS_MAX) {
            return kith_fail(diag, KITH_TOO_BIG, "etcd: more than %d endpoints",
                             KITH_REGISTRY_ENDPOINTS_MAX);
        }
        char *copy = kith_alloc(keep + 1);
        if (!copy) {
            return kith_fail(diag, KITH_NOMEM, "registry");
        }
        memcpy(copy, list, keep);
        etcd->endpoints[etcd->n_endpoints++] = copy;
        list += len + (list[len] == ',');
    }
    return etcd->n_endpoints ? KITH_OK : kith_fail(diag, KITH_BAD_REQUEST, "etcd: no endpoints");
}

static enum kith_err make_timers(struct registry_etcd *etcd, struct kith_diag *diag)
{
    struct kith_loop *loop = etcd->base.loop;
    enum kith_err err = kith_timer_new(&etcd->retry, loop, on_retry, etcd);
    err = err ? err : kith_timer_new(&etcd->beat_timer, loop, on_beat, etcd);
    err = err ? err : kith_timer_new(&etcd->stream_timer, loop, read_stream, etcd);
    err =
        err ? err : kith_timer_new(&etcd->expire_timer, loop, kith_registry_etcd_txn_expire, etcd);
    err =
        err ? err
            : kith_timer_new(&etcd->announce_timer, loop, kith_registry_etcd_txn_on_announce, etcd);
    return err ? kith_fail(diag, err, "registry timer") : KITH_OK;
}

enum kith_err kith_registry_open_etcd(struct kith_registry **out, struct kith_loop *loop,
                                      const char *endpoints, const char *prefix,
                                      struct kith_diag *diag)
{
    const size_t prefix_len = strlen(prefix);
    kith_assert(prefix_len > 0 && prefix[prefix_len - 1] == '/');
    struct registry_etcd *etcd = kith_alloc(sizeof *etcd);
    if (!etcd) {
        return kith_fail(diag, KITH_NOMEM, "registry");
    }
    enum kith_err err = kith_registry_init(&etcd->base, &etcd_ops, loop, diag);
    if (err) {
        goto out;
    }
    err = take_endpoints(etcd, endpoints, diag);
    if (err) {
        goto out;
    }
    etcd->prefix = kith_strdup(prefix);
    if (!etcd->prefix) {
        err = kith_fail(diag, KITH_NOMEM, "registry");
        goto out;
    }
    err = make_timers(etcd, diag);
    if (err) {
        goto out;
    }
    err = kith_http_client_open(&etcd->http, loop, diag);
    if (err) {
        goto out;
    }
    kith_timer_start(etcd->retry, 0, 0);
    *out = &etcd->base;
    return KITH_OK;
out:
    etcd_close(&etcd->base);
    return err;
}
