#include "doctor/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_TOKENS 128

/* Something to review, with the mistakes that one makes. About 700 tokens with today's vocabularies. */
static const char code[] =
    "Review this C code. List every mistake with its line and show the corrected function.\n\n"
    "```c\n"
    "typedef struct entry {\n"
    "    char *key;\n"
    "    char *value;\n"
    "    struct entry *next;          /* in the bucket */\n"
    "    struct entry *older, *newer; /* by last use */\n"
    "} entry;\n\n"
    "typedef struct cache {\n"
    "    entry *buckets[256];\n"
    "    entry *oldest, *newest;\n"
    "    size_t used, limit; /* bytes of keys and values */\n"
    "    pthread_mutex_t lock;\n"
    "} cache;\n\n"
    "static unsigned hash(const char *key) {\n"
    "    int h = 5381;\n"
    "    while (*key) h = h * 33 + *key++;\n"
    "    return h % 256;\n"
    "}\n\n"
    "static void unlink_entry(cache *c, entry *e) {\n"
    "    if (e->older) e->older->newer = e->newer;\n"
    "    if (e->newer) e->newer->older = e->older;\n"
    "    if (c->oldest == e) c->oldest = e->newer;\n"
    "    if (c->newest == e) c->newest = e->older;\n"
    "}\n\n"
    "static void evict(cache *c) {\n"
    "    entry *e = c->oldest;\n"
    "    unlink_entry(c, e);\n"
    "    c->used -= strlen(e->key) + strlen(e->value);\n"
    "    free(e->key);\n"
    "    free(e->value);\n"
    "    free(e);\n"
    "}\n\n"
    "const char *cache_get(cache *c, const char *key) {\n"
    "    pthread_mutex_lock(&c->lock);\n"
    "    entry *e = c->buckets[hash(key)];\n"
    "    while (e && strcmp(e->key, key)) e = e->next;\n"
    "    if (!e) return NULL;\n"
    "    unlink_entry(c, e);\n"
    "    e->older = c->newest;\n"
    "    c->newest = e;\n"
    "    pthread_mutex_unlock(&c->lock);\n"
    "    return e->value;\n"
    "}\n\n"
    "int cache_put(cache *c, const char *key, const char *value) {\n"
    "    entry *e = malloc(sizeof(entry));\n"
    "    e->key = strdup(key);\n"
    "    e->value = strdup(value);\n"
    "    pthread_mutex_lock(&c->lock);\n"
    "    c->used += strlen(key) + strlen(value);\n"
    "    while (c->used > c->limit) evict(c);\n"
    "    e->next = c->buckets[hash(key)];\n"
    "    c->buckets[hash(key)] = e;\n"
    "    e->older = c->newest;\n"
    "    if (c->newest) c->newest->newer = e;\n"
    "    c->newest = e;\n"
    "    pthread_mutex_unlock(&c->lock);\n"
    "    return 0;\n"
    "}\n"
    "```\n";
static const char greeting[] = "Say hello.";
static const char story[] = "Write a story of a thousand words about a lighthouse keeper and her dog.";

/* A prompt that nobody has seen: its number stands at the beginning, where caches look first. */
static char *fresh(bench *b, const char *text) {
    size_t room = strlen(text) + 32;
    char *out = lm_alloc(room);
    snprintf(out, room, "%06u. %s", 100000 + 7919 * ++b->turn % 900000, text);
    return out;
}

static void begin(bench *b, const char *who, const char *what) {
    snprintf(b->doing, sizeof b->doing, "%s: %s", who, what);
    report_begin(&b->d.report, b->doing);
}

/* ---- a server */

typedef struct spoken {
    double first_s, last_s;
    uint32_t prompt_tokens, tokens;
} spoken;

static bool ask_server(bench *b, const wire *w, const char *model, const char *text, uint32_t n, spoken *out,
                       doctor_result *r) {
    char *prompt = fresh(b, text);
    json_t *body = wire_request(model, true, true, prompt, n);
    wire_stream s;
    bool ok = wire_stream_ask(w, "/api/chat", body, &s, r);
    json_decref(body);
    free(prompt);
    if (!ok) return false;
    json_int_t prompt_tokens = json_integer_value(json_object_get(s.last, "prompt_eval_count"));
    json_int_t tokens = json_integer_value(json_object_get(s.last, "eval_count"));
    *out = (spoken){(double)s.first_ns / 1e9, (double)s.last_ns / 1e9, (uint32_t)prompt_tokens,
                    (uint32_t)tokens};
    ok = s.first_ns && tokens > 0 && tokens <= (json_int_t)n && prompt_tokens > 0;
    if (!ok)
        doctor_failed(r, "choose another model with --bench-model",
                      "%s of %s said nothing that can be measured (%lld tokens of a prompt of %lld)", model,
                      w->url, (long long)tokens, (long long)prompt_tokens);
    wire_stream_release(&s);
    return ok;
}

