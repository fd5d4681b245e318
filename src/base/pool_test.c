#include "base/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/test.h"

#define MAX_PIECES 1000
#define THREADS    4

typedef struct count {
    uint32_t
        did[MAX_PIECES]; /* plain numbers: the thread sanitizer sees it when the pool orders them badly */
    uint32_t n_threads;
    uint64_t per_thread[THREADS];
} count;

static void count_piece(void *arg, uint32_t chunk, uint32_t thread) {
    count *c = arg;
    assert_true(thread < c->n_threads && chunk < MAX_PIECES);
    c->did[chunk]++;
    c->per_thread[thread]++;
}

static void every_piece_is_done_once(void **state) {
    (void)state;
    for (uint32_t threads = 1; threads <= THREADS; threads++) {
        lm_err err = {0};
        lm_pool *pool = NULL;
        expect_ok(lm_pool_open(&pool, threads, &err), err);
        assert_int_equal(lm_pool_threads(pool), threads);
        count c = {.n_threads = threads};
        uint64_t total = 0;
        for (uint32_t round = 0; round < 400; round++) {
            uint32_t n = round % 7 == 0 ? MAX_PIECES : round % 23;
            memset(c.did, 0, sizeof c.did);
            lm_pool_run(pool, count_piece, &c, n);
            total += n;
            for (uint32_t i = 0; i < MAX_PIECES; i++) assert_int_equal(c.did[i], i < n);
        }
        for (uint32_t i = 0; i < threads; i++) total -= c.per_thread[i];
        assert_int_equal(total, 0);
        lm_pool_close(pool);
    }
}

/* Each job reads what the one before wrote in another thread, as layers of a model do. */
typedef struct chain {
    uint64_t from[64], to[64];
} chain;

static void chain_piece(void *arg, uint32_t chunk, uint32_t thread) {
    (void)thread;
    chain *c = arg;
    c->to[chunk] = c->from[(chunk + 1) % 64] + c->from[(chunk + 17) % 64] + chunk;
}

static void a_job_sees_all_of_the_one_before(void **state) {
    (void)state;
    lm_err err = {0};
    lm_pool *pool = NULL;
    expect_ok(lm_pool_open(&pool, THREADS, &err), err);
    static chain a, b;
    for (uint32_t round = 0; round < 3000; round++) {
        for (uint32_t i = 0; i < 64; i++) chain_piece(&b, i, 0);
        lm_pool_run(pool, chain_piece, &a, 64);
        memcpy(a.from, a.to, sizeof a.from);
        memcpy(b.from, b.to, sizeof b.from);
        assert_memory_equal(a.from, b.from, sizeof a.from);
    }
    lm_pool_close(pool);
}

/* Threads that are awake for each piece's sake: many pools at once on a machine that has no cores for them.
 */
static void *crowd_main(void *arg) {
    (void)arg;
    lm_err err = {0};
    lm_pool *pool = NULL;
    if (lm_pool_open(&pool, THREADS, &err) != LM_OK) return NULL;
    count c = {.n_threads = THREADS};
    for (uint32_t round = 0; round < 200; round++) lm_pool_run(pool, count_piece, &c, 50);
    lm_pool_close(pool);
    uint64_t *sum = malloc(sizeof *sum);
    *sum = 0;
    for (uint32_t i = 0; i < MAX_PIECES; i++) *sum += c.did[i];
    return sum;
}

static void pools_work_on_a_crowded_machine(void **state) {
    (void)state;
    pthread_t threads[6];
    for (int i = 0; i < 6; i++) assert_int_equal(pthread_create(&threads[i], NULL, crowd_main, NULL), 0);
    for (int i = 0; i < 6; i++) {
        void *sum = NULL;
        pthread_join(threads[i], &sum);
        assert_non_null(sum);
        assert_int_equal(*(uint64_t *)sum, 200 * 50);
        free(sum);
    }
}

static void sleep_piece(void *arg, uint32_t chunk, uint32_t thread) {
    (void)chunk;
    (void)thread;
    struct timespec pause = {0, 2000000};
    nanosleep(&pause, NULL);
    atomic_fetch_add((_Atomic uint32_t *)arg, 1);
}

/* Long enough for workers, and for the caller, to fall asleep in between. */
static void sleepers_are_woken(void **state) {
    (void)state;
    lm_err err = {0};
    lm_pool *pool = NULL;
    expect_ok(lm_pool_open(&pool, 3, &err), err);
    _Atomic uint32_t n = 0;
    for (int round = 0; round < 20; round++) {
        lm_pool_run(pool, sleep_piece, &n, 5);
        assert_int_equal(atomic_load(&n), 5 * (round + 1));
        struct timespec pause = {0, 3000000};
        nanosleep(&pause, NULL);
    }
    lm_pool_close(pool);
    lm_pool_close(NULL);
}

static void sum_piece(void *arg, uint32_t chunk, uint32_t thread) {
    (void)thread;
    atomic_fetch_add((_Atomic uint64_t *)arg, (uint64_t)chunk + 1);
}

static void any_number_of_pieces_is_taken(void **state) {
    (void)state;
    lm_err err = {0};
    lm_pool *pool = NULL;
    expect_ok(lm_pool_open(&pool, 3, &err), err);
    static const uint32_t counts[] = {0, 1, 2, 65534, 65535, 65536, 200001};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        _Atomic uint64_t sum = 0;
        lm_pool_run(pool, sum_piece, &sum, counts[i]);
        assert_int_equal(atomic_load(&sum), (uint64_t)counts[i] * (counts[i] + 1) / 2);
    }
    lm_pool_close(pool);
}

static void too_many_threads_are_refused(void **state) {
    (void)state;
    lm_err err = {0};
    lm_pool *pool = NULL;
    expect_fail(lm_pool_open(&pool, 100000, &err), LM_INVALID, err, "100000 threads");
    assert_null(pool);
    assert_true(lm_cpu_cores() >= 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_piece_is_done_once),        cmocka_unit_test(a_job_sees_all_of_the_one_before),
        cmocka_unit_test(pools_work_on_a_crowded_machine), cmocka_unit_test(sleepers_are_woken),
        cmocka_unit_test(any_number_of_pieces_is_taken),   cmocka_unit_test(too_many_threads_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
