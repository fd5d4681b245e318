#include "base/cond.h"

#include <time.h>

#include "base/base.h"

void lm_cond_init(pthread_cond_t *cond) {
#ifdef __APPLE__
    LM_ASSERT(pthread_cond_init(cond, NULL) == 0);
#else
    pthread_condattr_t attr;
    LM_ASSERT(pthread_condattr_init(&attr) == 0);
    LM_ASSERT(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    LM_ASSERT(pthread_cond_init(cond, &attr) == 0);
    pthread_condattr_destroy(&attr);
#endif
}

void lm_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t wait_ns) {
    if (wait_ns < 0) {
        pthread_cond_wait(cond, lock);
        return;
    }
    int64_t day = 86400ll * 1000000000ll; /* the caller looks again: no need for sums that overflow */
    if (wait_ns > day) wait_ns = day;
#ifdef __APPLE__
    struct timespec ts = {.tv_sec = wait_ns / 1000000000, .tv_nsec = wait_ns % 1000000000};
    pthread_cond_timedwait_relative_np(cond, lock, &ts);
#else
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    int64_t ns = ts.tv_nsec + wait_ns % 1000000000;
    ts.tv_sec += wait_ns / 1000000000 + ns / 1000000000;
    ts.tv_nsec = ns % 1000000000;
    pthread_cond_timedwait(cond, lock, &ts);
#endif
}
