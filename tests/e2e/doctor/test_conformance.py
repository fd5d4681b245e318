"""--conformance finds no difference in the bridge, and each that is put between it and the doctor."""

import pytest
from known.bridge import Bridge
from router.router import Router

from .standin import Server, relay, stand_in


def on(path, change, method=None, when=lambda answer: True):
    """Changes the answers of this path."""
    def spoil(answer):
        if answer.path == path and method in (None, answer.method) and when(answer):
            return change(answer)
        return None
    return spoil


def asks(*words):
    return lambda answer: all(word.encode() in answer.asked for word in words)


def streams(answer):
    return answer.status == 200 and answer.kind.startswith(("application/x-ndjson", "text/event-stream"))


def sets(**fields):
    def change(answer):
        for name, value in fields.items():
            setattr(answer, name, value)
    return change


def puts(**fields):
    """Fields of a JSON body; None takes one away, a function is called with what was there."""
    def change(value):
        for name, new in fields.items():
            if new is None:
                del value[name]
            else:
                value[name] = new(value[name]) if callable(new) else new
    return lambda answer: answer.json(change)


def edits(change):
    return lambda answer: answer.json(change)


def edits_lines(change):
    return lambda answer: answer.lines(change)


def replaces(old, new):
    def change(answer):
        assert old in answer.body, answer.body
        answer.body = answer.body.replace(old, new)
    return change


def done_first(value):
    return {"done": value.pop("done"), **value}


def twice_done(values):
    values.append(dict(values[-1]))


def of_first(key, value):
    def change(body):
        body["models"][0][key] = value
    return change


GENERATE, CHAT, TAGS, MESSAGES, COMPLETIONS = "/api/generate", "/api/chat", "/api/tags", "/v1/messages", "/v1/chat/completions"
RESPONSES, CREATE = "/v1/responses", "/api/create"
whole = asks('"stream":false', "Count to ten")


def whole_response(answer):
    return answer.status == 200 and asks("Be brief")(answer)



