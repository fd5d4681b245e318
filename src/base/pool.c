/* How it works.
 *
 * A job's pieces are dealt out as one run of neighbours per thread, because neighbours read neighbouring
 * memory. Each run is one 64-bit word: the job's number, the first piece not yet taken, the end. A thread
 * takes its own run from the front, then the others' from the back, one piece at a time by compare-and-swap:
 * a late thread that still holds a word of an earlier job fails and looks again. Only after it has succeeded
 * does it read the job's fields, and those stay as they are until its piece is reported in `done`. The caller
 * publishes, works along, and waits until `done` counts all pieces: it never waits for a thread that took
 * none.
 *
 * Waiting, in both directions, is three steps: pause instructions for as long as the next job of a chain
 * usually takes to come, then sched_yield (free on an idle machine, gives the core away on a crowded one),
 * then sleep on a condition.
 */
#include "base/pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define MAX_THREADS 256

/* How long to wait in each way. A decode step leaves gaps of some microseconds between jobs, the sampler one
 * of some hundred between steps: a worker stays awake over both, and no longer. */
#define PAUSE_NS        20000
#define YIELD_NS        400000
#define CALLER_PAUSE_NS 30000

#define LINE 64 /* bytes of a cache line: what one thread writes often lies apart from what others read */

typedef struct worker {
    lm_pool *pool;
    pthread_t thread;
    uint32_t index;
} worker;

/* number of the job << 32 | end << 16 | next, of the pieces that are a thread's own */
typedef struct run {
    _Alignas(LINE) _Atomic uint64_t word;
} run;
#define MAX_PIECES 65535

struct lm_pool {
    _Alignas(LINE) _Atomic uint32_t number; /* of the last job published; wraps */
    lm_pool_job *job;                       /* these four: written by the caller before it publishes */
    void *arg;
    uint32_t n_chunks;
    uint32_t first; /* chunk that piece 0 is */

    _Alignas(LINE) _Atomic uint32_t done; /* pieces finished */
    _Atomic bool caller_sleeps;           /* set under lock */

    _Alignas(LINE) _Atomic uint32_t sleepers; /* workers asleep or about to be, changed under lock */
    _Atomic bool closing;
    pthread_mutex_t lock;
    pthread_cond_t work; /* workers wait here */
    pthread_cond_t idle; /* the caller waits here */

    uint32_t n_threads; /* with the caller */
    uint32_t started;   /* workers that run */
    run *runs;          /* (n_threads) */
    worker workers[];   /* n_threads - 1 */
};

static inline void relax(void) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

uint32_t lm_cpu_cores(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return (uint32_t)CPU_COUNT(&set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : (uint32_t)n;
}

/* Takes the pieces of one run until none is left. Returns how many it did. */
static uint32_t work_off_run(lm_pool *p, uint32_t owner, uint32_t thread) {
    _Atomic uint64_t *word = &p->runs[owner].word;
    uint32_t did = 0;
    uint64_t now = atomic_load_explicit(word, memory_order_acquire);
    for (;;) {
        uint32_t next = now & 0xffff, end = now >> 16 & 0xffff;
        if (next == end) return did;
        uint64_t less = owner == thread ? now + 1 : now - 0x10000;
        if (!atomic_compare_exchange_weak_explicit(word, &now, less, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        p->job(p->arg, p->first + (owner == thread ? next : end - 1), thread);
        did++;
        now = atomic_load_explicit(word, memory_order_acquire);
    }
}

static uint32_t work_off(lm_pool *p, uint32_t thread) {
    uint32_t did = 0;
    for (uint32_t i = 0; i < p->n_threads; i++) did += work_off_run(p, (thread + i) % p->n_threads, thread);
    return did;
}

static void report(lm_pool *p, uint32_t did) {
    uint32_t n_chunks = p->n_chunks; /* before the report: afterwards the fields are the caller's again */
    uint32_t before = atomic_fetch_add(&p->done, did);
    if (before + did != n_chunks || !atomic_load(&p->caller_sleeps)) return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_signal(&p->idle);
    pthread_mutex_unlock(&p->lock);
}

static bool has_work(lm_pool *p, uint32_t seen) {
    return atomic_load_explicit(&p->number, memory_order_acquire) != seen ||
           atomic_load_explicit(&p->closing, memory_order_relaxed);
}

/* Returns when there is a job other than `seen` or the pool closes. */
static void await_work(lm_pool *p, uint32_t seen) {
    uint64_t start = lm_now_ns(), now = start;
    while (now - start < PAUSE_NS + YIELD_NS) {
        for (int i = 0; i < 64; i++) {
            if (has_work(p, seen)) return;
            relax();
        }
        now = lm_now_ns();
        if (now - start > PAUSE_NS) sched_yield();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->number) == seen && !atomic_load(&p->closing))
        pthread_cond_wait(&p->work, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
}

static void *worker_main(void *arg) {
    worker *w = arg;
    lm_pool *p = w->pool;
    uint32_t seen = 0;
    for (;;) {
        await_work(p, seen);
        if (atomic_load(&p->closing)) return NULL;
        seen = atomic_load_explicit(&p->number, memory_order_acquire);
        uint32_t did = work_off(p, w->index);
        if (did) report(p, did);
    }
}

static void await_done(lm_pool *p, uint32_t n_chunks) {
    uint64_t start = 0;
    for (;;) {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(&p->done, memory_order_acquire) == n_chunks) return;
            relax();
        }
        uint64_t now = lm_now_ns();
        if (!start) start = now;
        if (now - start > CALLER_PAUSE_NS) break;
    }
    /* Whoever holds the last piece has lost its core: sleeping lets it have this one. */
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->caller_sleeps, true);
    while (atomic_load(&p->done) != n_chunks) pthread_cond_wait(&p->idle, &p->lock);
    atomic_store(&p->caller_sleeps, false);
    pthread_mutex_unlock(&p->lock);
}

