/* choose_test.c - who is asked, as a table; names that mean the same; random worlds. */
#include "router/choose.h"

#include "base/json.h"
#include "base/test.h"

#define S UINT64_C(1000000000)

static lm_aliases aliases;
static twin_index *twins;

static int set_up(void **state) {
    lm_err err = {0};
    if (make_test_dir(state)) return -1;
    put_file(test_dir(), "a.ini",
             LM_STR("[aliases]\n"
                    "llama3.2:3b = mlx-community/Llama-3.2-3B-4bit, mlx-community/Llama-3.2-3B-8bit\n"
                    "llama3.2:3b-q8_0 = mlx-community/Llama-3.2-3B-8bit\n"
                    "phi4 = mlx-community/phi-4-4bit\n"
                    "[default-tags]\nllama3.2 = 3b\n"));
    char *path = lm_path_join(test_dir(), "a.ini");
    if (lm_aliases_read(&aliases, path, &err) != LM_OK) return -1;
    free(path);
    twins = twin_index_make(&aliases);
    return 0;
}

static int tear_down(void **state) {
    twin_index_free(twins);
    lm_aliases_release(&aliases);
    return remove_test_dir(state);
}

/* A catalog from "name", "name+" (loaded), "name(gguf)", "name[tools,vision]", "name{4096}" (context), separated by blanks;
 * the marks in any order behind the name. */
static catalog *models(const char *text) {
    lm_buf tags, ps;
    lm_err err = {0};
    lm_buf_init(&tags, 1 << 16);
    lm_buf_init(&ps, 1 << 16);
    lm_buf_text(&tags, "{\"models\":[");
    lm_buf_text(&ps, "{\"models\":[");
    const char *sep = "", *sep_ps = "";
    while (*text) {
        size_t len = strcspn(text, " ");
        char item[200], able[100] = "";
        snprintf(item, sizeof item, "%.*s", (int)len, text);
        int name = (int)strcspn(item, "+([{");
        const char *format = strchr(item, '('), *can = strchr(item, '['), *ctx = strchr(item, '{');
        lm_buf_printf(&tags, "%s{\"name\":\"%.*s\",\"details\":{\"format\":\"%.*s\",\"context_length\":%d}",
                      sep, name, item, format ? (int)strcspn(format + 1, ")") : 0, format ? format + 1 : "",
                      ctx ? atoi(ctx + 1) : 0);
        if (can) {
            snprintf(able, sizeof able, "%.*s", (int)strcspn(can + 1, "]"), can + 1);
            lm_buf_text(&tags, ",\"capabilities\":[");
            for (char *save = NULL, *w = strtok_r(able, ",", &save), *first = w; w;
                 w = strtok_r(NULL, ",", &save))
                lm_buf_printf(&tags, "%s\"%s\"", w == first ? "" : ",", w);
            lm_buf_text(&tags, "]");
        }
        lm_buf_text(&tags, "}");
        if (strchr(item, '+')) {
            lm_buf_printf(&ps, "%s{\"name\":\"%.*s\",\"context_length\":4096}", sep_ps, name, item);
            sep_ps = ",";
        }
        sep = ",";
        text += len + (text[len] == ' ');
    }
    lm_buf_text(&tags, "]}");
    lm_buf_text(&ps, "]}");
    catalog *c = NULL;
    expect_ok(catalog_read(&c, lm_buf_view(&tags), &err), err);
    expect_ok(catalog_read_ps(c, lm_buf_view(&ps), &err), err);
    lm_buf_release(&tags);
    lm_buf_release(&ps);
    return c;
}

/* Two backends, ollama and mlx. */
typedef struct world {
    const char *ollama, *mlx;              /* models; NULL: never seen */
    backend_state ollama_state, mlx_state; /* 0: healthy */
    uint32_t running[2], most[2];
    lm_order order;
    int sticky; /* 1 + index; 0: none */
    const char *measured;
    bool long_down;
    breaker broken[2];
} world;

