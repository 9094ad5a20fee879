#include "common/kith_inbox.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/kith_mem.h"

struct kith_inbox {
    kith_inbox_fn fn;
    void *ctx;
    struct kith_watch *watch;
    int fd;

    pthread_mutex_t lock;
    struct kith_inbox_item *first; /* guarded by lock */
    struct kith_inbox_item **tail; /* guarded by lock */
};

static void deliver(struct kith_inbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    struct kith_inbox_item *item = inbox->first;
    inbox->first = NULL;
    inbox->tail = &inbox->first;
    pthread_mutex_unlock(&inbox->lock);
    while (item) {
        struct kith_inbox_item *next = item->next;
        inbox->fn(inbox->ctx, item);
        item = next;
    }
}

static void on_readable(void *ctx, int events, bool error)
{
    struct kith_inbox *inbox = ctx;
    (void)events;
    (void)error;
    uint64_t count;
    while (read(inbox->fd, &count, sizeof count) < 0 && errno == EINTR) {
    }
    deliver(inbox);
}

enum kith_err kith_inbox_open(struct kith_inbox **out, struct kith_loop *loop, kith_inbox_fn fn,
                              void *ctx, struct kith_diag *diag)
{
    struct kith_inbox *inbox = kith_alloc(sizeof *inbox);
    if (!inbox) {
        return kith_fail(diag, KITH_NOMEM, "inbox");
    }
    inbox->fn = fn;
    inbox->ctx = ctx;
    inbox->tail = &inbox->first;
    pthread_mutex_init(&inbox->lock, NULL);
    enum kith_err err = KITH_OK;
    inbox->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (inbox->fd < 0) {
        err = kith_fail(diag, KITH_IO, "eventfd: %s", strerror(errno));
        goto out;
    }
    err = kith_watch_new(&inbox->watch, loop, inbox->fd, on_readable, inbox);
    if (err) {
        kith_fail(diag, err, "inbox");
        goto out;
    }
    kith_watch_start(inbox->watch, KITH_READABLE);
    *out = inbox;
    return KITH_OK;
out:
    kith_inbox_close(inbox);
    return err;
}

void kith_inbox_close(struct kith_inbox *inbox)
{
    if (!inbox) {
        return;
    }
    kith_watch_free(inbox->watch);
    if (inbox->fd >= 0) {
        close(inbox->fd);
    }
    deliver(inbox);
    pthread_mutex_destroy(&inbox->lock);
    kith_free(inbox);
}

void kith_inbox_put(struct kith_inbox *inbox, struct kith_inbox_item *item)
{
    item->next = NULL;
    pthread_mutex_lock(&inbox->lock);
    *inbox->tail = item;
    inbox->tail = &item->next;
    /* Inside the lock: after it, the loop may already have closed the inbox. */
    const uint64_t one = 1;
    while (write(inbox->fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
    pthread_mutex_unlock(&inbox->lock);
}
