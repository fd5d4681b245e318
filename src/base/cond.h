/* cond.h - waiting on a condition for a time: by the monotonic clock, on every system. */
#ifndef LM_COND_H
#define LM_COND_H

#include <pthread.h>
#include <stdint.h>

void lm_cond_init(pthread_cond_t *cond);
/* wait_ns < 0: until it is signalled. May come back early, as conditions do. */
void lm_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t wait_ns);

#endif