static void decide(const world *w, router_facts *f, candidate out[2]) {
    lm_router_backend b[2] = {{.name = "ollama", .kind = LM_KIND_OLLAMA, .max_requests = w->most[0]},
                              {.name = "mlx", .kind = LM_KIND_MLX, .max_requests = w->most[1]}};
    const char *lists[2] = {w->ollama, w->mlx};
    backend_state states[2] = {w->ollama_state, w->mlx_state};
    breakers broken[2] = {0};
    choose_view v[2];
    twin t[TWINS_MAX];
    lm_name name;
    uint32_t n = lm_name_parse(lm_str_of(f->model), &name, NULL) == LM_OK ? twins_of(twins, &name, t) : 0;
    for (int i = 0; i < 2; i++) {
        v[i] = (choose_view){.config = &b[i],
                             .state = states[i] ? states[i] : BACKEND_HEALTHY,
                             .busy_ns = 3 * S,
                             .next_check_ns = S,
                             .restarting = !w->long_down,
                             .running = w->running[i],
                             .models = lists[i] ? models(lists[i]) : NULL,
                             .breakers = &broken[i],
                             .why_down = "refused"};
        for (uint32_t k = 0; w->broken[i].open && v[i].models && k < v[i].models->n; k++)
            *breakers_at(&broken[i], v[i].models->models[k].key) = w->broken[i];
    }
    choose(f,
           &(choose_wish){
               .order = w->order, .measured = w->measured, .sticky = w->sticky - 1, .now_ns = 100 * S},
           t, n, v, 2, out);
    for (int i = 0; i < 2; i++) {
        catalog_free((catalog *)(uintptr_t)v[i].models);
        breakers_release(&broken[i]);
    }
}

typedef struct choose_case {
    const char *what;
    world w;
    const char *model;
    uint32_t needs, num_ctx;
    const char
        *want; /* candidates: "mlx:NAME ollama" ; a name where it differs; "-x" not usable, "~x" later */
} choose_case;

