/* check_tools.c - a model that calls tools is given one, and asked for what only the tool knows.
 *
 * Whether it calls is the model's affair, small ones do not always; how the call comes is the server's: a name that was
 * offered, arguments as an object, and nothing of the model's own marks in the text. */
#include "doctor/check.h"

#include <string.h>

#define N_TOKENS 256 /* a thinking model thinks before it calls */

static json_t *request(const char *model) {
    static const char tool[] = "{\"type\":\"function\",\"function\":{\"name\":\"get_weather\","
                               "\"description\":\"The weather of a city "
                               "now\",\"parameters\":{\"type\":\"object\",\"required\":[\"city\"],"
                               "\"properties\":{\"city\":{\"type\":"
                               "\"string\",\"description\":\"Name of the city\"}}}}}";
    json_t *o =
        wire_request(model, true, false, "What is the weather in Paris now? Call the tool.", N_TOKENS);
    json_object_set_new(o, "tools", json_pack("[o]", json_loads(tool, 0, NULL)));
    return o;
}

static bool judge_call(const json_t *call, doctor_result *r) {
    static const char where[] = "POST /api/chat: tool_calls";
    const json_t *function = json_object_get(call, "function");
    if (!wire_fields(where, call, "function:o id:s?", r) ||
        !wire_fields(where, function, "name:s arguments:o index:i?", r))
        return false;
    const char *name = json_string_value(json_object_get(function, "name"));
    if (!strcmp(name, "get_weather")) return true;
    return doctor_failed(r, REMEDY_WIRE, "%s: the function is \"%s\", only get_weather was offered", where,
                         name);
}

static const char *leaked_mark(const char *text) {
    static const char *const marks[] = {"<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>",
                                        "<function="};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (strstr(text, marks[i])) return marks[i];
    return NULL;
}

static void judge(const json_t *o, doctor_result *r) {
    const json_t *message = json_object_get(o, "message"), *one;
    if (!wire_fields("POST /api/chat", message, "role:s content:s tool_calls:a?", r)) return;
    const json_t *calls = json_object_get(message, "tool_calls");
    const char *text = json_string_value(json_object_get(message, "content")), *mark = leaked_mark(text);
    size_t i;
    json_array_foreach(calls, i, one) if (!judge_call(one, r)) return;
    if (mark)
        doctor_failed(r,
                      "the server does not know this model's form of calls: update it, or report the model",
                      "the call came as text, with %s in it", mark);
    else if (!json_array_size(calls))
        doctor_skipped(r, "the model did not call it, it said: %.120s", text[0] ? text : "nothing");
    else
        doctor_passed(r, "%zu call%s, well-formed", json_array_size(calls),
                      json_array_size(calls) > 1 ? "s" : "");
}

void check_tools(doctor *d, doctor_result *r) {
    if (!d->tools) {
        doctor_skipped(r, "%s has no tools among its capabilities", d->model);
        return;
    }
    json_t *body = request(d->model);
    json_t *o = wire_json(&d->wire, "POST", "/api/chat", body, r);
    json_decref(body);
    if (o) judge(o, r);
    json_decref(o);
}
