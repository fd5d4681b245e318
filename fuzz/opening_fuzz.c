/* The files about a model's text, from a hostile hand: each is opened or refused with a text, and what opens
 * works within its limits. The facts that are read without the tokenizer agree with it.
 *
 * Input: a byte that chooses the file, then its bytes; the other files are sound. */
#define _GNU_SOURCE 1
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "text/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TOKENIZER                                                                                            \
    "{\"added_tokens\":[{\"id\":2,\"content\":\"<|im_end|>\",\"single_word\":false,\"lstrip\":false,"        \
    "\"rstrip\":false,\"normalized\":false,\"special\":true}],\"model\":{\"type\":\"BPE\",\"merges\":[],"    \
    "\"vocab\":{\"a\":0,\"b\":1}}}"
#define CONTEXT                                                                                              \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"a <b> "                                                 \
    "\\u00e9\"},{\"role\":\"assistant\",\"content\":\"\","                                                   \
    "\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"x\":[1,2.5,null]}}}]}],\"tools\":[],"    \
    "\"add_generation_prompt\":true,\"bos_token\":\"<s>\"}"

static const struct {
    const char *name, *sound;
} files[] = {{"tokenizer.json", TOKENIZER},
             {"chat_template.jinja", "{{ messages }}"},
             {"tokenizer_config.json", "{}"},
             {"generation_config.json", "{}"},
             {"config.json", "{}"}};
#define N_FILES (sizeof files / sizeof *files)

static char dir[] = "/tmp/lm-fuzz-opening-XXXXXX";
static int fds[N_FILES];

static void fill(size_t i, const void *bytes, size_t n) {
    if (ftruncate(fds[i], 0) != 0 || pwrite(fds[i], bytes, n, 0) != (ssize_t)n) abort();
}

/* A directory whose files are in memory. */
static void set_up(void) {
    if (!mkdtemp(dir)) abort();
    for (size_t i = 0; i < N_FILES; i++) {
        char from[64], to[128];
        fds[i] = memfd_create(files[i].name, MFD_CLOEXEC);
        snprintf(from, sizeof from, "/proc/self/fd/%d", fds[i]);
        snprintf(to, sizeof to, "%s/%s", dir, files[i].name);
        if (fds[i] < 0 || symlink(from, to) != 0) abort();
        fill(i, files[i].sound, strlen(files[i].sound));
    }
}

static void use_tokenizer(const lm_tokenizer *t) {
    lm_tokens ids = {0};
    lm_buf out;
    lm_err err = {0};
    lm_buf_init(&out, 1 << 16);
    if (lm_tokenizer_encode(t, LM_STR("ab <|im_end|>\n\xc3\xa9"), true, &ids, &err) == LM_OK) {
        if (lm_tokenizer_decode(t, ids.ids, ids.n, false, &out, &err) == LM_OK)
            LM_ASSERT(lm_utf8_valid(lm_buf_view(&out), NULL) == out.len);
    } else {
        LM_ASSERT(err.text[0]);
    }
    for (int32_t id = -1; id < 8; id++) (void)lm_tokenizer_bytes(t, id);
    lm_tokens_release(&ids);
    lm_buf_release(&out);
}

static void use_template(const lm_template *t) {
    lm_buf out;
    lm_err err = {0};
    lm_buf_init(&out, 1 << 20);
    if (lm_template_render(t, LM_STR(CONTEXT), &out, &err) != LM_OK) LM_ASSERT(err.text[0]);
    lm_buf_release(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!fds[0]) set_up();
    if (!size || size > 1 << 16) return 0;
    size_t which = data[0] % N_FILES;
    fill(which, data + 1, size - 1);

    lm_err err = {0};
    lm_text *t = NULL;
    lm_text_facts f = {0};
    lm_status opened = lm_text_open(&t, dir, &err);
    LM_ASSERT(opened == LM_OK || (err.text[0] && !t));
    lm_status read = lm_text_facts_read(&f, dir, &err);
    LM_ASSERT(read == LM_OK || err.text[0]);
    if (opened == LM_OK) {
        LM_ASSERT(read == LM_OK);
        LM_ASSERT(f.tools == t->tools && f.thinks == t->thinks && f.inserts == t->inserts);
        LM_ASSERT(f.channels == t->channels &&
                  (f.chat.len > 0) == (t->chat && lm_template_source(t->chat).len));
        use_tokenizer(t->tokenizer);
        if (t->chat) use_template(t->chat);
    }
    lm_text_close(t);
    lm_text_facts_release(&f);
    fill(which, files[which].sound, strlen(files[which].sound));
    return 0;
}