static const choose_case cases[] = {
    {"MLX first for the same model", {.ollama = "a", .mlx = "a"}, "a", 0, 0, "mlx ollama"},
    {"case and latest do not matter", {.ollama = "A:latest", .mlx = "b"}, "a", 0, 0, "ollama -mlx"},
    {"a GGUF model would have to be imported",
     {.ollama = "a(gguf)", .mlx = "a(gguf)"},
     "a",
     0,
     0,
     "ollama mlx"},
    {"but it is better than nothing", {.ollama = "b", .mlx = "a(gguf)"}, "a", 0, 0, "mlx -ollama"},
    {"loaded goes before kind", {.ollama = "a+", .mlx = "a"}, "a", 0, 0, "ollama mlx"},
    {"loaded with another context is not loaded", {.ollama = "a+", .mlx = "a"}, "a", 0, 8192, "mlx ollama"},
    {"the same context is", {.ollama = "a+", .mlx = "a"}, "a", 0, 4096, "ollama mlx"},
    {"a smaller one is fine with the bridge",
     {.ollama = "a", .mlx = "a+", .mlx_state = BACKEND_DEGRADED},
     "a",
     0,
     2048,
     "mlx ollama"},
    {"sticky goes before loaded", {.ollama = "a", .mlx = "a+", .sticky = 1}, "a", 0, 0, "ollama mlx"},
    {"not to one that is down",
     {.ollama = "a", .mlx = "a", .sticky = 1, .ollama_state = BACKEND_DOWN},
     "a",
     0,
     0,
     "mlx ~ollama"},
    {"not to one that lost the model", {.ollama = "b", .mlx = "a", .sticky = 1}, "a", 0, 0, "mlx -ollama"},
    {"not to one that cannot",
     {.ollama = "a[completion]", .mlx = "a[completion,tools]", .sticky = 1},
     "a",
     NEED_TOOLS,
     0,
     "mlx -ollama"},
    {"the user's order goes before sticky and loaded",
     {.ollama = "a", .mlx = "a+", .sticky = 2, .order = LM_ORDER_OLLAMA},
     "a",
     0,
     0,
     "ollama mlx"},
    {"and falls back",
     {.ollama = "a", .mlx = "a", .order = LM_ORDER_OLLAMA, .ollama_state = BACKEND_DOWN},
     "a",
     0,
     0,
     "mlx ~ollama"},
    {"mlx means mlx, import or not",
     {.ollama = "a+", .mlx = "a(gguf)", .order = LM_ORDER_MLX},
     "a",
     0,
     0,
     "mlx ollama"},
    {"healthy before degraded",
     {.ollama = "a", .mlx = "a", .mlx_state = BACKEND_DEGRADED},
     "a",
     0,
     0,
     "ollama mlx"},
    {"degraded before warming",
     {.ollama = "a", .mlx = "a", .ollama_state = BACKEND_DEGRADED, .mlx_state = BACKEND_WARMING},
     "a",
     0,
     0,
     "ollama mlx"},
    {"state before what was measured",
     {.ollama = "a", .mlx = "a", .ollama_state = BACKEND_DEGRADED, .measured = "ollama"},
     "a",
     0,
     0,
     "mlx ollama"},
    {"measured before kind", {.ollama = "a", .mlx = "a", .measured = "ollama"}, "a", 0, 0, "ollama mlx"},
    {"measured does not count against the order",
     {.ollama = "a", .mlx = "a", .measured = "ollama", .order = LM_ORDER_MLX},
     "a",
     0,
     0,
     "mlx ollama"},
    {"kind before queue", {.ollama = "a", .mlx = "a", .running = {0, 50}}, "a", 0, 0, "mlx ollama"},
    {"full means later",
     {.ollama = "a", .mlx = "a", .running = {0, 2}, .most = {0, 2}},
     "a",
     0,
     0,
     "ollama ~mlx"},
    {"busy means later", {.ollama = "a", .mlx = "a", .mlx_state = BACKEND_BUSY}, "a", 0, 0, "ollama ~mlx"},
    {"all busy",
     {.ollama = "a", .mlx = "a", .mlx_state = BACKEND_BUSY, .ollama_state = BACKEND_DOWN},
     "a",
     0,
     0,
     "~ollama ~mlx"},
    {"down for long is not worth waiting for",
     {.ollama = "a", .mlx = "b", .ollama_state = BACKEND_DOWN, .long_down = true},
     "a",
     0,
     0,
     "-ollama -mlx"},
    {"never reached", {.ollama = NULL, .mlx = "a", .ollama_state = BACKEND_DOWN}, "a", 0, 0, "mlx -ollama"},
    {"an open breaker",
     {.ollama = "a", .mlx = "a", .broken = {{0}, {5, true, false, 110 * S}}},
     "a",
     0,
     0,
     "ollama ~mlx"},
    {"a half-open one",
     {.ollama = "a", .mlx = "a", .broken = {{0}, {5, true, false, 90 * S}}},
     "a",
     0,
     0,
     "mlx ollama"},
    {"that is tried by another",
     {.ollama = "a", .mlx = "a", .broken = {{0}, {5, true, true, 90 * S}}},
     "a",
     0,
     0,
     "ollama ~mlx"},
    {"the alias table, to the repository",
     {.ollama = "", .mlx = "mlx-community/phi-4-4bit"},
     "phi4",
     0,
     0,
     "mlx:mlx-community/phi-4-4bit -ollama"},
    {"the name itself when it is listed",
     {.ollama = "", .mlx = "mlx-community/phi-4-4bit phi4"},
     "Phi4",
     0,
     0,
     "mlx -ollama"},
    {"the first repository first",
     {.ollama = "", .mlx = "mlx-community/Llama-3.2-3B-8bit mlx-community/Llama-3.2-3B-4bit"},
     "llama3.2:3b",
     0,
     0,
     "mlx:mlx-community/Llama-3.2-3B-4bit -ollama"},
    {"through the default tag",
     {.ollama = "llama3.2:3b", .mlx = "mlx-community/Llama-3.2-3B-8bit"},
     "llama3.2",
     0,
     0,
     "mlx:mlx-community/Llama-3.2-3B-8bit ollama:llama3.2:3b"},
    {"and from it",
     {.ollama = "llama3.2:latest", .mlx = ""},
     "llama3.2:3b",
     0,
     0,
     "ollama:llama3.2:latest -mlx"},
    {"from the repository to Ollama's name",
     {.ollama = "phi4:latest", .mlx = ""},
     "mlx-community/phi-4-4bit",
     0,
     0,
     "ollama:phi4:latest -mlx"},
    {"with hf.co as well",
     {.ollama = "phi4:latest", .mlx = "mlx-community/phi-4-4bit:latest"},
     "hf.co/mlx-community/phi-4-4bit",
     0,
     0,
     "mlx:mlx-community/phi-4-4bit:latest ollama:phi4:latest"},
    {"a repository's nearest name first",
     {.ollama = "llama3.2:3b llama3.2:3b-q8_0", .mlx = ""},
     "mlx-community/Llama-3.2-3B-8bit",
     0,
     0,
     "ollama:llama3.2:3b-q8_0 -mlx"},
    {"one Ollama name is not another one",
     {.ollama = "llama3.2:3b-q8_0", .mlx = "b"},
     "llama3.2:1b",
     0,
     0,
     "ollama mlx"},
    {"nobody lists it: their words", {.ollama = "a", .mlx = "b"}, "c", 0, 0, "ollama mlx"},
    {"and the same ones, whoever works",
     {.ollama = "a", .mlx = "b", .running = {3, 0}},
     "c",
     0,
     0,
     "ollama mlx"},
    {"but not of one that is down",
     {.ollama = "a", .mlx = "b", .mlx_state = BACKEND_DOWN},
     "c",
     0,
     0,
     "ollama -mlx"},
    {"no name at all: their words", {.ollama = "a", .mlx = "b"}, "", 0, 0, "ollama mlx"},
    {"a wrong name: their words", {.ollama = "a", .mlx = "b"}, "///", 0, 0, "ollama mlx"},
    {"nobody can: their words",
     {.ollama = "a[completion]", .mlx = "a[completion]"},
     "a",
     NEED_VISION,
     0,
     "mlx ollama"},
    {"one could, but is down: nobody else's words",
     {.ollama = "a[completion]", .mlx = "a[completion,vision]", .mlx_state = BACKEND_DOWN},
     "a",
     NEED_VISION,
     0,
     "~mlx -ollama"},
    {"what is not known counts as can",
     {.ollama = "a", .mlx = "a[completion]"},
     "a",
     NEED_TOOLS,
     0,
     "ollama -mlx"},
    {"vectors of any model",
     {.ollama = "a[completion]", .mlx = "a[embedding]"},
     "a",
     NEED_EMBEDDING,
     0,
     "mlx ollama"},
    {"no answers of a model for vectors",
     {.ollama = "a[completion]", .mlx = "a[embedding]"},
     "a",
     NEED_COMPLETION,
     0,
     "ollama -mlx"},
    {"Ollama's MLX engine ignores the format",
     {.ollama = "a(safetensors)+", .mlx = "a"},
     "a",
     NEED_FORMAT,
     0,
     "mlx ollama"},
    {"against the order, too",
     {.ollama = "a(safetensors)+", .mlx = "a", .order = LM_ORDER_OLLAMA},
     "a",
     NEED_FORMAT,
     0,
     "mlx ollama"},
    {"its other engine does not", {.ollama = "a(gguf)+", .mlx = "a"}, "a", NEED_FORMAT, 0, "ollama mlx"},
    {"a context that is too short", {.ollama = "a{32768}", .mlx = "a{4096}+"}, "a", 0, 8192, "ollama mlx"},
};

