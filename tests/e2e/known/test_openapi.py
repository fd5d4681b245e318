"""openapi.yaml says what the server serves: its routes are the server's, and requests made from it by chance get answers
that it describes, never a crash."""
import json
import os
import re
from pathlib import Path

import httpx
import hypothesis
import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (content_type_conformance, response_schema_conformance, status_code_conformance)

SRC = Path(__file__).parents[3] / "src"
FILE = SRC / "api/openapi.yaml"
EXAMPLES = int(os.environ.get("LM_E2E_EXAMPLES", "50"))  # for each operation
MODELS = ["tiny-able"] * 6 + ["tiny-hello", "tiny-tool", "tiny-think", "tiny-fim", "tiny-spaced", "nosuch", "tiny-hello:latest"]
GONE = ["nosuch", "no/such:model"]  # what is deleted is not there for the others
FEW = 12  # tokens: "tiny" alone would talk for ever
MAKING = {"/api/copy": {"source": st.sampled_from(MODELS + ["made"]), "destination": st.just("copied")},
          "/api/create": {"from": st.sampled_from(MODELS + ["made", ""]), "model": st.just("made")}}
LIMITS = {"/v1/messages": "max_tokens", "/v1/chat/completions": "max_completion_tokens", "/v1/completions": "max_tokens",
          "/v1/responses": "max_output_tokens"}

document = yaml.safe_load(FILE.read_text())
schema = schemathesis.openapi.from_dict(document)


# ---- the same routes


def test_the_server_hands_out_this_file(bridge):
    got = httpx.get(bridge.url + "/openapi.yaml")
    assert got.status_code == 200 and got.headers["content-type"] == "application/yaml" and got.content == FILE.read_bytes()


def test_every_route_is_described_and_every_description_is_a_route():
    served = set()
    for source in (SRC / "api").glob("*.c"):
        for method, path in re.findall(r'^\s*\{"([A-Z]+)", "(/[^"]*)", \w+\},$', source.read_text(), re.M):
            served.add((method, path))
    described = {(method.upper(), re.sub(r"\{[^}]*\}", "*", path)) for path, item in document["paths"].items() for method in item}
    assert len(served) > 15 and served == described


def test_every_route_exists(bridge):
    for path, item in document["paths"].items():
        url = bridge.url + path.replace("{model}", "nosuch").replace("{digest}", "sha256:" + "0" * 64)
        for method in item:
            answer = httpx.request(method, url, timeout=60)
            assert answer.status_code != 405 and answer.text != "404 page not found", (method, path)


# ---- chance


def shorten(path, body, draw):
    """Of a request that would be long, or about no model, one that is worth its time."""
    if path in MAKING:  # what is there for the others stays as it is
        body.update({key: draw(choice) for key, choice in MAKING[path].items()})
        return
    if draw(st.integers(0, 9)):  # else as chance has it
        body["model"] = draw(st.sampled_from(GONE if path == "/api/delete" else MODELS))
    if path in LIMITS:
        limit = LIMITS[path]
        if not isinstance(body.get(limit), int) or body[limit] > FEW:
            body[limit] = FEW
        if isinstance(body.get("n"), int) and body["n"] > 3:
            body["n"] = 3
    elif path in ("/api/generate", "/api/chat"):
        options = body.setdefault("options", {})
        if isinstance(options, dict):
            n = options.get("num_predict")
            if not isinstance(n, int) or not 0 < n <= FEW:
                options["num_predict"] = FEW
            if isinstance(options.get("num_ctx"), int) and options["num_ctx"] > 8192:
                options["num_ctx"] = 8192




def is_ollamas_500(path, response):
    """Errors that Ollama calls its own though they are the client's: a wrong option, a model that cannot be fetched or given
    away, a text that is too long for the older embeddings."""
    if response.status_code != 500:
        return False
    text = json.loads(response.content)["error"]
    return text.startswith(('option "', "this build cannot ", "HF_HUB_OFFLINE")) or (path == "/api/embeddings" and text == "the input length exceeds the context length")


@schema.parametrize()
@hypothesis.settings(max_examples=EXAMPLES, deadline=None, derandomize="LM_E2E_EXAMPLES" not in os.environ, database=None,
                     suppress_health_check=list(HealthCheck), phases=[hypothesis.Phase.generate])
@schema.given(data=st.data())
def test_answers_are_as_described(case, bridge, data):
    if isinstance(case.body, dict):
        shorten(case.operation.path, case.body, data.draw)
    response = case.call(base_url=bridge.url, timeout=60)
    if is_ollamas_500(case.operation.path, response):
        return
    case.validate_response(response, checks=[not_a_server_error, status_code_conformance, content_type_conformance,
                                             response_schema_conformance])
