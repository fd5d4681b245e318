/* pool.h - the threads that share the arithmetic of one step.
 *
 * lm_pool_run splits a job into n_chunks pieces; the caller works along with the pool's threads and returns
 * when all pieces are done. Pieces are taken one at a time, each thread its share first and then the others',
 * so that a thread that the system has scheduled away holds up at most the piece in its hands; the caller
 * never waits for a thread that took none. Idle threads spin briefly (a step is a chain of hundreds of short
 * jobs), then sleep. On a machine with more runnable threads than cores they give way instead of burning
 * their slice.
 *
 * Threads: one lm_pool_run at a time for a pool (the engine thread that owns the pool's step); job functions
 * run at the same time on several threads and must not call lm_pool_run.
 */
#ifndef LM_POOL_H
#define LM_POOL_H

#include "base/base.h"

typedef struct lm_pool lm_pool;

/* One piece of a job. thread is 0 for the caller, 1..n-1 for the pool's own: an index for per-thread scratch.
 */
typedef void lm_pool_job(void *arg, uint32_t chunk, uint32_t thread);

/* n_threads counts the caller: 1 makes no thread. 0 = the number of usable cores. LM_NO_MEMORY, LM_INTERNAL:
 * no thread to be had. */
lm_status lm_pool_open(lm_pool **out, uint32_t n_threads, lm_err *err) LM_CHECKED;
void lm_pool_close(lm_pool *pool); /* NULL allowed; no job may be running */

uint32_t lm_pool_threads(const lm_pool *pool);
void lm_pool_run(lm_pool *pool, lm_pool_job *job, void *arg, uint32_t n_chunks);

uint32_t lm_cpu_cores(void); /* cores that this process may use (affinity mask), at least 1 */

#endif