# name -> spoiler, case, where, words of expected, words of got
FAULTS = {
    "status": (on("/", sets(status=500), "GET"), "root", "status", "200", "500"),
    "text": (on("/", sets(body=b"Ollama is running!"), "GET"), "root", "body", "\"Ollama is running\"", "running!"),
    "type": (on("/api/version", sets(kind="application/json"), "GET", lambda a: a.status == 200), "version", "Content-Type",
             "application/json; charset=utf-8", "\"application/json\""),
    "head": (on(TAGS, sets(status=404), "HEAD"), "tags-head", "status", "200", "404"),
    "not-found-as-json": (on("/api/nothing", sets(kind="application/json", body=b'{"error":"no"}')), "unknown-path",
                          "Content-Type", "text/plain", "application/json"),
    "cors-header": (on("/api/version", sets(headers={}), when=lambda a: a.headers.get("Vary")), "origin-allowed",
                    "Access-Control-Allow-Origin", "http://localhost:3000", "nothing"),
    "cors-open": (on("/api/version", sets(status=200), when=lambda a: a.status == 403), "origin-foreign", "status", "403", "200"),
    "preflight": (on(CHAT, sets(status=200), "OPTIONS"), "preflight", "status", "204", "200"),
    "models-null": (on(TAGS, edits(lambda v: {"models": None}), "GET"), "tags", "body.models", "an array", "null"),
    "field-missing": (on(TAGS, edits(lambda v: [v["models"][0].pop("size"), None][1]), "GET"), "tags", "body.models[0].size",
                      "an integer from 1", "nothing"),
    "digest": (on(TAGS, edits(of_first("digest", "sha256:12")), "GET"), "tags", "body.models[0].digest", "64 hex digits",
               "sha256:12"),
    "tag": (on(TAGS, edits(of_first("model", "tiny")), "GET"), "tags", "body.models[0].model", "tag", "\"tiny\""),
    "field-more": (on("/api/show", puts(owner="me"), when=lambda a: a.status == 200), "show", "body.owner", "no such field",
                   "\"me\""),
    "field-null": (on("/api/show", puts(model_info=lambda v: [v]), when=lambda a: a.status == 200), "show", "body.model_info",
                   "an object", "general.architecture"),
    "order": (on(GENERATE, edits(done_first), when=whole), "generate", "body", "done behind", "before"),
    "duration-in-seconds": (on(GENERATE, puts(total_duration=0.5), when=whole), "generate", "body.total_duration", "nanoseconds",
                            "0.5"),
    "time-with-offset": (on(GENERATE, puts(created_at="2026-01-31T09:08:07+01:00"), when=whole), "generate", "body.created_at",
                         "Z", "+01:00"),
    "done-false": (on(GENERATE, puts(done=False), when=whole), "generate", "body.done", "true", "false"),
    "name-not-echoed": (on(GENERATE, puts(model=str.lower), when=asks("TINY")), "names-are-echoed", "body.model", "TINY", "tiny"),
    "error-text": (on(GENERATE, puts(error="no such model"), when=lambda a: a.status == 404), "unknown-model-generate",
                   "body.error", "model 'no-such-model-of-the-doctor' not found", "no such model"),
    "error-object": (on(CHAT, puts(error=lambda v: {"message": v}), when=lambda a: a.status == 404), "unknown-model-chat",
                     "body.error", "not found", "message"),
    "error-status": (on("/api/embed", sets(status=500), when=lambda a: a.status == 404), "unknown-model-embed", "status", "404",
                     "try pulling it first"),
    "not-json": (on("/api/ps", sets(body=b"none\n")), "ps", "body", "JSON", "none"),
    "load-reason": (on(GENERATE, puts(done_reason=None), when=lambda a: b'"load"' in a.body), "generate-load",
                    "body.done_reason", "load", "nothing"),
    "unload-reason": (on(GENERATE, puts(done_reason="load"), when=lambda a: b'"unload"' in a.body), "generate-unload",
                      "body.done_reason", "unload", "load"),
    "stream-type": (on(GENERATE, sets(kind="application/json"), when=streams), "generate-stream", "Content-Type",
                    "application/x-ndjson", "application/json"),
    "stream-without-end": (on(GENERATE, lambda a: setattr(a, "body", a.body[:-1]), when=streams), "generate-stream", "framing",
                           "its end", "has no end"),
    "stream-with-gaps": (on(GENERATE, replaces(b"}\n", b"}\n\n"), when=streams), "generate-stream", "framing", "a line", "is empty"),
    "stream-as-events": (on(GENERATE, replaces(b'{"model"', b'data: {"model"'), when=streams), "generate-stream", "framing", "JSON",
                         "data: "),
    "stream-twice-done": (on(CHAT, edits_lines(twice_done), when=streams), "chat-stream", ".done", "false", "true"),
    "stream-never-done": (on(CHAT, edits_lines(lambda v: v[:-1]), when=streams), "chat-stream", "last line.done", "true",
                          "false"),
    "stream-last-text": (on(GENERATE, edits_lines(lambda v: [*v[:-1], {**v[-1], "response": "x"}]), when=streams),
                         "generate-stream", "last line.response", '""', "x"),
    "chat-role": (on(CHAT, puts(message={"role": "user", "content": "x"}), when=whole), "chat", "body.message.role",
                  "assistant", "user"),
    "format": (on(GENERATE, puts(response="wet"), when=asks('"format":{')), "format-schema", "body.response", "JSON", "wet"),
    "schema": (on(GENERATE, puts(response='{"wet": "very"}'), when=asks('"format":{')), "format-schema", "wet",
               "true or false", "very"),
    "raw-context": (on(GENERATE, edits(lambda v: {**v, "context": [1]}), when=asks('"raw":true', '"stream":false')),
                    "generate-raw", "body.context", "no such field", "[1]"),
    "logprobs": (on(GENERATE, puts(logprobs=None), when=asks('"logprobs":true', '"stream":false')), "logprobs", "body.logprobs",
                 "an array", "nothing"),
    "vectors-as-text": (on("/api/embed", puts(embeddings=[["a"], ["b"]]), when=asks('"two"')), "embed", "body.embeddings[0][0]",
                        "a number", "\"a\""),
    "vectors-of-nothing": (on("/api/embed", puts(embeddings=[[0.5]]), when=asks('"input":""')), "embed-an-empty-text",
                           "body.embeddings", "an empty array", "0.5"),
    "old-embedding": (on("/api/embeddings", edits(lambda v: {"embeddings": [v["embedding"]]}), when=asks('"one"')), "embeddings",
                      "body.embedding", "an array", "nothing"),
    "openai-id": (on(COMPLETIONS, puts(id="1"), when=lambda a: a.status == 200 and not streams(a)), "openai-chat", "body.id",
                  "chatcmpl-", "\"1\""),
    "openai-done": (on(COMPLETIONS, replaces(b"data: [DONE]\n\n", b""), when=streams), "openai-chat-stream",
                    "the very last event", "[DONE]", "choices"),
    "openai-framing": (on(COMPLETIONS, replaces(b"data: ", b""), when=streams), "openai-chat-stream", "framing", "events",
                       "no field"),
    "openai-error": (on(COMPLETIONS, edits(lambda v: {"error": v["error"]["message"]}), when=lambda a: a.status == 404),
                     "openai-chat-unknown-model", "body.error", "an object", "not found"),
    "anthropic-order": (on(MESSAGES, replaces(b"event: content_block_stop", b"event: content_block_end"), when=streams),
                        "anthropic-stream", "events[3]", "content_block_stop", "content_block_end"),
    "anthropic-stop": (on(MESSAGES, puts(stop_reason="length"), when=lambda a: a.status == 200 and not streams(a)), "anthropic",
                       "body.stop_reason", "max_tokens", "length"),
    "blob-created": (on("/api/blobs/sha256:72f4be89d6ebab1496e21e38bcd7c8ca0a68928af3081ad7dff87e772eb350c2", sets(status=200), "POST"),
                     "blob-written", "status", "201", "200"),
    "copy-with-a-body": (on("/api/copy", sets(body=b"{}"), when=lambda a: a.status == 200), "copy", "body", "nothing", "{}"),
    "responses-status": (on(RESPONSES, puts(status="done"), when=whole_response), "responses", "body.status", "completed", "done"),
    "responses-field-more": (on(RESPONSES, puts(object=None), when=whole_response), "responses", "body.object", "response", "nothing"),
    "responses-user": (on(RESPONSES, edits(lambda v: {**v, "user": None}), when=whole_response), "responses", "body.user",
                       "no such field", "null"),
    "responses-usage": (on(RESPONSES, edits(lambda v: {**v, "usage": {"prompt_tokens": 1}}), when=whole_response), "responses",
                        "body.usage.input_tokens", "an integer from 1", "nothing"),
    "responses-error": (on(RESPONSES, edits(lambda v: {"error": v["error"]["message"]}), when=lambda a: a.status == 404),
                        "responses-unknown-model", "body.error", "an object", "not found"),
    "responses-not-counted": (on(RESPONSES, replaces(b'"sequence_number":3,', b'"sequence_number":4,'), when=streams),
                              "responses-stream", "event 4.sequence_number", "3", "4"),
    "responses-count-as-text": (on(RESPONSES, replaces(b'"sequence_number":2,', b'"sequence_number":"2",'), when=streams),
                                "responses-stream", "event 3.sequence_number", "2", "no integer"),
    "responses-order": (on(RESPONSES, replaces(b"event: response.in_progress", b"event: response.queued"), when=streams),
                        "responses-stream", "events[1]", "response.in_progress", "response.queued"),
    "responses-delta": (on(RESPONSES, replaces(b'"delta":"', b'"text":"'), when=streams), "responses-stream",
                        "response.output_text.delta.delta", "not empty", "nothing"),
    "responses-done": (on(RESPONSES, lambda a: setattr(a, "body", a.body + b"data: [DONE]\n\n"), when=streams), "responses-stream",
                       "last event", "an object", "[DONE]"),
    "create-never-done": (on(CREATE, edits_lines(lambda v: v[:-1]), when=streams), "create", "last line.status", "success",
                          "writing manifest"),
    "create-without-manifest": (on(CREATE, edits_lines(lambda v: [*v[:-2], v[-1]]), when=lambda a: b"writing" in a.body), "create",
                                "the line before the last.status", "writing manifest", "layer"),
    "create-at-once": (on(CREATE, puts(status="done"), when=asks('"stream":false', "num_ctx")), "create-again", "body.status",
                       "success", "done"),
    "create-system": (on("/api/show", puts(system=None), when=asks("doctor-made")), "create-is-there", "body.system", "doctor's",
                      "nothing"),
    "create-parameters": (on("/api/show", puts(parameters="stop END"), when=asks("doctor-made")), "create-is-there",
                          "body.parameters", "a text with stop  ", "stop END"),
    "create-error": (on(CREATE, puts(error="no"), when=asks('"from":"a b"')), "create-from-a-malformed-name", "body.error",
                     "invalid model name", "no"),
    "pull-error": (on("/api/pull", sets(status=500), when=asks('"a b"')), "pull-a-malformed-name", "status", "400",
                   "invalid model name"),
    "push-at-once": (on("/api/push", sets(status=200), when=asks('"stream":false')), "push-unknown-at-once", "status", "500", "200"),
    "push-stream": (on("/api/push", edits_lines(lambda v: [*v[:-1], {"status": "success"}]), when=streams), "push-unknown",
                    "last line.error", "not empty", "nothing"),
    "no-answer": (on("/api/status", lambda a: False), "status", "answer", "one", "without an answer"),
}


