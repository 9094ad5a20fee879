/* Which threads a busy CPU runs first: those that answer somebody, then the threads of others, then
 * those that take in what is written, then what nobody waits for. Those that take in and what is
 * behind them also stand aside for searches (kith_aside.h).
 *
 * Threads: each call is about the calling thread, and the threads it starts afterwards. What it may
 * not do, or the kernel cannot (Linux 6.12 and later can), is left as it was. */
#ifndef KITH_THREAD_H
#define KITH_THREAD_H

/* It runs at once when it wakes: for work that is short. It may go before all others
 * (kith_realtime.h); it is to say between two pieces of work that it looks (kith_aside_look). */
void kith_thread_ahead(void);
/* It lets those run that wake, but goes before what is behind: for a load of writes. */
void kith_thread_bulk(void);
/* From now on the thread has less of a busy CPU than others (nice: 0 to 19, never less than it
 * had), and lets all others run that wake. */
void kith_thread_behind(int nice);

#endif
