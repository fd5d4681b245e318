/* From tokens to text that may be shown.
 *
 * Two things are held back: bytes that are the beginning of a character (at most three), and text that is the
 * beginning of a stop string. Each stop string has a matcher of Knuth, Morris and Pratt: after every byte its
 * state is the length of the longest prefix of the stop string that the text ends with. The largest state is
 * what must be held back; a state that reaches the whole length is a hit. So every byte is looked at once,
 * however the tokens cut it.
 *
 * Bytes that can never become a character are shown as U+FFFD, one for each maximal part of a sequence, which
 * is what decoding the whole at once gives.
 */
#include <stdlib.h>
#include <string.h>

#include "text/private.h"

#define MAX_STOPS      256
#define MAX_STOP_BYTES (64u << 10) /* all stop strings of a request together */

typedef struct stop {
    const char *text;
    uint32_t len;
    uint32_t state;       /* bytes of text that match now */
    const uint32_t *fail; /* (len) where to go on after a mismatch */
} stop;

struct lm_stream {
    const lm_tokenizer *tokenizer;
    uint8_t partial[4]; /* the beginning of a character */
    uint32_t n_partial;
    char *held; /* checked text that may begin a stop string */
    uint32_t n_held;
    uint32_t n_stops;
    bool stopped;
    const stop *met; /* the one that stopped it */
    char *texts;     /* backs every stop.text */
    uint32_t *fails; /* backs every stop.fail */
    stop stops[];
};

/* ---- opening ---------------------------------------------------------------------------------------------- */

static void prepare_matcher(stop *s, uint32_t *fail) {
    s->fail = fail;
    if (s->len) fail[0] = 0;
    for (uint32_t i = 1, k = 0; i < s->len; i++) {
        while (k && s->text[i] != s->text[k]) k = fail[k - 1];
        if (s->text[i] == s->text[k]) k++;
        fail[i] = k;
    }
}

static lm_status check_stops(const lm_str *stops, uint32_t n, size_t *total, size_t *longest, lm_err *err) {
    *total = *longest = 0;
    if (n > MAX_STOPS)
        return lm_fail(err, LM_INVALID, "%u stop strings; at most %d are allowed", n, MAX_STOPS);
    for (uint32_t i = 0; i < n; i++) {
        if (stops[i].len > MAX_STOP_BYTES || (*total += stops[i].len) > MAX_STOP_BYTES)
            return lm_fail(err, LM_INVALID, "stop strings of more than %u bytes", MAX_STOP_BYTES);
        if (lm_utf8_valid(stops[i], NULL) != stops[i].len)
            return lm_fail(err, LM_INVALID, "stop string %u is not valid UTF-8", i);
        if (stops[i].len > *longest) *longest = stops[i].len;
    }
    return LM_OK;
}

lm_status lm_stream_open(lm_stream **out, const lm_tokenizer *t, const lm_str *stops, uint32_t n_stops,
                         lm_err *err) {
    size_t total, longest;
    lm_status st = check_stops(stops, n_stops, &total, &longest, err);
    if (st != LM_OK) return st;

    lm_stream *s = lm_try_alloc(1, sizeof *s + n_stops * sizeof(stop));
    if (!s) goto no_memory;
    s->tokenizer = t;
    s->texts = lm_try_alloc(total + 1, 1);
    s->fails = lm_try_alloc(total + 1, sizeof *s->fails);
    /* What is held plus one token, of which every byte may become U+FFFD (3 bytes), plus the partial
     * character. */
    s->held = lm_try_alloc(longest + 3 * ((size_t)lm_tokenizer_longest(t) + 4), 1);
    if (!s->texts || !s->fails || !s->held) goto no_memory;

    size_t at = 0;
    for (uint32_t i = 0; i < n_stops; i++) {
        if (!stops[i].len) continue; /* the empty string would stop everything: it means no stop string */
        stop *one = &s->stops[s->n_stops++];
        memcpy(s->texts + at, stops[i].ptr, stops[i].len);
        *one = (stop){.text = s->texts + at, .len = (uint32_t)stops[i].len};
        prepare_matcher(one, s->fails + at);
        at += stops[i].len;
    }
    *out = s;
    return LM_OK;
no_memory:
    lm_stream_close(s);
    return lm_fail(err, LM_NO_MEMORY, "no memory for a stream");
}

void lm_stream_close(lm_stream *s) {
    if (!s) return;
    free(s->texts);
    free(s->fails);
    free(s->held);
    free(s);
}

/* ---- characters ------------------------------------------------------------------------------------------- */

typedef enum shape { WHOLE, PARTIAL, BROKEN } shape;

/* Looks at the sequence that begins at p (n >= 1 bytes are there). *len: bytes of the character, or of the
 * part that cannot be completed. Table 3-7 of the Unicode standard: the second byte's range depends on the
 * first. */
