"""The Dockerfile and compose.yaml, read: `packaging/check-dockerfile` carries the first one out, which takes minutes."""
import re

import pytest
import yaml
from conftest import PAGES, TOP

import dockerfile

TEXT = (TOP / "Dockerfile").read_text()
STAGES = dockerfile.read(TEXT)
LAST = STAGES[-1]
COMPOSE = yaml.safe_load((TOP / "compose.yaml").read_text())
PROGRAMS = {page.stem for page in PAGES}


def one(word):
    [step] = LAST.all(word)
    return step.text


def test_images_are_named_with_their_version():
    for stage in STAGES:
        assert re.fullmatch(r"[a-z]+:[0-9][0-9a-z.-]*", stage.image)


def test_what_is_copied_is_there():
    names = {stage.name for stage in STAGES}
    for stage in STAGES:
        for step in stage.all("COPY"):
            source, files, _ = dockerfile.copy(step.text)
            assert source is None or source in names
            assert source or all((TOP / file).exists() for file in files)


def test_it_does_not_run_as_root_and_ends_as_it_should():
    assert one("USER") != "root"
    order = [step.word for step in LAST.steps]
    assert order.index("USER") > max(i for i, word in enumerate(order) if word == "RUN"), "what needs root comes before"
    assert one("STOPSIGNAL") == "SIGTERM"


def test_commands_are_programs_of_ours_in_the_exec_form():
    """A shell in between would keep the signal that ends it."""
    assert dockerfile.words(one("CMD"))[0] in PROGRAMS
    options, command = dockerfile.health(one("HEALTHCHECK"))
    assert command[0] in PROGRAMS and {"interval", "timeout", "start-period", "retries"} <= set(options)


def test_layers_leave_no_lists_of_packages():
    for step in LAST.all("RUN"):
        if "apt-get" in step.text:
            assert "apt-get update" in step.text and "--no-install-recommends" in step.text and "/var/lib/apt/lists" in step.text


def test_the_models_are_a_volume():
    assert one("VOLUME") == f"/home/{one('USER')}/.mlx-ollama"


def test_no_prebuilt_part_comes_in():
    assert "PREBUILT" not in TEXT


@pytest.mark.parametrize("text", ["RUN a", "FROM x AS y\nADD a b", "FROM x\nRUN a \\"])
def test_what_is_not_understood_is_refused(text):
    with pytest.raises((ValueError, IndexError)):
        dockerfile.read(text)


def test_compose_publishes_to_this_machine_only():
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert published and all(str(port).startswith("127.0.0.1:") for port in published)


def test_compose_names_what_is_there():
    services = COMPOSE["services"]
    assert set(services) == {"bridge", "router", "ollama"} and services["ollama"]["profiles"] == ["ollama"]
    volumes = {mount.split(":")[0] for service in services.values() for mount in service.get("volumes", [])}
    assert volumes == set(COMPOSE["volumes"])
    for config in services["router"]["configs"]:
        assert config["source"] in COMPOSE["configs"]
        assert config["target"].startswith(f"/home/{one('USER')}/.config/mlx-ollama/")
    urls = re.findall(r"url = http://([a-z]+):(\d+)", COMPOSE["configs"]["router"]["content"])
    assert {name for name, _ in urls} == {"bridge", "ollama"}
    assert dict(urls)["bridge"] == services["bridge"]["environment"]["OLLAMA_HOST"].split(":")[1]