def differences(document):
    return [c for c in document["checks"] if c["state"] != "passed"]


@pytest.fixture(scope="module")
def bridge(tiny_models):
    with Bridge(roots=[tiny_models]) as server:
        yield server


def test_the_bridge_does_what_ollama_does(doctor, tiny_models):
    with Bridge(roots=[tiny_models]) as bridge:
        does_what_ollama_does(doctor, bridge)


def does_what_ollama_does(doctor, bridge):
    tags = bridge.json("GET", "/api/tags")
    status, document = doctor.json("--conformance", bridge.url, "--write")
    assert status == document["skipped"] == 0, differences(document)
    assert document["passed"] > 140
    assert bridge.json("GET", "/api/tags") == tags  # the copy is gone
    assert bridge.health()["models"] <= 2  # the model that was asked is unloaded


def test_a_second_time_the_blob_is_there_already(doctor, tiny_models):
    with Bridge(roots=[tiny_models]) as bridge:
        for skipped in ([], ["blob-written"]):
            status, document = doctor.json("--conformance", bridge.url, "--write", "--case", "blob")
            assert status == 0 and [c["check"] for c in differences(document)] == skipped, differences(document)


def test_the_router_does_what_the_bridge_does(doctor, tiny_models):
    with Bridge(roots=[tiny_models]) as bridge, Router({"mlx": bridge.url}) as router:
        router.wait_state("mlx", "healthy")
        status, document = doctor.json("--conformance", router.url, "--write")
        live, checked = doctor.json("--url", router.url)
    assert status == document["skipped"] == 0, differences(document)
    assert live == 0 and checked["failed"] == 0, checked


