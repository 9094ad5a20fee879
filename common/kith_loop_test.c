#include "common/kith_loop.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/kith_mem.h"

#define SENDERS 4
#define LETTERS 50000

struct mail {
    struct kith_letter letter; /* first, so that it is the mail's address too */
    struct inbox *inbox;
    int sender, number;
};
struct inbox {
    struct kith_loop *loop;
    int seen[SENDERS], total;
    struct mail *mails[SENDERS];
};

static void on_mail(void *ctx)
{
    struct mail *mail = ctx;
    struct inbox *inbox = mail->inbox;
    kith_assert(kith_loop_here(inbox->loop));
    kith_assert(inbox->seen[mail->sender] == mail->number);
    inbox->seen[mail->sender]++;
    if (++inbox->total == SENDERS * LETTERS)
        kith_loop_stop(inbox->loop);
}

struct sender {
    struct inbox *inbox;
    int number;
};
static void *send_all(void *arg)
{
    struct sender *sender = arg;
    for (int i = 0; i < LETTERS; i++) {
        struct mail *mail = &sender->inbox->mails[sender->number][i];
        *mail = (struct mail){.inbox = sender->inbox, .sender = sender->number, .number = i};
        mail->letter.fn = on_mail;
        mail->letter.ctx = mail;
        kith_loop_post(sender->inbox->loop, &mail->letter);
    }
    return NULL;
}

static void test_loop_keeps_the_order_of_each_sender(void **state)
{
    (void)state;
    static struct inbox inbox;
    pthread_t threads[SENDERS];
    struct sender senders[SENDERS];
    assert_int_equal(kith_loop_open(&inbox.loop, NULL), KITH_OK);
    assert_true(kith_loop_here(inbox.loop));
    for (int i = 0; i < SENDERS; i++) {
        inbox.mails[i] = kith_xalloc(LETTERS * sizeof **inbox.mails);
        senders[i] = (struct sender){.inbox = &inbox, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, send_all, &senders[i]), 0);
    }
    kith_loop_run(inbox.loop);
    assert_int_equal(inbox.total, SENDERS * LETTERS);
    for (int i = 0; i < SENDERS; i++) {
        pthread_join(threads[i], NULL);
        kith_free(inbox.mails[i]);
    }
    kith_loop_close(inbox.loop);
}

/* ---- a sender that is held up between its wake-up and its return ------------------------------
 */

static _Thread_local bool is_held; /* this thread's next wake-up */
static sem_t go_on;
static atomic_bool has_returned;
static bool delivered_late, closed_too_early; /* of the thread that closes */

struct uv_loop_s;
int uv_loop_close(struct uv_loop_s *loop);

/* Called by the loop, and by the libraries it uses, instead of libc's. */
ssize_t write(int fd, const void *bytes, size_t n)
{
    ssize_t (*real)(int, const void *, size_t);
    *(void **)&real = dlsym(RTLD_NEXT, "write");
    ssize_t rc = real(fd, bytes, n);
    if (is_held) {
        while (sem_wait(&go_on) != 0)
            continue;
        atomic_store(&has_returned, true);
    }
    return rc;
}

/* Whoever waits for the sender, which only a close may, goes through here. */
int sched_yield(void)
{
    (void)sem_post(&go_on);
    return 0;
}

int uv_loop_close(struct uv_loop_s *loop)
{
    int (*real)(struct uv_loop_s *);
    *(void **)&real = dlsym(RTLD_NEXT, "uv_loop_close");
    closed_too_early = !atomic_load(&has_returned);
    return real(loop);
}

struct farewell {
    struct kith_letter letter;
    struct kith_loop *loop;
};

static void on_farewell(void *ctx)
{
    struct farewell *farewell = ctx;
    delivered_late = atomic_load(&has_returned);
    kith_loop_stop(farewell->loop);
}

static void *send_farewell(void *arg)
{
    struct farewell *farewell = arg;
    is_held = true;
    kith_loop_post(farewell->loop, &farewell->letter);
    return NULL;
}

/* A loop does not wait for a sender that it may have interrupted; and a letter may end the loop
 * while its sender is still at it. */
static void test_loop_closes_when_a_letter_is_sent(void **state)
{
    (void)state;
    struct farewell farewell = {.letter = {.fn = on_farewell, .ctx = &farewell}};
    pthread_t thread;
    assert_int_equal(sem_init(&go_on, 0, 0), 0);
    assert_int_equal(kith_loop_open(&farewell.loop, NULL), KITH_OK);
    assert_int_equal(pthread_create(&thread, NULL, send_farewell, &farewell), 0);
    kith_loop_run(farewell.loop);
    kith_loop_close(farewell.loop);
    assert_false(delivered_late);
    assert_false(closed_too_early);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(sem_destroy(&go_on), 0);
}

