/* The event loop: libuv behind a small face. One thread owns a loop; everything here but
 * kith_loop_post and kith_loop_stop is for that thread only.
 *
 * Owns: its handles; every watcher and timer is freed after its close callback. Errors: open fails
 * with KITH_NOMEM/KITH_IO. */
#ifndef KITH_LOOP_H
#define KITH_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/kith_err.h"

struct kith_loop;
struct kith_timer;
struct kith_watch;

typedef void (*kith_loop_fn)(void *ctx);

enum kith_err kith_loop_open(struct kith_loop **out, struct kith_diag *diag);
void kith_loop_run(struct kith_loop *loop);  /* until kith_loop_stop; delivers all letters posted
                                                before it returns */
void kith_loop_stop(struct kith_loop *loop); /* any thread, any number of times */
void kith_loop_close(struct kith_loop *loop);
bool kith_loop_here(
    const struct kith_loop *loop); /* is the caller the loop's thread? (true before run) */

/* Runs fn(ctx) on the loop's thread, in order of posting. Any thread. The one door into a loop: a
 * mutex-protected list and an eventfd whose wake-ups merge, so each wake-up drains the list.
 * The letter is the caller's memory, embedded in what it is about, and must stay valid until fn
 * runs (or the loop is closed: undelivered letters are dropped there). */
struct kith_letter {
    struct kith_letter *next;
    kith_loop_fn fn;
    void *ctx;
};
void kith_loop_post(struct kith_loop *loop, struct kith_letter *letter);

/* Timers: one-shot when repeat_ms is 0. Start again to rearm. */
enum kith_err kith_timer_new(struct kith_timer **out, struct kith_loop *loop, kith_loop_fn fn,
                             void *ctx);
void kith_timer_start(struct kith_timer *timer, uint64_t after_ms, uint64_t repeat_ms);
void kith_timer_stop(struct kith_timer *timer);
void kith_timer_free(struct kith_timer *timer); /* NULL allowed; no callback after it */

/* File descriptors (the gateway's sockets, curl's). Events: bit 0 readable, bit 1 writable.
 */
#define KITH_READABLE 1
#define KITH_WRITABLE 2
typedef void (*kith_watch_fn)(void *ctx, int events, bool error);
enum kith_err kith_watch_new(struct kith_watch **out, struct kith_loop *loop, int fd,
                             kith_watch_fn fn, void *ctx);
void kith_watch_start(struct kith_watch *watch, int events);
void kith_watch_stop(struct kith_watch *watch);
void kith_watch_free(struct kith_watch *watch); /* before fd is closed; NULL allowed */

/* SIGINT and SIGTERM call fn on the loop. */
enum kith_err kith_loop_on_signals(struct kith_loop *loop, kith_loop_fn fn, void *ctx);

#endif