/* Tokens per second of what came after the first one; NAN: there was only one. */
static double answer_rate(const spoken *s) {
    double seconds = s->last_s - s->first_s;
    return s->tokens > 1 && seconds > 0 ? (s->tokens - 1) / seconds : NAN;
}

static void fill(bench_run *out, const spoken *first, const spoken *prompt, const spoken *answer,
                 const spoken *review) {
    out->figure[FIGURE_FIRST] = first->first_s;
    out->figure[FIGURE_PROMPT] = prompt->prompt_tokens / prompt->first_s;
    out->figure[FIGURE_ANSWER] = answer_rate(answer);
    out->figure[FIGURE_REVIEW] = review->last_s;
    out->prompt_tokens = prompt->prompt_tokens;
    out->answer_tokens = answer->tokens;
    out->review_tokens = review->tokens;
}

static void clear(bench_run *run) {
    *run = (bench_run){0};
    for (int i = 0; i < N_FIGURES; i++) run->figure[i] = NAN;
}

bool bench_server(bench *b, const char *who, const wire *w, const char *model, int pid, uint64_t started_ns,
                  bench_run *out, doctor_result *r) {
    bench_run run;
    spoken load, first, prompt, answer, review;
    clear(&run);
    if (started_ns) {
        begin(b, who, "process start to first token");
        uint64_t before = lm_now_ns() - started_ns;
        if (!ask_server(b, w, model, greeting, 8, &load, r)) return false;
        run.figure[FIGURE_START] = (double)before / 1e9 + load.first_s;
    }
    begin(b, who, "model load to first token");
    if (!wire_unload(w, model, r) || !ask_server(b, w, model, greeting, 8, &load, r)) return false;
    run.figure[FIGURE_LOAD] = load.first_s;
    begin(b, who, "first token");
    if (!ask_server(b, w, model, greeting, 8, &first, r)) return false;
    begin(b, who, "prompt");
    if (!ask_server(b, w, model, code, 1, &prompt, r)) return false;
    begin(b, who, "answer");
    if (!ask_server(b, w, model, story, ANSWER_TOKENS, &answer, r)) return false;
    begin(b, who, "code review");
    if (!ask_server(b, w, model, code, ANSWER_TOKENS, &review, r)) return false;
    fill(&run, &first, &prompt, &answer, &review);
    uint64_t bytes = memory_of_tree(pid);
    if (bytes) run.figure[FIGURE_MEMORY] = (double)bytes;
    *out = run;
    return true;
}

/* ---- mlx_lm */

/* Asks the way its own command does. Its lines for us begin with "doctor ". */
static const char script[] =
    "import json, sys, time\n"
    "job = json.loads(sys.stdin.readline())\n"
    "def say(**what):\n"
    "    print('doctor', json.dumps(what), flush=True)\n"
    "import mlx.core as mx, mlx_lm\n"
    "from mlx_lm import load, stream_generate\n"
    "began = time.perf_counter()\n"
    "model, tokenizer = load(job['model'])\n"
    "def ask(text, n, began=None):\n"
    "    began = began or time.perf_counter()\n"
    "    template = tokenizer.chat_template is not None\n"
    "    if template:\n"
    "        messages = [{'role': 'user', 'content': text}]\n"
    "        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)\n"
    "    ids = tokenizer.encode(text, add_special_tokens=not template)\n"
    "    first, tokens = None, 0\n"
    "    for part in stream_generate(model, tokenizer, ids, max_tokens=n):\n"
    "        first = first or time.perf_counter() - began\n"
    "        tokens = part.generation_tokens\n"
    "    say(first=first, last=time.perf_counter() - began, prompt=len(ids), tokens=tokens)\n"
    "ask(*job['asks'][0], began=began)\n"
    "for one in job['asks'][1:]:\n"
    "    ask(*one)\n"
    "say(version='%s, mlx %s on %s' % (mlx_lm.__version__, mx.__version__, mx.default_device().type.name))\n"
    "sys.stdin.readline()\n";

/* The next line that is for us, as JSON. */
static json_t *hear_json(bench *b, doctor_process *p, doctor_result *r) {
    lm_buf line;
    lm_err err = {0};
    json_t *o = NULL;
    lm_buf_init(&line, 1u << 20);
    lm_status st;
    do st = process_hear(p, b->d.config->timeout_s, &b->d.report, &line, &err);
    while (st == LM_OK && !lm_str_starts(lm_buf_view(&line), LM_STR("doctor ")));
    if (st == LM_OK) o = json_loads(line.ptr + 7, 0, NULL);
    if (st == LM_OK && !json_is_object(o))
        st = lm_fail(&err, LM_CORRUPT, "what it said is no JSON: %s", line.ptr);
    lm_buf_release(&line);
    if (st == LM_OK) return o;
    json_decref(o);
    doctor_failed(r, "see whether PYTHON -m mlx_lm generate --model DIR works; more time: --timeout SECONDS",
                  "mlx-lm: %s", err.text);
    return NULL;
}