struct turn {
    struct kith_loop *loop;
    struct kith_timer *timer;
    struct kith_letter letter;
    int ticks, letters;
};

static void on_late_letter(void *ctx)
{
    ((struct turn *)ctx)->letters++;
}

static void on_tick(void *ctx)
{
    struct turn *turn = ctx;
    if (++turn->ticks < 3)
        return;
    kith_timer_stop(turn->timer);
    kith_loop_stop(turn->loop);
    kith_loop_stop(turn->loop);
    turn->letter.fn = on_late_letter;
    turn->letter.ctx = turn;
    kith_loop_post(turn->loop, &turn->letter); /* after the stop, and still delivered */
}

static void test_loop_runs_timers_and_can_run_again(void **state)
{
    (void)state;
    struct turn turn = {0};
    assert_int_equal(kith_loop_open(&turn.loop, NULL), KITH_OK);
    assert_int_equal(kith_timer_new(&turn.timer, turn.loop, on_tick, &turn), KITH_OK);
    for (int round = 1; round <= 2; round++) {
        turn.ticks = 0;
        kith_timer_start(turn.timer, 1, 1);
        kith_loop_run(turn.loop);
        assert_int_equal(turn.ticks, 3);
        assert_int_equal(turn.letters, round);
    }
    struct kith_timer *left_open = NULL; /* kith_loop_close takes it along */
    assert_int_equal(kith_timer_new(&left_open, turn.loop, on_tick, &turn), KITH_OK);
    kith_timer_start(left_open, 100000, 0);
    kith_timer_free(turn.timer);
    kith_loop_close(turn.loop);
}

static void on_ready(void *ctx, int events, bool error)
{
    struct turn *turn = ctx;
    kith_assert(events == KITH_READABLE && !error);
    turn->ticks++;
    kith_loop_stop(turn->loop);
}

static void test_loop_watches_a_descriptor(void **state)
{
    (void)state;
    struct turn turn = {0};
    struct kith_watch *watch = NULL;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(kith_loop_open(&turn.loop, NULL), KITH_OK);
    assert_int_equal(kith_watch_new(&watch, turn.loop, ends[0], on_ready, &turn), KITH_OK);
    kith_watch_start(watch, KITH_READABLE);
    assert_int_equal(write(ends[1], "x", 1), 1);
    kith_loop_run(turn.loop);
    assert_true(turn.ticks >= 1); /* level-triggered, and a stop takes a turn */
    kith_watch_stop(watch);
    kith_watch_free(watch);
    kith_loop_close(turn.loop);
    close(ends[0]);
    close(ends[1]);
}

static void on_signal(void *ctx)
{
    struct turn *turn = ctx;
    turn->ticks++;
    kith_loop_stop(turn->loop);
}

static void test_loop_hears_signals(void **state)
{
    (void)state;
    struct turn turn = {0};
    assert_int_equal(kith_loop_open(&turn.loop, NULL), KITH_OK);
    assert_int_equal(kith_loop_on_signals(turn.loop, on_signal, &turn), KITH_OK);
    raise(SIGTERM);
    kith_loop_run(turn.loop);
    assert_int_equal(turn.ticks, 1);
    kith_loop_close(turn.loop);
}

static void test_loop_survives_each_oom(void **state)
{
    (void)state;
    long live = kith_mem_live();
    struct kith_loop *loop = NULL;
    struct kith_timer *timer = NULL;
    struct kith_watch *watch = NULL;
    kith_mem_fail_after(0);
    assert_int_equal(kith_loop_open(&loop, NULL), KITH_NOMEM);
    kith_mem_fail_after(-1);
    assert_int_equal(kith_loop_open(&loop, NULL), KITH_OK);
    kith_mem_fail_after(0);
    assert_int_equal(kith_timer_new(&timer, loop, on_tick, NULL), KITH_NOMEM);
    assert_int_equal(kith_watch_new(&watch, loop, 0, on_ready, NULL), KITH_NOMEM);
    kith_mem_fail_after(-1);
    assert_int_equal(kith_watch_new(&watch, loop, -1, on_ready, NULL), KITH_IO);
    kith_loop_close(loop);
    kith_loop_close(NULL);
    assert_int_equal(kith_mem_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loop_keeps_the_order_of_each_sender),
        cmocka_unit_test(test_loop_closes_when_a_letter_is_sent),
        cmocka_unit_test(test_loop_runs_timers_and_can_run_again),
        cmocka_unit_test(test_loop_watches_a_descriptor),
        cmocka_unit_test(test_loop_hears_signals),
        cmocka_unit_test(test_loop_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
