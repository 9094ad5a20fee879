/* Batches leave in order, come back in any order and are confirmed in order: the journal names the
 * end of the last batch before which all are stored. What was in flight when an import was cut is
 * sent again; points replace themselves, so that changes nothing.
 *
 * A batch is all or nothing for the server. When it is refused for what is in it (400, 413, 422),
 * it is halved until the bad points are alone: they are reported by their line with the server's
 * reason, and the good ones get in. One bad point in a thousand costs about twenty requests.
 *
 * Busy servers and broken connections are waited for, longer each time, at least as long as
 * Retry-After says. */
#include "cli/importer.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "common/kith_clock.h"
#include "common/kith_http_client.h"
#include "common/kith_loop.h"
#include "common/kith_mem.h"
#include "common/kith_thread.h"

#define BATCH_BYTES_MAX (4u << 20)
#define PARALLEL_MAX    64u
#define RANGES_MAX      64u /* halves of halves: one more per halving */
#define BACKOFF_MS_MIN  200u
#define BACKOFF_MS_MAX  10000u

struct span {
    size_t at, len;
    uint64_t row;
};

struct range {
    size_t from, to;
};

enum slot_state { SLOT_FREE, SLOT_BUSY, SLOT_STORED };

struct slot {
    struct importer *importer;
    enum slot_state state;
    struct kith_buf points; /* joined by commas */
    struct span *spans;
    size_t spans_n, spans_cap;
    struct range todo[RANGES_MAX];
    size_t todo_n;
    struct kith_buf body; /* what is being sent */
    struct kith_timer *timer;
    uint64_t first_try_ms;
    uint64_t backoff_ms;
    uint64_t end_offset, end_row; /* of the source, behind this batch */
    uint64_t stored, bad;
};

struct importer {
    struct source *source;
    const struct journal *journal;
    const struct importer_options *options;
    struct journal_state *state;
    struct kith_loop *loop;
    struct kith_http_client *client;
    struct kith_timer *ticker;
    char url[2560];
    struct slot slots[PARALLEL_MAX];
    uint64_t head, tail; /* batches made, batches confirmed; slot = number % parallel */
    bool source_over;
    bool failed, interrupted;
    bool cut;        /* the source broke off */
    uint64_t bad;    /* seen in this run */
    uint64_t stored; /* in this run, in any order */
    uint64_t start_ms, saved_ms, printed_ms;
    uint64_t start_offset;
    bool live; /* progress on a terminal */
};

static void send_next(struct slot *slot);
static void pump(struct importer *importer);

static void progress_clear(const struct importer *importer)
{
    if (importer->live)
        fputs("\r\x1b[K", stderr);
}

static void fail(struct importer *importer)
{
    importer->failed = true;
    kith_loop_stop(importer->loop);
}

static void report_bad(struct importer *importer, uint64_t row, const char *why)
{
    progress_clear(importer);
    fprintf(stderr, "%s %llu: %s\n", source_is_lines(importer->source) ? "line" : "row",
            (unsigned long long)row, why);
    importer->bad++;
    if (importer->bad == importer->options->errors_max && !importer->options->strict) {
        fprintf(stderr, "kith: %llu bad lines, giving up (--max-errors)\n",
                (unsigned long long)importer->bad);
        fail(importer);
    }
}

/* ---- progress -------------------------------------------------------------------------------- */

static void print_time(uint64_t seconds)
{
    if (seconds >= 3600)
        fprintf(stderr, "%llu:%02llu:%02llu", (unsigned long long)(seconds / 3600),
                (unsigned long long)(seconds / 60 % 60), (unsigned long long)(seconds % 60));
    else
        fprintf(stderr, "%llu:%02llu", (unsigned long long)(seconds / 60),
                (unsigned long long)(seconds % 60));
}

static void print_bar(double part)
{
    char bar[25];
    int full = (int)(part * 24);

    for (int i = 0; i < 24; i++)
        bar[i] = i < full ? '#' : '-';
    bar[24] = '\0';
    fprintf(stderr, "[%s] %3.0f%%  ", bar, part * 100);
}

