/* log.c - lines into a file of limited size.
 *
 * The writer itself turns the file over, between two lines: PATH becomes PATH.old, and a new PATH begins. So nothing is
 * lost to a tool that copies and truncates. On a full disk the bridge must go on: what finds no room is counted, and a
 * line that is only half written is taken back.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/service.h"

#define LINE_LIMIT (64u << 10)
#define LOOK_NS    UINT64_C(1000000000)

static void open_again(service_log *l) {
    lm_err err = {0};
    struct stat info;
    if (l->fd >= 0) close(l->fd);
    l->fd = -1;
    l->size = 0;
    if (service_open_ours(l->path, &l->fd, &err) == LM_OK && !fstat(l->fd, &info))
        l->size = (uint64_t)info.st_size;
}

lm_status service_log_open(service_log *l, const char *path, uint64_t limit, lm_err *err) {
    struct stat info;
    int fd = -1;
    lm_status st = service_open_ours(path, &fd, err);
    if (st != LM_OK) return st;
    *l = (service_log){.path = lm_strdup(path), .limit = limit, .fd = fd};
    lm_buf_init(&l->held, 2 * LINE_LIMIT + 16);
    if (!fstat(fd, &info)) l->size = (uint64_t)info.st_size;
    return LM_OK;
}

/* Somebody may have moved or removed the file: then a new one begins. */
static void look(service_log *l) {
    struct stat here, there;
    uint64_t now = lm_now_ns();
    if (now - l->looked_ns < LOOK_NS) return;
    l->looked_ns = now;
    if (l->fd < 0 || fstat(l->fd, &here) || lstat(l->path, &there) || here.st_ino != there.st_ino ||
        here.st_dev != there.st_dev)
        open_again(l);
}

/* False: PATH.old is not ours to replace; the file grows on, and it is tried again after as much more. */
static bool turn_over(service_log *l) {
    lm_buf old;
    lm_buf_init(&old, 8192);
    lm_buf_printf(&old, "%s.old", l->path);
    bool done = !rename(l->path, old.ptr);
    lm_buf_release(&old);
    if (done) open_again(l);
    return done;
}

static uint64_t count_lines(lm_str s) {
    uint64_t n = 0;
    for (const char *at = s.ptr, *end = s.ptr + s.len;
         at < end && (at = memchr(at, '\n', (size_t)(end - at))); at++)
        n++;
    return n;
}

/* What of it found room, in whole lines. */
static size_t put(service_log *l, lm_str s) {
    size_t done = 0;
    while (l->fd >= 0 && done < s.len) {
        ssize_t n = write(l->fd, s.ptr + done, s.len - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        done += (size_t)n;
    }
    size_t whole = done;
    while (whole && s.ptr[whole - 1] != '\n') whole--;
    if (whole < done && ftruncate(l->fd, (off_t)(l->size + whole)))
        whole = done; /* a part of a line stays, then */
    l->size += whole;
    return whole;
}

static bool tell_dropped(service_log *l) {
    if (!l->n_dropped) return true;
    char note[160];
    int n = snprintf(note, sizeof note,
                     "level=WARN msg=\"the disk was full: %llu lines (%llu bytes) are missing here\"\n",
                     (unsigned long long)l->n_dropped, (unsigned long long)l->dropped_bytes);
    if (put(l, (lm_str){note, (size_t)n}) != (size_t)n) return false;
    l->n_dropped = l->dropped_bytes = 0;
    return true;
}

/* Whole lines. */
static void write_lines(service_log *l, lm_str s) {
    if (!s.len) return;
    look(l);
    if (l->size && l->size + s.len > l->limit) {
        if (!l->stuck)
            l->stuck = !turn_over(l);
        else if (l->size % l->limit + s.len > l->limit)
            l->stuck = !turn_over(l);
    }
    size_t done = tell_dropped(l) ? put(l, s) : 0;
    if (done == s.len) return;
    l->n_dropped += count_lines((lm_str){s.ptr + done, s.len - done});
    l->dropped_bytes += s.len - done;
}

/* The length of s up to its last end of a line. */
static size_t whole_lines(lm_str s) {
    while (s.len && s.ptr[s.len - 1] != '\n') s.len--;
    return s.len;
}

static void keep(lm_buf *held, size_t from) {
    size_t rest = held->len - from;
    memmove(held->ptr, held->ptr + from, rest);
    held->len = rest;
}

void service_log_add(service_log *l, lm_str bytes) {
    while (bytes.len) {
        size_t n = bytes.len < LINE_LIMIT ? bytes.len : LINE_LIMIT;
        lm_buf_add(&l->held, bytes.ptr, n);
        bytes = (lm_str){bytes.ptr + n, bytes.len - n};
        size_t whole = whole_lines(lm_buf_view(&l->held));
        write_lines(l, (lm_str){l->held.ptr, whole});
        keep(&l->held, whole);
        if (l->held.len >= LINE_LIMIT) service_log_end_line(l);
    }
}

void service_log_end_line(service_log *l) {
    if (!l->held.len) return;
    lm_buf_char(&l->held, '\n');
    write_lines(l, lm_buf_view(&l->held));
    l->held.len = 0;
}

void service_log_close(service_log *l) {
    if (!l->path) return;
    service_log_end_line(l);
    if (l->fd >= 0) close(l->fd);
    lm_buf_release(&l->held);
    free(l->path);
    *l = (service_log){.fd = -1};
}

/* ---- by level */

static bool is_news(lm_str line) {
    if (!lm_str_starts(line, LM_STR("time="))) return false;
    const char *blank = memchr(line.ptr, ' ', line.len);
    if (!blank) return false;
    lm_str rest = {blank + 1, line.len - (size_t)(blank + 1 - line.ptr)};
    return lm_str_starts(rest, LM_STR("level=INFO ")) || lm_str_starts(rest, LM_STR("level=DEBUG "));
}

/* Neighbours of the same kind go out together. */
static void sort_lines(service_split *s, lm_str lines) {
    size_t from = 0;
    bool news = false;
    for (size_t at = 0; at < lines.len;) {
        const char *end = memchr(lines.ptr + at, '\n', lines.len - at);
        size_t len = end ? (size_t)(end - lines.ptr) - at + 1 : lines.len - at;
        bool is = is_news((lm_str){lines.ptr + at, len});
        if (at > from && is != news) {
            service_log_add(news ? s->log : s->errors, (lm_str){lines.ptr + from, at - from});
            from = at;
        }
        news = is;
        at += len;
    }
    service_log_add(news ? s->log : s->errors, (lm_str){lines.ptr + from, lines.len - from});
}

void service_split_add(service_split *s, lm_str bytes) {
    if (!s->held.cap) lm_buf_init(&s->held, 2 * LINE_LIMIT + 16);
    while (bytes.len) {
        size_t n = bytes.len < LINE_LIMIT ? bytes.len : LINE_LIMIT;
        lm_buf_add(&s->held, bytes.ptr, n);
        bytes = (lm_str){bytes.ptr + n, bytes.len - n};
        size_t whole = whole_lines(lm_buf_view(&s->held));
        if (whole) sort_lines(s, (lm_str){s->held.ptr, whole});
        keep(&s->held, whole);
        if (s->held.len >= LINE_LIMIT) service_split_end_line(s);
    }
}

void service_split_end_line(service_split *s) {
    if (!s->held.len) return;
    lm_buf_char(&s->held, '\n');
    sort_lines(s, lm_buf_view(&s->held));
    s->held.len = 0;
}