static bool hear_answer(bench *b, doctor_process *p, spoken *out, doctor_result *r) {
    json_t *o = hear_json(b, p, r);
    if (!o) return false;
    *out = (spoken){json_number_value(json_object_get(o, "first")),
                    json_number_value(json_object_get(o, "last")),
                    (uint32_t)json_integer_value(json_object_get(o, "prompt")),
                    (uint32_t)json_integer_value(json_object_get(o, "tokens"))};
    json_decref(o);
    if (out->first_s > 0 && out->tokens) return true;
    return doctor_failed(r, "choose another model with --bench-model",
                         "mlx-lm said nothing that can be measured");
}

static lm_status say_job(bench *b, doctor_process *p, const char *dir, lm_err *err) {
    static const struct {
        const char *text;
        int n;
    } asks[] = {{greeting, 8}, {greeting, 8}, {code, 1}, {story, ANSWER_TOKENS}, {code, ANSWER_TOKENS}};
    json_t *list = json_array();
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++) {
        char *prompt = fresh(b, asks[i].text);
        json_array_append_new(list, json_pack("[s, i]", prompt, asks[i].n));
        free(prompt);
    }
    json_t *job = json_pack("{s:s, s:o}", "model", dir, "asks", list);
    char *text = json_dumps(job, JSON_COMPACT);
    lm_status st = process_say(p, lm_str_of(text), err);
    if (st == LM_OK) st = process_say(p, LM_STR("\n"), err);
    free(text);
    json_decref(job);
    return st;
}

static bool hear_run(bench *b, doctor_process *p, uint64_t started_ns, char version[128], bench_run *out,
                     doctor_result *r) {
    spoken load, first, prompt, answer, review;
    begin(b, "mlx-lm", "process start to first token");
    if (!hear_answer(b, p, &load, r)) return false;
    double since = (double)(lm_now_ns() - started_ns) / 1e9;
    begin(b, "mlx-lm", "prompts and answers");
    if (!hear_answer(b, p, &first, r) || !hear_answer(b, p, &prompt, r) || !hear_answer(b, p, &answer, r) ||
        !hear_answer(b, p, &review, r))
        return false;
    json_t *o = hear_json(b, p, r);
    if (!o) return false;
    const char *said = json_string_value(json_object_get(o, "version"));
    snprintf(version, 128, "%s", said ? said : "");
    json_decref(o);
    clear(out);
    fill(out, &first, &prompt, &answer, &review);
    out->figure[FIGURE_LOAD] = load.first_s;
    out->figure[FIGURE_START] = since - (load.last_s - load.first_s); /* the line came after the last token */
    uint64_t bytes = memory_of_tree(process_pid(p));
    if (bytes) out->figure[FIGURE_MEMORY] = (double)bytes;
    return true;
}

bool bench_mlx_lm(bench *b, const char *python, const char *dir, char version[128], bench_run *out,
                  doctor_result *r) {
    char *argv[] = {lm_strdup(python), "-c", lm_strdup(script), NULL};
    doctor_process *p = NULL;
    lm_err err = {0};
    bench_run run;
    uint64_t started = lm_now_ns();
    lm_status st = process_start(&p, argv, true, &err);
    if (st == LM_OK) st = say_job(b, p, dir, &err);
    bool ok = st == LM_OK
                  ? hear_run(b, p, started, version, &run, r)
                  : doctor_failed(r, "name a Python that has it with --mlx-lm", "mlx-lm: %s", err.text);
    process_stop(p, 5);
    free(argv[0]);
    free(argv[2]);
    if (ok) *out = run;
    return ok;
}

bool bench_has_mlx_lm(bench *b, const char *python, doctor_result *r) {
    char *argv[] = {
        lm_strdup(python), "-c",
        "import importlib.util as u; print('doctor', '{\"there\": 1}' if u.find_spec('mlx_lm') else '{}', "
        "flush=True)",
        NULL};
    static const char remedy[] = "pip install mlx-lm, and name that Python with --mlx-lm";
    doctor_process *p = NULL;
    lm_err err = {0};
    begin(b, "mlx-lm", "is it there");
    lm_status st = process_start(&p, argv, true, &err);
    json_t *o = st == LM_OK ? hear_json(b, p, r) : NULL;
    bool ok = json_object_get(o, "there") != NULL;
    if (st != LM_OK) doctor_failed(r, remedy, "%s", err.text);
    if (o && !ok) doctor_failed(r, remedy, "%s has no mlx_lm", python);
    json_decref(o);
    process_stop(p, 5);
    free(argv[0]);
    return ok;
}