static void progress_print(struct importer *importer)
{
    uint64_t now = kith_now_ms();
    double seconds = (double)(now - importer->start_ms) / 1000.0 + 1e-9;
    uint64_t bytes = source_bytes(importer->source);
    uint64_t done = importer->state->offset;
    double rate = (double)importer->stored / seconds;

    progress_clear(importer);
    fprintf(stderr, "%s  ", importer->options->name);
    if (bytes > 0)
        print_bar((double)done / (double)bytes);
    fprintf(stderr, "%llu points  %.0f/s", (unsigned long long)importer->state->points, rate);
    if (bytes > 0 && done > importer->start_offset) {
        double left = seconds * (double)(bytes - done) / (double)(done - importer->start_offset);
        fputs("  ", stderr);
        print_time((uint64_t)(left + 0.5));
        fputs(" left", stderr);
    }
    fputs(importer->live ? "" : "\n", stderr);
    importer->printed_ms = now;
}

static void on_tick(void *ctx)
{
    struct importer *importer = ctx;

    if (importer->live || kith_now_ms() - importer->printed_ms >= 5000)
        progress_print(importer);
}

/* ---- one batch ------------------------------------------------------------------------------- */

/* Confirms the batches at the front, in order. */
static void confirm(struct importer *importer)
{
    struct journal_state *state = importer->state;

    while (importer->tail < importer->head) {
        struct slot *slot = &importer->slots[importer->tail % importer->options->parallel];

        if (slot->state != SLOT_STORED)
            break;
        state->offset = slot->end_offset;
        state->row = slot->end_row;
        state->points += slot->stored;
        state->bad += slot->bad;
        slot->state = SLOT_FREE;
        importer->tail++;
    }
    if (kith_now_ms() - importer->saved_ms >= 500) {
        (void)journal_save(importer->journal, state);
        importer->saved_ms = kith_now_ms();
    }
}

static void slot_stored(struct slot *slot)
{
    slot->state = SLOT_STORED;
    confirm(slot->importer);
    pump(slot->importer);
}

static void on_retry(void *ctx)
{
    send_next(ctx);
}

static void retry(struct slot *slot, uint64_t wait_ms, const char *why)
{
    struct importer *importer = slot->importer;
    uint64_t now = kith_now_ms();

    if (now - slot->first_try_ms >= importer->options->retry_ms) {
        progress_clear(importer);
        fprintf(stderr,
                "kith: %s\nkith: gave up after %llu s; the same command goes on from here\n", why,
                (unsigned long long)((now - slot->first_try_ms) / 1000));
        fail(importer);
        return;
    }
    slot->backoff_ms = slot->backoff_ms == 0 ? BACKOFF_MS_MIN : slot->backoff_ms * 2;
    if (slot->backoff_ms > BACKOFF_MS_MAX)
        slot->backoff_ms = BACKOFF_MS_MAX;
    kith_timer_start(slot->timer, wait_ms > slot->backoff_ms ? wait_ms : slot->backoff_ms, 0);
}

/* The server will not have what is in this range: halve it, or name the point. */
static void refused(struct slot *slot, const char *why)
{
    struct range *range = &slot->todo[slot->todo_n - 1];
    size_t middle = range->from + (range->to - range->from) / 2;

    if (range->to - range->from > 1) {
        struct range rest = {middle, range->to};

        kith_assert(slot->todo_n < RANGES_MAX);
        range->to = middle;
        slot->todo[slot->todo_n++] = rest;
        /* The lower half goes first, so that lines are reported in order. */
        slot->todo[slot->todo_n - 1] = slot->todo[slot->todo_n - 2];
        slot->todo[slot->todo_n - 2] = rest;
    } else {
        report_bad(slot->importer, slot->spans[range->from].row, why);
        slot->bad++;
        slot->todo_n--;
        if (slot->importer->options->strict) {
            fail(slot->importer);
            return;
        }
    }
    if (!slot->importer->failed)
        send_next(slot);
}