def test_without_leave_nothing_is_written(doctor, bridge):
    changed = []

    def note(answer):
        if (answer.method in ("POST", "DELETE", "PUT")
                and answer.path.startswith(("/api/copy", "/api/delete", "/api/blobs", "/api/create", "/api/pull", "/api/push"))):
            changed.append(answer.path)

    with Server(relay(bridge.port, spoil=note)) as server:
        status, document = doctor.json("--conformance", server.url)
    assert status == 0, document  # and a relay that spoils nothing shows no difference
    assert changed == []
    skipped = {c["check"]: c["detail"] for c in document["checks"] if c["state"] == "skipped"}
    assert "--write" in skipped["delete"] and set(skipped) >= {"copy", "delete", "blob-written"}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_difference_is_seen(doctor, bridge, fault):
    spoil, case, where, expected, got = FAULTS[fault]
    with Server(relay(bridge.port, spoil=spoil)) as server:
        together = case.startswith("create")  # some need those before them
        status, document = doctor.json("--conformance", server.url, "--write", "--case", "create" if together else case)
    found = [c for c in document["checks"] if c["state"] == "failed"]
    assert status == len(found) > 0, document
    assert any(c["check"] == case and where in c["where"] and expected in c["expected"] and got in c["got"] for c in found), found


def test_what_needs_a_case_that_was_not_passed_is_not_asked(doctor, bridge):
    status, document = doctor.json("--conformance", bridge.url, "--write", "--case", "create-again")
    skipped = differences(document)
    assert status == 0 and [c["check"] for c in skipped] == ["create-again", "create-again-keeps", "create-again-adds"]
    assert skipped[0]["state"] == "skipped" and "it needs create, which was not passed" in skipped[0]["detail"]


def test_a_difference_is_told_in_one_line(doctor, bridge):
    with Server(relay(bridge.port, spoil=FAULTS["digest"][0])) as server:
        done = doctor("--conformance", server.url, "--case", "tags")
    assert done.returncode == 1
    assert '✗ tags, GET /api/tags: body.models[0].digest: expected 64 hex digits, got "sha256:12"\n' in done.stdout
    assert "✓ tags-head, HEAD /api/tags\n" in done.stdout


def test_nobody_there_is_one_failure(doctor):
    with Server(stand_in()) as server:
        url = server.url
    status, document = doctor.json("--conformance", url)
    assert status == 1 and [c["check"] for c in document["checks"]] == ["reachable"]
    assert "nothing answers" in document["checks"][0]["detail"]


def test_a_server_that_is_no_ollama_differs_in_all(doctor):
    with Server(stand_in("not-ollama")) as server:
        status, document = doctor.json("--conformance", server.url, "--case", "root")
    found = [c for c in document["checks"] if c["state"] == "failed"]
    assert status == len(found) and "body" in [c["where"] for c in found], document


def test_a_model_that_is_not_there_is_said(doctor, bridge):
    status, document = doctor.json("--conformance", bridge.url, "--model", "absent")
    assert status == 1 and "no model absent" in document["checks"][0]["detail"]


def test_what_a_server_has_no_model_for_is_skipped(doctor, tmp_path):
    with Bridge(roots=[tmp_path]) as empty:
        status, document = doctor.json("--conformance", empty.url)
    assert status == document["failed"], document
    skipped = {c["check"]: c["detail"] for c in document["checks"] if c["state"] == "skipped"}
    assert "writes text" in skipped["generate"] and "only embeds" in skipped["embed"]
