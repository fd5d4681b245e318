/* The text side of one model: its files (files.c), its tokenizer, and what they say together. */
#include <stdlib.h>
#include <string.h>

#include "text/private.h"

#define MAX_STOP_IDS 64

int32_t lm_text_marker(const lm_text *t, const char *token) {
    int32_t id = lm_tokenizer_id(t->tokenizer, lm_str_of(token));
    return lm_tokenizer_is_special(t->tokenizer, id) || lm_tokenizer_is_added(t->tokenizer, id) ? id : -1;
}

bool lm_text_has_marker(const void *text, const char *token) {
    return lm_text_marker(text, token) >= 0;
}

bool lm_text_template_says(const lm_text *t, const char *words) {
    if (!t->chat && !t->go) return false;
    lm_str s = t->go ? lm_go_template_source(t->go) : lm_template_source(t->chat);
    return memmem(s.ptr, s.len, words, strlen(words)) != NULL;
}

bool lm_text_is_stop(const lm_text *t, int32_t id) {
    for (uint32_t i = 0; i < t->n_stop_ids; i++)
        if (t->stop_ids[i] == id) return true;
    return false;
}

static void stop_by_id(void *ctx, int64_t id) {
    lm_text *t = ctx;
    if (id < 0 || id >= lm_tokenizer_size(t->tokenizer) || t->n_stop_ids == MAX_STOP_IDS) return;
    if (!lm_text_is_stop(t, (int32_t)id)) t->stop_ids[t->n_stop_ids++] = (int32_t)id;
}

static void stop_by_token(void *ctx, const char *token) {
    lm_text *t = ctx;
    stop_by_id(t, lm_tokenizer_id(t->tokenizer, lm_str_of(token)));
}

lm_status lm_text_open(lm_text **out, const char *dir, lm_err *err) {
    lm_text_files files = {0};
    lm_text *t = lm_alloc(sizeof *t);
    t->bos_id = -1;
    t->stop_ids = lm_alloc(MAX_STOP_IDS * sizeof *t->stop_ids);

    lm_status st = lm_tokenizer_open(&t->tokenizer, dir, err);
    if (st == LM_OK) st = lm_text_files_read(&files, dir, err);
    if (st == LM_OK) st = lm_text_files_compile(&files, dir, &t->chat, &t->go, err);
    if (st != LM_OK) goto done;

    t->bos = lm_strdup(lm_text_files_token(&files, "bos_token"));
    t->eos = lm_strdup(lm_text_files_token(&files, "eos_token"));
    if (t->bos[0]) t->bos_id = lm_tokenizer_id(t->tokenizer, lm_str_of(t->bos));
    lm_text_files_ends(&files, lm_text_has_marker, t, &(lm_text_ends){t, stop_by_id, stop_by_token});
    lm_text_abilities can = lm_text_can(t->chat, t->go, lm_text_has_marker, t);
    t->channels = can.channels;
    t->thinks = can.thinks;
    t->tools = can.tools;
    t->inserts = can.inserts;
    t->wraps = parser_wraps_answers(lm_text_has_marker, t);
    if (files.parser) t->parser = lm_strdup(files.parser);
    *out = t;
    t = NULL;
done:
    lm_text_close(t);
    lm_text_files_release(&files);
    return st;
}

void lm_text_close(lm_text *t) {
    if (!t) return;
    lm_tokenizer_close(t->tokenizer);
    lm_template_close(t->chat);
    lm_go_template_close(t->go);
    free(t->bos);
    free(t->eos);
    free(t->parser);
    free(t->stop_ids);
    free(t);
}