static void on_answer(void *ctx, enum kith_err err, const struct kith_http_response *response,
                      const struct kith_diag *diag)
{
    struct slot *slot = ctx;
    struct importer *importer = slot->importer;
    struct kith_json_doc *doc = NULL;
    const char *why = diag != NULL && diag->text[0] != '\0' ? diag->text : kith_err_text(err);
    const char *after;
    int status = err == KITH_OK ? response->status : 0;

    if (importer->failed || importer->interrupted || err == KITH_CANCELLED)
        return;
    if (err == KITH_OK && status / 100 != 2)
        why = cli_refusal(response, &doc);
    if (status / 100 == 2) {
        struct range *range = &slot->todo[--slot->todo_n];
        slot->stored += range->to - range->from;
        importer->stored += range->to - range->from;
        slot->first_try_ms = 0;
        slot->backoff_ms = 0;
        send_next(slot);
    } else if (status == 400 || status == 413 || status == 422) {
        refused(slot, why);
    } else if (status == 0 || status == 429 || status >= 500) {
        after = status == 0 ? NULL : kith_http_response_header(response, "retry-after");
        retry(slot, after == NULL ? 0 : strtoull(after, NULL, 10) % 3600 * 1000, why);
    } else {
        progress_clear(importer);
        cli_say_refusal(status, why);
        fail(importer);
    }
    kith_json_close(doc);
}

static void send_next(struct slot *slot)
{
    struct importer *importer = slot->importer;
    struct kith_http_request request = {
        .method = "PUT",
        .url = importer->url,
        .headers = cli_headers(),
        .timeout_ms = cli_timeout_ms(),
    };
    struct kith_http_call *call;
    const struct range *range;
    const struct span *first, *last;

    if (slot->todo_n == 0) {
        slot_stored(slot);
        return;
    }
    range = &slot->todo[slot->todo_n - 1];
    first = &slot->spans[range->from];
    last = &slot->spans[range->to - 1];
    if (slot->first_try_ms == 0)
        slot->first_try_ms = kith_now_ms();
    kith_buf_reset(&slot->body);
    kith_buf_text(&slot->body, "{\"points\":[");
    kith_buf_append(&slot->body, slot->points.data + first->at, last->at + last->len - first->at);
    kith_buf_text(&slot->body, "]}");
    request.body = slot->body.data;
    request.body_len = slot->body.len;
    if (slot->body.failed || kith_http_client_start(importer->client, &request, NULL, on_answer,
                                                    slot, &call) != KITH_OK) {
        progress_clear(importer);
        fprintf(stderr, "kith: %s\n", slot->body.failed ? "out of memory" : "cannot send");
        fail(importer);
    }
}

/* ---- reading --------------------------------------------------------------------------------- */

/* False: nothing more can be added to this batch. */
static bool slot_read(struct importer *importer, struct slot *slot)
{
    struct kith_diag diag = {0};
    size_t before = slot->points.len;
    size_t from;
    enum source_result result;

    if (!kith_grow((void **)&slot->spans, &slot->spans_cap, slot->spans_n + 1,
                   sizeof *slot->spans)) {
        slot->points.failed = true;
        return false;
    }
    if (slot->spans_n > 0)
        kith_buf_byte(&slot->points, ',');
    from = slot->points.len;
    result = source_next(importer->source, &slot->points, &diag);
    if (result == SOURCE_POINT) {
        slot->spans[slot->spans_n++] =
            (struct span){from, slot->points.len - from, source_row(importer->source)};
    } else {
        slot->points.len = before;
    }
    if (result == SOURCE_BAD) {
        report_bad(importer, source_row(importer->source), diag.text);
        if (importer->options->strict) {
            importer->source_over = true;
            return false; /* the end of the batch stays before the bad line */
        }
        slot->bad++;
    } else if (result == SOURCE_ERROR) {
        progress_clear(importer);
        fprintf(stderr, "kith: %s\n", diag.text);
        importer->source_over = true;
        importer->cut = true;
        return false;
    } else if (result == SOURCE_END) {
        importer->source_over = true;
    }
    slot->end_offset = source_at(importer->source);
    slot->end_row = source_row(importer->source);
    return result != SOURCE_END && !importer->failed;
}

static void slot_fill(struct importer *importer, struct slot *slot)
{
    kith_buf_reset(&slot->points);
    slot->spans_n = 0;
    slot->stored = 0;
    slot->bad = 0;
    slot->first_try_ms = 0;
    slot->backoff_ms = 0;
    slot->end_offset = source_at(importer->source);
    slot->end_row = source_row(importer->source);
    while (slot->spans_n < importer->options->batch && slot->points.len < BATCH_BYTES_MAX &&
           !slot->points.failed && slot_read(importer, slot))
        continue;
    slot->todo_n = slot->spans_n > 0;
    slot->todo[0] = (struct range){0, slot->spans_n};
}