static void write_candidates(const char *model, const candidate *c, char out[400]) {
    static const char *const names[] = {"ollama", "mlx"};
    size_t len = 0;
    for (int i = 0; i < 2; i++) {
        len += (size_t)snprintf(out + len, 400 - len, "%s%s%s", i ? " " : "",
                                c[i].usable    ? ""
                                : c[i].wait_ms ? "~"
                                               : "-",
                                names[c[i].backend]);
        if (c[i].usable && c[i].renamed) len += (size_t)snprintf(out + len, 400 - len, ":%s", c[i].model);
        if (c[i].usable && !c[i].renamed) assert_string_equal(c[i].model, model);
    }
}

static void the_table_holds(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        router_facts f = {.needs = cases[i].needs, .num_ctx = cases[i].num_ctx};
        candidate c[2];
        char got[400];
        snprintf(f.model, sizeof f.model, "%s", cases[i].model);
        decide(&cases[i].w, &f, c);
        write_candidates(f.model, c, got);
        if (strcmp(got, cases[i].want))
            fail_msg("%s: got '%s', want '%s' (%s %.0f | %s %.0f)", cases[i].what, got, cases[i].want,
                     c[0].reason, c[0].score, c[1].reason, c[1].score);
        if (!c[0].usable || !c[1].usable) assert_true(c[1].reason[0]);
    }
}

static void reasons_are_words_for_people(void **state) {
    (void)state;
    const struct {
        world w;
        const char *model, *want;
    } list[] = {
        {{.ollama = "a+", .mlx = "a", .order = LM_ORDER_OLLAMA}, "a", "ollama is preferred, loaded"},
        {{.ollama = "phi4", .mlx = "", .running = {3, 0}},
         "hf.co/mlx-community/phi-4-4bit",
         "the name of this MLX model, 3 running"},
        {{.ollama = "", .mlx = "a", .mlx_state = BACKEND_DOWN}, "a", "down: refused"},
        {{.ollama = "", .mlx = "a", .mlx_state = BACKEND_BUSY}, "a", "busy, asked us to wait 3.0 s more"},
        {{.ollama = "", .mlx = "a", .running = {0, 2}, .most = {0, 2}}, "a", "full: 2 of 2 requests run"},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        router_facts f = {0};
        candidate c[2];
        snprintf(f.model, sizeof f.model, "%s", list[i].model);
        decide(&list[i].w, &f, c);
        assert_string_equal(c[0].reason, list[i].want);
    }
}

