/* gpt-oss's channels. The prompt ends with <|start|>assistant, so an answer is
 *
 *     <|channel|>analysis<|message|>...<|end|>                                      thinking
 *     <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>
 *     <|start|>assistant<|channel|>final<|message|>...<|return|>                    content
 *
 * where <|call|> and <|return|> are stop tokens and never seen. The recipient may also stand before
 * <|channel|>.
 */
#include <string.h>

#include "text/parser.h"

#define MAX_HEADER 512

static const char message_tag[] = "<|message|>", channel_tag[] = "<|channel|>", to_tag[] = "to=";
static const char *const ends[] = {"<|end|>", "<|start|>", "<|call|>", "<|return|>", "<|channel|>"};
#define N_ENDS (sizeof ends / sizeof *ends)

static lm_str find(lm_str in, const char *word) {
    char *at = in.len ? memmem(in.ptr, in.len, word, strlen(word)) : NULL;
    if (!at) return (lm_str){0};
    at += strlen(word);
    return (lm_str){at, (size_t)(in.ptr + in.len - at)};
}

/* "functions.get_weather <|constrain|>..." is get_weather. */
static void read_recipient(lm_parser *p, lm_str to) {
    size_t n = 0;
    if (lm_str_starts(to, LM_STR("functions."))) to = (lm_str){to.ptr + 10, to.len - 10};
    while (n < to.len && n < sizeof p->recipient - 1 && !strchr(" <\n\t", to.ptr[n])) n++;
    memcpy(p->recipient, to.ptr, n);
    p->recipient[n] = '\0';
}

static void read_header(lm_parser *p, lm_str header) {
    lm_str channel = find(header, channel_tag), to = find(header, to_tag);
    p->recipient[0] = '\0';
    p->part = LM_PART_CONTENT;
    if (to.len) read_recipient(p, to);
    if (p->recipient[0] && p->tools)
        p->part = LM_PART_TOOL_CALL;
    else if (lm_str_starts(channel, LM_STR("analysis")))
        p->part = LM_PART_THINKING;
}

/* A header begins with a tag, with the role that stands before one, or with white space. What it is must be
 * decided by the same bytes however the answer is cut: by the first ones, and by a length. */
static bool is_header(const lm_str text) {
    static const char role[] = "assistant";
    size_t n = text.len < sizeof role - 1 ? text.len : sizeof role - 1;
    return text.ptr[0] == '<' || !memcmp(text.ptr, role, n) || parser_blanks(text.ptr, 1);
}

static bool step_channel(lm_parser *p, bool last) {
    lm_str text = {p->held.ptr, p->held.len < MAX_HEADER ? p->held.len : MAX_HEADER};
    char *end = is_header(text) ? memmem(text.ptr, text.len, message_tag, sizeof message_tag - 1) : NULL;
    if (end) {
        read_header(p, (lm_str){p->held.ptr, (size_t)(end - p->held.ptr)});
        parser_drop(p, (size_t)(end - p->held.ptr) + sizeof message_tag - 1);
        p->mode = MODE_MESSAGE;
        return true;
    }
    if (is_header(text) && text.len < MAX_HEADER) {
        if (last) parser_drop(p, p->held.len); /* a header without a message: nothing to show */
        return false;
    }
    p->part = LM_PART_CONTENT; /* the model has left the form: show its text */
    p->mode = MODE_MESSAGE;
    return true;
}

static void end_message(lm_parser *p, size_t n) {
    if (p->part != LM_PART_TOOL_CALL) {
        parser_give(p, p->part, p->held.ptr, n);
    } else if (!parser_give_call(p, lm_str_of(p->recipient), (lm_str){p->held.ptr, n})) {
        parser_give(p, LM_PART_CONTENT, p->held.ptr, n);
    }
}

static bool step_message(lm_parser *p, bool last) {
    char *first = NULL;
    size_t keep = 0, tag = 0;
    for (size_t i = 0; i < N_ENDS; i++) {
        char *at = memmem(p->held.ptr, p->held.len, ends[i], strlen(ends[i]));
        if (at && (!first || at < first)) {
            first = at;
            /* <|start|> and <|channel|> begin the next header. */
            tag = i == 1 || i == 4 ? 0 : strlen(ends[i]);
        }
        size_t partial = parser_partial(p->held.ptr, p->held.len, ends[i]);
        if (partial > keep) keep = partial;
    }
    if (first) {
        size_t n = (size_t)(first - p->held.ptr);
        end_message(p, n);
        parser_drop(p, n + tag);
        p->part = LM_PART_CONTENT;
        p->mode = MODE_CHANNEL;
        return true;
    }
    if (last) {
        end_message(p, p->held.len);
        parser_drop(p, p->held.len);
    } else if (p->part != LM_PART_TOOL_CALL) {
        size_t n = p->held.len - keep;
        parser_give(p, p->part, p->held.ptr, n);
        parser_drop(p, n);
    } else if (p->held.len > PARSER_MAX_CALL) {
        p->part = LM_PART_CONTENT;
        return true;
    }
    return false;
}

bool parser_step_harmony(lm_parser *p, bool last) {
    return p->mode == MODE_CHANNEL ? step_channel(p, last) : step_message(p, last);
}
