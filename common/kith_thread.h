/* Background work beside searches and writes.
 *
 * Threads: each call is about the calling thread, and the threads it starts afterwards. */
#ifndef KITH_THREAD_H
#define KITH_THREAD_H

/* From now on the thread has less of a busy CPU than others (nice: 0 to 19), and gives it up at
 * once to one that wakes, where the kernel can do that. What it may not do is left as it was. */
void kith_thread_behind(int nice);

#endif
