"""Pull and push over https, with certificates that the test makes: whom it trusts, and what it says of others."""
import json
import subprocess

import pytest

from .bridge import Bridge
from .standin_hub import Hub
from .test_pull import pull, said
from .test_push import push

REPO = "me/tiny-hello"
PLAIN = {"CURL_CA_BUNDLE": "", "SSL_CERT_FILE": "", "SSL_CERT_DIR": ""}  # whatever this machine has


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def certificate(directory, name, address="IP:127.0.0.1", days=2):
    """An authority of its own, and a server's certificate of it: (authority, certificate, key)"""
    directory.mkdir(exist_ok=True)
    ca, ca_key, request, key, cert = (directory / f"{name}.{end}" for end in ("ca", "ca.key", "csr", "key", "pem"))
    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *ec, "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", f"/CN=authority {name}")
    openssl("req", *ec, "-keyout", key, "-out", request, "-subj", "/CN=stand-in")
    extra = directory / f"{name}.ext"
    extra.write_text(f"subjectAltName={address}\n")
    openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out", cert, "-days", days, "-extfile", extra)
    return ca, cert, key


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("tls")
    return {"right": certificate(root, "right"), "stranger": certificate(root, "stranger"),
            "elsewhere": certificate(root, "elsewhere", "DNS:example.invalid")}


def test_a_model_goes_and_comes_over_https(tiny_models, tmp_path, made):
    ca, cert, key = made["right"]
    with Hub(token="secret", redirect=True, tls=(cert, key)) as hub:
        env = hub.env(**{**PLAIN, "HF_TOKEN": "secret", "SSL_CERT_FILE": str(ca)})
        hub.elsewhere = True
        with Bridge(roots=[tiny_models], store=tmp_path / "store", env=env) as server:
            for name in (REPO, f"{hub.host}/me/hello"):
                server.json("POST", "/api/copy", {"source": "tiny-hello", "destination": name})
                assert push(server, name)[-1] == {"status": "success"}
                server.request("DELETE", "/api/delete", {"model": name})
                assert pull(server, name)[-1] == {"status": "success"}
                assert said(server, name).startswith("Hello")
        assert {r["cdn"] for r in hub.requests} == {True, False}
        assert not any(r["token"] for r in hub.requests if r["cdn"])


@pytest.mark.parametrize("which, variable", [("stranger", "SSL_CERT_FILE"), ("elsewhere", "SSL_CERT_FILE"), ("right", "CURL_CA_BUNDLE"), ("right", None)])
def test_a_certificate_that_is_not_trusted_is_refused(tiny_models, tmp_path, made, which, variable):
    """Of another authority, of another host; of none where nothing is said. Nothing is asked, and nothing sent, twice."""
    _, cert, key = made[which]
    trusted = made["elsewhere" if which == "elsewhere" else "right" if which == "stranger" else "stranger"][0]
    with Hub(token="secret", tls=(cert, key)) as hub:
        env = hub.env(**{**PLAIN, "HF_TOKEN": "secret", **({variable: str(trusted)} if variable else {})})
        hub.repo("org/there", tiny_models / "tiny-hello")
        with Bridge(roots=[tiny_models], store=tmp_path / "store", env=env) as server:
            server.json("POST", "/api/copy", {"source": "tiny-hello", "destination": REPO})
            for lines in (pull(server, "org/there"), pull(server, f"{hub.host}/me/x"), push(server, REPO)):
                assert "is not trusted" in lines[-1]["error"] and "SSL_CERT_FILE" in lines[-1]["error"], json.dumps(lines[-1])
        assert not hub.requests
