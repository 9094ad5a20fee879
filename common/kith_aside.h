/* What can wait stands aside while somebody waits for an answer: a process counts the searches it
 * is at work on, and threads that write, seal, merge or index sleep between short pieces of their
 * work while there are any.
 *
 * They also keep off one of the CPUs, if there are several, from the first search until there has
 * been none for KITH_ASIDE_SEARCHED_MS: so a thread that answers finds a CPU where nothing of ours
 * runs that cannot be stopped for milliseconds (the reading of a body, a write, a sync).
 *
 * Slices of the scheduler alone (kith_thread.h) do not do it: once a thread has had its share of a
 * busy CPU the others get theirs first, and until the clock ticks (every 4 ms) nobody looks whether
 * they have. So for the same time, while there is a load, threads that answer go before all others
 * (kith_realtime.h), and where they may not, pacers make the kernel look more often (kith_pacer.h).
 *
 * Threads: any. Limits: KITH_ASIDE_MS_MAX, KITH_ASIDE_SEARCHED_MS, KITH_ASIDE_LOADED_MS. */
#ifndef KITH_ASIDE_H
#define KITH_ASIDE_H

#include <stdbool.h>

/* Somebody waits for an answer from here on; as many ends as begins, on whatever threads. */
void kith_aside_answer_begin(void);
void kith_aside_answer_end(void);

/* Whether the calling thread stands aside: no, until kith_thread_bulk or kith_thread_behind said
 * so. Threads do not take it over from those that start them. Saying so, either way, also says on
 * which CPUs it runs: not on one that is kept free now, or again on all of the process. */
bool kith_aside_get(void);
void kith_aside_set(bool stands_aside);

/* Between two pieces of work of 0.1 ms or so, holding no lock that an answer needs: sleeps until no
 * answer is in progress. Not longer than KITH_ASIDE_MS_MAX, and not again before the thread has
 * worked for as long: answers without a break leave it half of its time. Costs next to nothing when
 * there is nothing to wait for. True: it slept. */
bool kith_aside_stand(void);

/* For what can wait: whether there is a search in progress, or was within KITH_ASIDE_SEARCHED_MS.
 */
bool kith_aside_searched(void);

/* For those that answer, between two pieces of work, however small: whether the thread goes before
 * all others is decided now. Not with a lock held. */
void kith_aside_look(void);
/* For the same. Whether there are searches beside a load, and those who answer do not go before all
 * others: then a thread that is woken may be left on its waker's CPU although others have nothing
 * to do. */
bool kith_aside_crowded(void);
/* If the calling thread is on `cpu`, it moves to another of the process's, if there is one. Until
 * kith_aside_return (not to be called when false) it does not run there. */
bool kith_aside_leave(int cpu);
void kith_aside_return(void);

#endif
