/* What all kernels need: the library's identity, the processor's abilities, threads for one call. */
#define _POSIX_C_SOURCE 200809L

#include "kernels.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

enum { MOST_THREADS = 64 };

uint64_t smk_declarations(void) { return SMK_DECLARATIONS; }

int smk_variants(void) {
    int found = 1;
#if defined(SMK_WITH_avx2)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
        found |= 2;
#if defined(SMK_WITH_avx512)
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
            found |= 4;
#endif
    }
#endif
#if defined(SMK_WITH_neon)
    found |= 8;
#endif
    return found;
}

typedef struct {
    void (*work)(void *, size_t);
    void *context;
    size_t count;
    atomic_size_t next;
} Job;

static void *take(void *argument) {
    Job *job = argument;
    for (;;) {
        size_t i = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (i >= job->count) return NULL;
        job->work(job->context, i);
    }
}

void smk_parallel(int threads, size_t count, void (*work)(void *context, size_t i), void *context) {
    Job job = {work, context, count, 0};
    pthread_t helpers[MOST_THREADS];
    int made = 0;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if (threads > 1 && count > 1) {
        sigset_t all, before;
        sigfillset(&all);
        int masked = pthread_sigmask(SIG_SETMASK, &all, &before) == 0;
        while (made < threads - 1 && (size_t)made < count - 1) {
            if (pthread_create(&helpers[made], NULL, take, &job) != 0) break;
            made++;
        }
        if (masked) pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    take(&job);
    for (int i = 0; i < made; i++) pthread_join(helpers[i], NULL);
}