static bool finished(const struct importer *importer)
{
    return importer->source_over && importer->head == importer->tail;
}

/* Fills free slots; may be re-entered through a batch that had nothing to send. */
static void pump(struct importer *importer)
{
    while (!importer->source_over && !importer->failed && !importer->interrupted &&
           importer->head - importer->tail < importer->options->parallel) {
        struct slot *slot = &importer->slots[importer->head % importer->options->parallel];

        slot_fill(importer, slot);
        if (slot->points.failed) {
            fprintf(stderr, "kith: out of memory\n");
            fail(importer);
            return;
        }
        if (importer->failed)
            return;
        importer->head++;
        slot->state = SLOT_BUSY;
        if (slot->todo_n > 0) {
            send_next(slot);
        } else {
            slot->state = SLOT_STORED;
            confirm(importer);
        }
    }
    if (finished(importer))
        kith_loop_stop(importer->loop);
}

static void on_start(void *ctx)
{
    pump(ctx);
}

static void on_interrupt(void *ctx)
{
    struct importer *importer = ctx;

    importer->interrupted = true;
    kith_loop_stop(importer->loop);
}

static bool importer_open(struct importer *importer, struct kith_diag *diag)
{
    char path[64] = "/points?wait=true";

    snprintf(importer->url, sizeof importer->url, "%s%s", cli_url(),
             cli_collection_path(importer->options->collection, path));
    if (kith_loop_open(&importer->loop, diag) != KITH_OK ||
        kith_loop_on_signals(importer->loop, on_interrupt, importer) != KITH_OK ||
        kith_http_client_open(&importer->client, importer->loop, diag) != KITH_OK ||
        kith_timer_new(&importer->ticker, importer->loop, on_tick, importer) != KITH_OK)
        return false;
    for (uint32_t i = 0; i < importer->options->parallel; i++) {
        importer->slots[i].importer = importer;
        if (kith_timer_new(&importer->slots[i].timer, importer->loop, on_retry,
                           &importer->slots[i]) != KITH_OK)
            return false;
    }
    return true;
}

static void importer_close(struct importer *importer)
{
    kith_http_client_close(importer->client);
    for (uint32_t i = 0; i < PARALLEL_MAX; i++) {
        struct slot *slot = &importer->slots[i];
        kith_timer_free(slot->timer);
        kith_buf_fini(&slot->points);
        kith_buf_fini(&slot->body);
        kith_free(slot->spans);
    }
    kith_timer_free(importer->ticker);
    if (importer->loop != NULL)
        kith_loop_close(importer->loop);
    kith_free(importer);
}

enum importer_end importer_run(struct source *source, const struct journal *journal,
                               const struct importer_options *options, struct journal_state *state,
                               double *elapsed_s)
{
    struct importer *importer = kith_xalloc(sizeof *importer);
    struct kith_letter start = {.fn = on_start, .ctx = importer};
    struct kith_diag diag = {0};
    enum importer_end end = IMPORTER_FAILED;

    kith_assert(options->parallel >= 1 && options->parallel <= PARALLEL_MAX);
    importer->source = source;
    importer->journal = journal;
    importer->options = options;
    importer->state = state;
    importer->start_offset = state->offset;
    importer->live = isatty(STDERR_FILENO) && cli_colour(stderr);
    importer->start_ms = kith_now_ms();
    importer->printed_ms = importer->start_ms;
    if (!importer_open(importer, &diag)) {
        fprintf(stderr, "kith: %s\n", diag.text);
        goto out;
    }
    kith_timer_start(importer->ticker, 200, 200);
    kith_loop_post(importer->loop, &start);
    kith_thread_bulk(); /* where others wait for answers on the same machine */
    kith_loop_run(importer->loop);
    if (importer->live && !importer->failed)
        progress_print(importer);
    if (importer->live)
        fputs("\n", stderr);
    if (importer->interrupted)
        end = IMPORTER_INTERRUPTED;
    else if (!importer->failed && !importer->cut && !(options->strict && importer->bad > 0))
        end = IMPORTER_DONE;
out:
    *elapsed_s = (double)(kith_now_ms() - importer->start_ms) / 1000.0;
    importer_close(importer);
    return end;
}
