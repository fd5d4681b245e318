"""Nothing is contacted beside this machine, whatever is asked, except by a pull or a push: every address and every name that the
process looks up is noted (shim.c), and a proxy that the environment names must not hear of anything."""
import base64
import socket
import threading

import pytest

from .bridge import Bridge
from .shim import Shim, build
from .standin_hub import Hub

PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(50)).decode()
MESSAGES = [{"role": "user", "content": "x"}]
SHORT = {"num_predict": 3}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}

ASKED = [
    ("GET", "/", None), ("GET", "/api/version", None), ("GET", "/api/tags", None), ("GET", "/api/ps", None), ("GET", "/health", None),
    ("POST", "/api/show", {"model": "tiny-hello", "verbose": True}), ("POST", "/api/show", {"model": "qwen3:8b"}),
    ("POST", "/api/generate", {"model": "tiny-hello", "prompt": "x", "options": SHORT}),
    ("POST", "/api/generate", {"model": "mlx-community/Qwen3-8B-4bit", "prompt": "x"}), ("POST", "/api/generate", {"model": "qwen3:8b"}),
    ("POST", "/api/generate", {"model": "tiny-hello", "prompt": "x", "images": [PICTURE], "options": SHORT}),
    ("POST", "/api/chat", {"model": "tiny-tool", "messages": MESSAGES, "tools": [TOOL], "options": SHORT}),
    ("POST", "/api/chat", {"model": "hf.co/org/none", "messages": MESSAGES}),
    ("POST", "/api/chat", {"model": "tiny", "messages": MESSAGES, "format": "json", "options": SHORT}),
    ("POST", "/api/embed", {"model": "tiny-embed", "input": ["x", "y"]}), ("POST", "/api/embed", {"model": "nomic-embed-text", "input": "x"}),
    ("POST", "/api/embeddings", {"model": "tiny-embed", "prompt": "x"}),
    ("POST", "/api/create", {"model": "new", "from": "tiny-hello", "system": "Be kind."}), ("POST", "/api/copy", {"source": "new", "destination": "other"}),
    ("POST", "/api/copy", {"source": "qwen3:8b", "destination": "z"}), ("DELETE", "/api/delete", {"model": "other"}),
    ("POST", "/api/blobs/sha256:" + "0" * 64, b"x"), ("HEAD", "/api/blobs/sha256:" + "0" * 64, None),
    ("POST", "/api/me", None), ("POST", "/api/signout", None), ("DELETE", "/api/user/keys/a", None),
    ("GET", "/v1/models", None), ("GET", "/v1/models/tiny-hello", None),
    ("POST", "/v1/chat/completions", {"model": "tiny-hello", "messages": MESSAGES, "max_tokens": 3}),
    ("POST", "/v1/chat/completions", {"model": "tiny-hello", "messages": [{"role": "user", "content": [
        {"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "https://example.invalid/picture.png"}}]}], "max_tokens": 3}),
    ("POST", "/v1/completions", {"model": "tiny-hello", "prompt": "x", "max_tokens": 3}),
    ("POST", "/v1/embeddings", {"model": "tiny-embed", "input": "x"}),
    ("POST", "/v1/responses", {"model": "tiny-hello", "input": "x", "max_output_tokens": 3}),
    ("POST", "/v1/responses", {"model": "tiny-hello", "input": [{"role": "user", "content": [
        {"type": "input_image", "image_url": "http://example.invalid/p.png"}]}], "max_output_tokens": 3}),
    ("POST", "/v1/messages", {"model": "tiny-hello", "messages": MESSAGES, "max_tokens": 3}),
    ("POST", "/v1/messages", {"model": "tiny-hello", "max_tokens": 3, "messages": [{"role": "user", "content": [
        {"type": "image", "source": {"type": "url", "url": "https://example.invalid/p.png"}}]}]}),
    ("POST", "/v1/messages/count_tokens", {"model": "tiny-hello", "messages": MESSAGES}),
]


@pytest.fixture
def trap():
    """A proxy that only notes that somebody came."""
    heard, listener = [], socket.create_server(("127.0.0.1", 0))

    def wait():
        while True:
            try:
                heard.append(listener.accept()[1])
            except OSError:
                return

    threading.Thread(target=wait, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard
    listener.close()


def test_nothing_is_contacted_unless_a_pull_or_push_is_asked_for(tiny_models, tmp_path, trap):
    proxy, heard = trap
    shim = Shim(build(tmp_path), tmp_path)
    with Hub(token="secret") as hub:
        hub.repo("org/tiny-hello", tiny_models / "tiny-hello")
        proxies = {k: proxy for k in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")}
        env = hub.env(HF_TOKEN="secret", **proxies, **shim.env)
        with Bridge(roots=[tiny_models], store=tmp_path / "store", env=env) as server:
            for method, path, body in ASKED:
                assert server.request(method, path, body)[0] < 600
            assert not hub.requests
            # to where the user says, and there alone
            assert b'"success"' in server.request("POST", "/api/pull", {"model": "org/tiny-hello"})[2]
            assert b'"success"' in server.request("POST", "/api/push", {"model": "org/tiny-hello"})[2]
            assert hub.requests
            assert not shim.connects.exists() and not heard
            # and it would have been seen
            proxies.clear()
            assert b'"error"' in server.request("POST", "/api/pull", {"model": "example.invalid/me/x"})[2]
        assert heard or "example.invalid" in shim.connects.read_text()