static shape look(const uint8_t *p, size_t n, size_t *len) {
    uint8_t lead = p[0], low = 0x80, high = 0xbf;
    size_t need;
    *len = 1;
    if (lead < 0x80) return WHOLE;
    if (lead < 0xc2 || lead > 0xf4) return BROKEN;
    if (lead < 0xe0)
        need = 2;
    else if (lead < 0xf0)
        need = 3;
    else
        need = 4;
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
    for (; *len < need; (*len)++, low = 0x80, high = 0xbf) {
        if (*len == n) return PARTIAL;
        if (p[*len] < low || p[*len] > high) return BROKEN;
    }
    return WHOLE;
}

/* ---- stop strings ----------------------------------------------------------------------------------------- */

/* Steps every matcher by one byte. Returns the length of the longest stop string that ends here, 0 for none.
 */
static uint32_t step_stops(lm_stream *s, char byte) {
    uint32_t hit = 0;
    for (uint32_t i = 0; i < s->n_stops; i++) {
        stop *one = &s->stops[i];
        uint32_t k = one->state;
        while (k && one->text[k] != byte) k = one->fail[k - 1];
        if (one->text[k] == byte) k++;
        if (k == one->len && k > hit) {
            hit = k;
            s->met = one;
        }
        one->state = k;
    }
    return hit;
}

/* Adds checked text to what is held, up to the end of the first stop string. */
static void hold(lm_stream *s, const char *text, size_t len, lm_buf *out) {
    if (!s->n_stops) {
        lm_buf_add(out, text, len);
        return;
    }
    for (size_t i = 0; i < len && !s->stopped; i++) {
        s->held[s->n_held++] = text[i];
        uint32_t hit = step_stops(s, text[i]);
        if (hit) {
            s->n_held -= hit;
            s->stopped = true;
        }
    }
}

/* Gives away what can no longer become part of a stop string. */
static void show(lm_stream *s, lm_buf *out) {
    uint32_t keep = 0;
    for (uint32_t i = 0; i < s->n_stops && !s->stopped; i++)
        if (s->stops[i].state > keep) keep = s->stops[i].state;
    uint32_t ready = s->n_held - keep;
    if (!ready) return;
    lm_buf_add(out, s->held, ready);
    memmove(s->held, s->held + ready, keep);
    s->n_held = keep;
}

/* ---- the public part -------------------------------------------------------------------------------------- */

#define REPLACEMENT "\xef\xbf\xbd"

/* Takes n raw bytes: whole characters go on, a partial one at the end stays in s->partial. */
static void take_bytes(lm_stream *s, const uint8_t *p, size_t n, lm_buf *out) {
    size_t from = 0, at = 0, len;
    while (at < n) {
        shape is = look(p + at, n - at, &len);
        if (is == WHOLE) {
            at += len;
            continue;
        }
        hold(s, (const char *)p + from, at - from, out);
        if (is == PARTIAL) {
            s->n_partial = (uint32_t)(n - at);
            memmove(s->partial, p + at, n - at);
            return;
        }
        hold(s, REPLACEMENT, 3, out);
        at += len;
        from = at;
    }
    hold(s, (const char *)p + from, at - from, out);
}

lm_status lm_stream_push(lm_stream *s, int32_t id, lm_buf *out, bool *stopped, lm_err *err) {
    lm_str token = lm_tokenizer_bytes(s->tokenizer, id);
    const uint8_t *p = (const uint8_t *)token.ptr;
    size_t n = token.len;

    /* Finish the character that earlier tokens began, byte by byte: a byte that does not fit begins anew. */
    while (!s->stopped && n && s->n_partial) {
        uint8_t joined[4];
        uint32_t had = s->n_partial;
        memcpy(joined, s->partial, had);
        joined[had] = *p++;
        n--;
        s->n_partial = 0;
        take_bytes(s, joined, had + 1, out);
    }
    if (!s->stopped && n) take_bytes(s, p, n, out);
    show(s, out);
    *stopped = s->stopped;
    return lm_buf_status(out, "generated text", err);
}

void lm_stream_finish(lm_stream *s, lm_buf *out) {
    if (s->n_partial && !s->stopped) {
        s->n_partial = 0;
        hold(s, REPLACEMENT, 3, out);
    }
    lm_buf_add(out, s->held, s->n_held);
    s->n_held = 0;
}

void lm_stream_pending(const lm_stream *s, lm_buf *out) {
    lm_buf_add(out, s->held, s->n_held);
    lm_buf_add(out, s->partial, s->n_partial);
}

lm_str lm_stream_stop(const lm_stream *s) {
    return s->met ? (lm_str){s->met->text, s->met->len} : (lm_str){0};
}
