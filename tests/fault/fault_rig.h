/* A process that works on a real folder and dies, or whose disk dies, at a chosen call.
 *
 * The child runs a scripted workload on io_real behind a wrapper that counts calls; what it
 * attempted and what was acknowledged is in memory that it shares with the parent. The parent then
 * opens the folder and compares: acknowledged writes are there, in order, nothing else is, the one
 * in flight may be. Included by the tests of this folder only. */
#ifndef FAULT_RIG_H
#define FAULT_RIG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/kith_err.h"

#define FAULT_WRITES_MAX 64u

enum fault_mode {
    FAULT_NONE,
    FAULT_KILL,       /* SIGKILL before call `at` */
    FAULT_KILL_AFTER, /* right after it */
    FAULT_KILL_HALF,  /* a write: in its middle; other calls: before */
    FAULT_POWER, /* the file system is shut down before call `at`, or at the end of the workload,
                    without flushing its log */
    FAULT_SYNC,  /* sync number `at` fails, and says yes ever after */
    FAULT_SPACE, /* from call `at` on whatever needs space gets DISK_FULL */
};

struct fault {
    enum fault_mode mode;
    uint64_t at;
    uint64_t file_bytes_max; /* RLIMIT_FSIZE of the process; 0: none */
};

struct fault_shared {
    atomic_uint attempted;                     /* the last write that was begun; 1, 2... */
    _Atomic int results[FAULT_WRITES_MAX + 1]; /* 1 + enum kith_err; 0: none came */
    atomic_bool created, destroying, destroyed;
    _Atomic uint64_t calls, syncs, reads_failed;
    _Atomic uint64_t calls_of_creation;
};

extern const char *const fault_workloads[]; /* NULL at the end */

struct fault_shared *fault_shared_new(void); /* lives as long as the process */
/* Runs a workload in a child; true: it came to its end (the fault was not reached, or survived). */
bool fault_run(const char *workload, const char *root, const struct fault *fault,
               struct fault_shared *shared);
/* The same with the kernel's calls failing, under strace: its -e inject=, for example
 * "fdatasync:error=EIO:when=3". The test's main begins with fault_work. */
bool fault_strace(const char *workload, const char *root, const char *inject,
                  struct fault_shared *shared);
bool fault_strace_works(void);
void fault_work(int argc, char **argv); /* does not return in a child of fault_strace */
/* Opens what is there, in a child; with a fault that kills, the recovery dies at that call: true
 * when it did not come so far. Otherwise true: the state is one that is allowed; text says more. */
bool fault_check(const char *workload, const char *root, const struct fault *fault,
                 const struct fault_shared *shared);

#endif
