/* The forms of calls, and which of them a model has.
 *
 * A form counts when the template writes its opening or the vocabulary has a token for it; most templates do,
 * since they show earlier calls. The file `parser` in the model's directory names a family instead
 * (docs/API.md). Sources: the chat templates of the families as their makers publish them.
 */
#include <string.h>

#include "text/parser.h"

/* DeepSeek writes with a full-width bar and a lower one-eighth block. */
#define BAR   "\xef\xbd\x9c"
#define BLOCK "\xe2\x96\x81"

static const parser_form forms[] = {
    {"<tool_call>", "</tool_call>", BODY_JSON | BODY_XML | BODY_PAIRS, NULL, NULL, 0,
     "qwen qwen3 qwen3-coder hermes granite glm", NULL},
    /* Qwen3-Coder leaves out the first tag now and then */
    {"<function=", "</function>", BODY_XML, NULL, NULL, sizeof "<function=" - 1, "qwen3-coder functionary",
     "</tool_call>"},
    {"<seed:tool_call>", "</seed:tool_call>", BODY_XML, NULL, NULL, 0, "seed", NULL},
    {"<|tool_call|>", "<|/tool_call|>", BODY_JSON, NULL, NULL, 0, "phi granite", NULL},
    {"functools[", "", BODY_JSON, NULL, "<|/tool_call|>", 1, "phi", NULL},
    {"[TOOL_CALLS]", "", BODY_JSON | BODY_NAMED, "[ARGS]", NULL, 0, "mistral", NULL},
    {"<|python_tag|>", "", BODY_JSON, NULL, NULL, 0, "llama", NULL},
    {"<" BAR "tool" BLOCK "calls" BLOCK "begin" BAR ">", "<" BAR "tool" BLOCK "calls" BLOCK "end" BAR ">",
     BODY_WRAPS, NULL, NULL, 0, "deepseek", NULL},
    {"<" BAR "tool" BLOCK "call" BLOCK "begin" BAR ">", "<" BAR "tool" BLOCK "call" BLOCK "end" BAR ">",
     BODY_NAMED, "<" BAR "tool" BLOCK "sep" BAR ">", NULL, 0, "deepseek", NULL},
    {"<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", BODY_WRAPS, NULL, NULL, 0, "kimi", NULL},
    {"<|tool_call_begin|>", "<|tool_call_end|>", BODY_NAMED, "<|tool_call_argument_begin|>", NULL, 0, "kimi",
     NULL},
    {"<|START_ACTION|>", "<|END_ACTION|>", BODY_JSON, NULL, NULL, 0, "command", NULL},
    {"<|START_RESPONSE|>", "<|END_RESPONSE|>", BODY_DROPS, NULL, NULL, 0, "command", NULL},
    {"<|START_TEXT|>", "<|END_TEXT|>", BODY_DROPS, NULL, NULL, 0, "command", NULL},
    {"Action:", "```", BODY_JSON | BODY_FENCE, NULL, NULL, 0, "command", NULL},
    {"<|tool_call_start|>", "<|tool_call_end|>", BODY_JSON | BODY_PYTHON, NULL, NULL, 0, "lfm2", NULL},
    {"```tool_code", "```", BODY_JSON | BODY_PYTHON, NULL, NULL, 0, "gemma", NULL},
    {"```tool_call", "```", BODY_JSON, NULL, NULL, 0, "gemma", NULL},
    {"```json", "```", BODY_JSON, NULL, NULL, 0, "gemma", NULL},
    {"<function_call>", "</function_call>", BODY_JSON, NULL, NULL, 0, "granite", NULL},
    {"<TOOLCALL>", "</TOOLCALL>", BODY_JSON, NULL, NULL, 0, "nemotron", NULL},
    {"<tool_calls>", "</tool_calls>", BODY_JSON, NULL, NULL, 0, "jamba", NULL},
};
#define N_FORMS (sizeof forms / sizeof *forms)

/* No calls at all, and calls in JSON without tags, which are looked for in every family. */
static const char *const others[] = {"none", "json"};

static bool names(const char *list, const char *name) {
    size_t n = strlen(name);
    for (const char *at = list; (at = strstr(at, name)); at += n)
        if ((at == list || at[-1] == ' ') && (!at[n] || at[n] == ' ')) return true;
    return false;
}

bool lm_parser_is_family(const char *name) {
    if (!*name || strchr(name, ' ')) return false;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(others[i], name)) return true;
    for (size_t i = 0; i < N_FORMS; i++)
        if (names(forms[i].families, name)) return true;
    return false;
}

bool parser_wraps_answers(lm_text_has *has, const void *ctx) {
    for (size_t i = 0; i < N_FORMS; i++)
        if (forms[i].body & BODY_DROPS && has(ctx, forms[i].open)) return true;
    return false;
}

static bool has_form(const lm_text *t, const parser_form *f) {
    if (t->parser) return names(f->families, t->parser);
    const char *sign = f->sign ? f->sign : f->open;
    return lm_text_marker(t, sign) >= 0 || (!(f->body & BODY_DROPS) && lm_text_template_says(t, sign));
}

void parser_choose_forms(lm_parser *p, const lm_text *t) {
    bool calls = false;
    p->bare = t->parser && !strcmp(t->parser, "json");
    for (size_t i = 0; i < N_FORMS && p->n_forms < PARSER_MAX_FORMS; i++) {
        bool drops = forms[i].body & BODY_DROPS;
        if ((!drops && !p->tools) || !has_form(t, &forms[i])) continue;
        p->forms[p->n_forms++] = &forms[i];
        calls = calls || !drops;
        if (!strcmp(forms[i].open, "<|python_tag|>")) p->bare = true;
    }
    /* what most models have learnt */
    if (p->tools && !calls && !t->parser && p->n_forms < PARSER_MAX_FORMS) p->forms[p->n_forms++] = &forms[0];
}