static void an_unload_goes_where_the_model_is_loaded(void **state) {
    (void)state;
    const char *keeps[] = {"{\"keep_alive\":0}", "{\"keep_alive\":\"0s\"}", "{\"keep_alive\":5}", "{}"};
    for (int i = 0; i < 4; i++) {
        router_facts f = {.model = "a", .load_only = true};
        candidate c[2];
        lm_err err = {0};
        expect_ok(lm_json_parse(lm_str_of(keeps[i]), &f.body, &err), err);
        assert_int_equal(choose_is_unload(&f), i < 2);
        decide(&(world){.ollama = "a+", .mlx = "a", .order = LM_ORDER_MLX}, &f, c);
        assert_int_equal(c[0].backend, i < 2 ? 0 : 1);
        json_decref(f.body);
    }
}

static uint32_t chance(uint64_t *r, uint32_t n) {
    *r = *r * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*r >> 33) % n;
}

/* Whatever the world is like: who is down, lacks the model or an ability that the other one has is never asked, and who
 * could serve it now is never left out. */
static void promises_hold_in_random_worlds(void **state) {
    (void)state;
    static const char *const lists[] = {
        "", "a", "a+", "a(gguf)", "a(safetensors)+", "a[completion]", "a[completion,tools]+", "b", "a{2048}"};
    for (uint64_t seed = 1; seed < 3000; seed++) {
        uint64_t r = seed;
        world w = {.ollama = lists[chance(&r, 9)],
                   .mlx = lists[chance(&r, 9)],
                   .ollama_state = (backend_state)(1 + chance(&r, 5)),
                   .mlx_state = (backend_state)(1 + chance(&r, 5)),
                   .running = {chance(&r, 3), chance(&r, 3)},
                   .most = {chance(&r, 3), chance(&r, 3)},
                   .order = (lm_order)chance(&r, 3),
                   .sticky = (int)chance(&r, 3)};
        router_facts f = {
            .model = "a", .needs = chance(&r, 2) ? NEED_TOOLS : 0, .num_ctx = chance(&r, 2) * 4096};
        candidate c[2];
        decide(&w, &f, c);
        assert_int_equal(c[0].backend + c[1].backend, 1);
        const char *have[2] = {w.ollama, w.mlx};
        bool listed = w.ollama[0] == 'a' || w.mlx[0] == 'a';
        for (int i = 0; i < 2; i++) {
            uint32_t k = c[i].backend;
            backend_state s = k ? w.mlx_state : w.ollama_state;
            bool open = health_takes(s) && !(w.most[k] && w.running[k] >= w.most[k]);
            bool lacks = f.needs && strstr(have[k], "[completion]");
            bool other = have[!k][0] == 'a' && !strstr(have[!k], "[completion]");
            bool want = open && (!listed || (have[k][0] == 'a' && !(lacks && other)));
            assert_int_equal(c[i].usable, want);
            if (c[i].usable) assert_int_equal(c[i].wait_ms, 0);
        }
        assert_true(c[0].usable || !c[1].usable);
        if (c[0].usable && c[1].usable) assert_true(c[0].score >= c[1].score);
        if (c[0].usable && c[1].usable && listed && w.order == LM_ORDER_MLX && !f.num_ctx)
            assert_int_equal(c[0].backend, 1);
    }
}

static void a_new_pull_of_a_repository_is_known_as_one(void **state) {
    (void)state;
    const struct {
        const char *name;
        bool want;
    } list[] = {{"mlx-community/anything", true}, {"hf.co/mlx-community/x", true},
                {"MLX-community/x:q", true},      {"phi4", false},
                {"someone/model", false},         {"hf.co/someone/model-GGUF", false}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        lm_name n;
        lm_err err = {0};
        expect_ok(lm_name_parse(lm_str_of(list[i].name), &n, &err), err);
        assert_int_equal(twin_is_mlx_repo(twins, &n), list[i].want);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_holds),
        cmocka_unit_test(reasons_are_words_for_people),
        cmocka_unit_test(an_unload_goes_where_the_model_is_loaded),
        cmocka_unit_test(promises_hold_in_random_worlds),
        cmocka_unit_test(a_new_pull_of_a_repository_is_known_as_one),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