static void run_pieces(lm_pool *p, lm_pool_job *job, void *arg, uint32_t first, uint32_t n) {
    p->job = job;
    p->arg = arg;
    p->n_chunks = n;
    p->first = first;
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    uint32_t number = atomic_load_explicit(&p->number, memory_order_relaxed) + 1;
    for (uint32_t i = 0; i < p->n_threads; i++) {
        uint64_t next = (uint64_t)n * i / p->n_threads, end = (uint64_t)n * (i + 1) / p->n_threads;
        atomic_store_explicit(&p->runs[i].word, (uint64_t)number << 32 | end << 16 | next,
                              memory_order_release);
    }
    /* Sequentially consistent, as the look at `sleepers` below: a worker that goes to sleep either sees this
     * job or is seen. */
    atomic_store(&p->number, number);
    if (atomic_load(&p->sleepers)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->work);
        pthread_mutex_unlock(&p->lock);
    }
    uint32_t did = work_off(p, 0);
    if (atomic_fetch_add_explicit(&p->done, did, memory_order_acq_rel) + did != n) await_done(p, n);
}

void lm_pool_run(lm_pool *p, lm_pool_job *job, void *arg, uint32_t n_chunks) {
    if (p->n_threads == 1 || n_chunks == 1) {
        for (uint32_t i = 0; i < n_chunks; i++) job(arg, i, 0);
        return;
    }
    for (uint32_t first = 0; first < n_chunks; first += MAX_PIECES)
        run_pieces(p, job, arg, first, n_chunks - first < MAX_PIECES ? n_chunks - first : MAX_PIECES);
}

lm_status lm_pool_open(lm_pool **out, uint32_t n_threads, lm_err *err) {
    if (n_threads == 0) n_threads = lm_cpu_cores();
    if (n_threads > MAX_THREADS)
        return lm_fail(err, LM_INVALID, "%u threads are more than the %d that a pool takes; ask for fewer",
                       n_threads, MAX_THREADS);
    size_t size = sizeof(lm_pool) + (n_threads - 1) * sizeof(worker);
    lm_pool *p = aligned_alloc(LINE, (size + LINE - 1) / LINE * LINE);
    run *runs = aligned_alloc(LINE, n_threads * sizeof *runs);
    if (!p || !runs) {
        free(p);
        free(runs);
        return lm_fail(err, LM_NO_MEMORY, "no memory for %u threads", n_threads);
    }
    memset(p, 0, size);
    memset(runs, 0, n_threads * sizeof *runs);
    p->runs = runs;
    p->n_threads = n_threads;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->idle, NULL);

    /* Signals are the program's main thread's business. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    int failed = 0;
    for (uint32_t i = 0; i + 1 < n_threads && !failed; i++) {
        p->workers[i] = (worker){.pool = p, .index = i + 1};
        failed = pthread_create(&p->workers[i].thread, NULL, worker_main, &p->workers[i]);
        if (!failed) p->started++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (failed) {
        uint32_t got = p->started + 1;
        lm_pool_close(p);
        return lm_fail(err, failed == EAGAIN ? LM_NO_MEMORY : LM_INTERNAL,
                       "the system gave %u of %u threads (%s); ask for fewer or raise the limit (ulimit -u)",
                       got, n_threads, strerror(failed));
    }
    *out = p;
    return LM_OK;
}

void lm_pool_close(lm_pool *p) {
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->closing, true);
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (uint32_t i = 0; i < p->started; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->idle);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p->runs);
    free(p);
}

uint32_t lm_pool_threads(const lm_pool *p) {
    return p->n_threads;
}
