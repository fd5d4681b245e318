"""The doctor finds what is wrong with an installation, before anything is live, and says what to do."""
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from known.bridge import Bridge, program

from .conftest import PATIENCE, fails, prints, unit
from .standin import Server, stand_in

CHECKS = ["programs", "versions", "libraries", "service-config", "devices", "aliases", "router-config", "directories", "logs",
          "service-unit", "ports", "memory", "space"]
HUGE = 10**17  # bytes


def settings(installation, name, text):
    directory = installation.home / ".config/mlx-ollama"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(text)
    return directory / name


def a_bridge_that_says(installation, models=(), devices=None):
    """A stand-in of the bridge with these models on its disk."""
    chosen = {"backend": "cpu", "device": "cpu", "name": "stand-in", "gpu": False, "memory": 16 * 10**9, "chosen": True}
    listed = [{"name": name, "digest": "0" * 64, "size": size, "modified_at": "2026-01-31T09:08:07Z", "place": "/x",
               "needs_import": needs, **({"memory": memory[0]} if memory else {})} for name, size, needs, *memory in models]
    store = str(installation.home / "models")
    installation.stand_in("mlx-ollama-bridge", {
        "--list-devices": devices or prints(json.dumps([chosen])),
        "list": prints(json.dumps({"store": store, "models": listed}))})


# ---- one fault each: what it does, the check that must fail, words of its detail, words of its remedy


def program_missing(i):
    (i.bin / "mlx-server-startup").unlink()


def program_not_executable(i):
    (i.bin / "ollama-to-mlx-router").chmod(0o644)


def program_open_to_all(i):
    (i.bin / "ollama-to-mlx-router").chmod(0o757)


def version_other(i):
    i.service(version="9.9.9")


def version_fails(i):
    i.service({"--version": fails("error while loading shared libraries: libx.so", 127)})


def version_of_a_stranger(i):
    i.service({"--version": prints("Starts servers, version 3")})


def version_hangs(i):
    i.service({"--version": "exec sleep 1000"})


def library_missing(i):
    for tool in ("ldd", "otool"):
        (i.tools / tool).write_text("#!/bin/sh\necho '\tlibmlx.so => not found'\n")
        (i.tools / tool).chmod(0o755)


def devices_fail(i):
    a_bridge_that_says(i, devices=fails("mlx-ollama-bridge: libmlx_backend.so does not load: no Metal"))


def devices_of_another_time(i):
    a_bridge_that_says(i, devices=prints("[]"))


def devices_no_json(i):
    a_bridge_that_says(i, devices=prints("BACKEND DEVICE"))


def aliases_broken(i):
    settings(i, "aliases.ini", "[aliases]\nllama3.2:1b = mlx-community/x\nnonsense\n")


def aliases_no_repository(i):
    settings(i, "aliases.ini", "[aliases]\nllama3.2:1b = just-a-word\n")


def service_config_broken(i):
    i.service({"config": fails("mlx-server-startup: /x/service.ini line 3: port must be a number")})


def service_config_no_json(i):
    i.service({"config": prints("port = 11435")})


def router_config_broken(i):
    i.stand_in("ollama-to-mlx-router", {"status": fails("ollama-to-mlx-router: /x/router.ini line 7: expected: key = value")})


def router_config_broken_as_json(i):
    i.stand_in("ollama-to-mlx-router", {"status": prints('{"error": "/x/router.ini line 7: expected: key = value"}') + "\nexit 2"})


def unit_differs(i):
    i.service({"diff": unit(differs=True) + "\nexit 1"})


def settings_open_to_all(i):
    settings(i, "x", "").parent.chmod(0o777)


def settings_file_open_to_all(i):
    settings(i, "router.ini", "").chmod(0o666)


def state_is_a_file(i):
    (i.home / ".mlx-ollama").write_text("")
    a_bridge_that_says(i)


def home_is_a_file(i):
    i.doctor.env["HOME"] = str(i.bin / "test-mlx-integration")
    a_bridge_that_says(i)


def log_is_a_link(i):
    (i.logs / "b.log").symlink_to("/etc/passwd")


def log_open_to_all(i):
    (i.logs / "e.log").write_text("")
    (i.logs / "e.log").chmod(0o666)


def log_is_a_directory(i):
    (i.logs / "b.pid").mkdir()


def log_directory_is_a_file(i):
    i.logs.rmdir()
    i.logs.write_text("")


def log_directory_open_to_all(i):
    i.logs.chmod(0o777)


def model_larger_than_memory(i):
    a_bridge_that_says(i, [("llama3.1:405b", HUGE, False)])


def import_larger_than_disk(i):
    a_bridge_that_says(i, [("small:1b", 10**9, False), ("llama3.1:405b", HUGE, True)])


FAULTS = {
    program_missing: ("programs", "neither beside this program nor on PATH: mlx-server-startup", "install all four"),
    program_not_executable: ("programs", "not executable: ", "chmod +x "),
    program_open_to_all: ("programs", "anybody may write to ", "chmod o-w "),
    version_other: ("versions", "mlx-server-startup is 9.9.9", "install all four"),
    version_fails: ("versions", "status 127: error while loading shared libraries: libx.so", "install it again"),
    version_of_a_stranger: ("versions", "does not say \"mlx-server-startup\"", "PATH"),
    version_hangs: ("versions", "does not come to an end", "install it again"),
    devices_fail: ("devices", "does not load: no Metal", "--list-devices"),
    devices_of_another_time: ("devices", "is none", "install all four"),
    devices_no_json: ("devices", "is no JSON", "--list-devices"),
    aliases_broken: ("aliases", "aliases.ini line 3", "mlx-ollama-bridge list"),
    aliases_no_repository: ("aliases", "'just-a-word' is not a repository", "mlx-ollama-bridge list"),
    service_config_broken: ("service-config", "service.ini line 3: port must be a number", "correct that line"),
    service_config_no_json: ("service-config", "says no JSON", "install all four"),
    router_config_broken: ("router-config", "router.ini line 7", "correct that line"),
    router_config_broken_as_json: ("router-config", "router.ini line 7", "correct that line"),
    unit_differs: ("service-unit", "is not what this version and configuration would write", "install-service"),
    settings_open_to_all: ("directories", "settings: anybody may write to ", "chmod o-w "),
    settings_file_open_to_all: ("directories", "router.ini", "chmod o-w "),
    state_is_a_file: ("directories", "state: ", "move it away"),
    home_is_a_file: ("directories", "Not a directory", "ls -ld"),
    log_is_a_link: ("logs", "is a link", "rm "),
    log_open_to_all: ("logs", "others may write to ", "chmod 600 "),
    log_is_a_directory: ("logs", "is no ordinary file", "rm "),
    log_directory_is_a_file: ("logs", "cannot be written to", "service.ini"),
    log_directory_open_to_all: ("logs", "anybody may replace", "chmod +t "),
    model_larger_than_memory: ("memory", "no model fits: llama3.1:405b needs 100000000.0 GB", "smaller model"),
    import_larger_than_disk: ("space", "no model fits: llama3.1:405b", "free space"),
}
if shutil.which("ldd"):  # macOS's otool is asked by its path
    FAULTS[library_missing] = ("libraries", "needs libmlx.so", "packages")


def test_a_sound_installation_passes(installation, tiny_models):
    status, checks = installation.check("--", "--root", tiny_models)
    assert list(checks) == CHECKS
    assert status == 0 and {c["state"] for c in checks.values()} == {"passed"}, checks
    assert re.search(r"all \d+ models fit", checks["memory"]["detail"])
    assert f"{installation.clients} free, {installation.bridge} free, {installation.router} free" == checks["ports"]["detail"]
    assert not (installation.home / ".mlx-ollama").exists()  # it only looks


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_what_is_wrong_is_found_and_has_a_remedy(installation, fault):
    check, detail, remedy = FAULTS[fault]
    fault(installation)
    status, checks = installation.check("--timeout", 5)
    found = checks[check]
    assert found["state"] == "failed", checks
    assert detail in found["detail"], found
    assert remedy in found["remedy"], found
    assert [name for name in checks if checks[name]["state"] == "failed"] == [check], checks
    assert status == 1


def test_what_belongs_to_somebody_else_is_found(installation):
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(settings(installation, "service.ini", ""), 12345, -1)
    (installation.logs / "b.log").write_text("")
    os.chown(installation.logs / "b.log", 12345, -1)
    status, checks = installation.check()
    assert status == 2
    for name in ("directories", "logs"):
        assert "belongs to user 12345" in checks[name]["detail"] and checks[name]["remedy"], checks


def test_who_has_a_port_is_named(installation, tiny_models):
    with Bridge(roots=[tiny_models]) as bridge, Server(stand_in("no-health")) as ollama, Server(stand_in("not-ollama")) as other:
        env = installation.doctor.env
        # all three where they may be: Ollama where clients look, the bridge behind
        installation.bridge = bridge.port
        installation.service()
        env["OLLAMA_HOST"] = f"127.0.0.1:{ollama.port}"
        status, checks = installation.check()
        assert status == 0 and f"{ollama.port} Ollama" in checks["ports"]["detail"]
        assert re.search(rf"{bridge.port} mlx-ollama-bridge \S+ \(process {bridge.process.pid}\)", checks["ports"]["detail"])
        # Ollama where the bridge should be
        installation.bridge = ollama.port
        installation.service()
        env["OLLAMA_HOST"] = f"127.0.0.1:{bridge.port}"
        status, checks = installation.check()
        assert status == 1 and "is taken by Ollama" in checks["ports"]["detail"], checks["ports"]
        assert "service.ini" in checks["ports"]["remedy"]
        # a stranger where clients look
        env["OLLAMA_HOST"] = f"127.0.0.1:{other.port}"
        status, checks = installation.check()
        assert status == 1 and f"port {other.port}" in checks["ports"]["detail"] and "python" in checks["ports"]["detail"]
        assert f"stop it (process {os.getpid()})" in checks["ports"]["remedy"]


def test_one_model_that_does_not_fit_is_advice(installation):
    a_bridge_that_says(installation, [("small:1b", 10**9, True), ("llama3.1:405b", HUGE, True)])
    status, checks = installation.check()
    assert status == 0
    assert "1 of 2 models fit" in checks["memory"]["detail"] and "llama3.1:405b" in checks["memory"]["remedy"]
    assert "1 of 2 models fit" in checks["space"]["detail"] and "llama3.1:405b" in checks["space"]["remedy"]


def test_the_models_are_those_that_the_service_has(installation, tiny_models):
    (installation.bin / "mlx-server-startup").unlink()
    (installation.bin / "mlx-server-startup").symlink_to(Path(program()).with_name("mlx-server-startup"))
    logs = "[logs]\nlogs = state\n"
    settings(installation, "service.ini", logs)
    assert installation.check()[1]["aliases"]["detail"] == "0 models on this disk"
    root = installation.home / "my models"
    root.mkdir()
    for name in ("tiny", "tiny-hello"):
        shutil.copytree(tiny_models / name, root / name)
    settings(installation, "service.ini", f"[bridge]\noptions = --root \"{root}\"\noptions = --threads 1\n{logs}")
    _, checks = installation.check()
    assert checks["aliases"]["detail"] == "2 models on this disk, as service.ini tells the bridge"
    assert "all 2 models fit" in checks["memory"]["detail"]
    assert int(installation.check("--", "--root", tiny_models)[1]["aliases"]["detail"].split()[0]) > 2  # those, too
    settings(installation, "service.ini", f"[environment]\nHOME = {installation.home}/other\nMY_TOKEN = secret\n{logs}")
    _, checks = installation.check()
    assert f"models {installation.home}/other/.mlx-ollama/models" in checks["directories"]["detail"]


def test_options_of_the_service_that_the_bridge_does_not_know_are_named(installation):
    (installation.bin / "mlx-server-startup").unlink()
    (installation.bin / "mlx-server-startup").symlink_to(Path(program()).with_name("mlx-server-startup"))
    settings(installation, "service.ini", "[bridge]\noptions = --threads nonsense\n[logs]\nlogs = state\n")
    _, checks = installation.check()
    for name in ("devices", "aliases"):
        assert checks[name]["state"] == "failed" and "nonsense" in checks[name]["detail"], checks[name]
    assert "service.ini" in checks["aliases"]["remedy"]


def test_keys_and_values_count_as_memory(installation):
    memory = {"weights": 10**9, "kv": 5 * 10**9, "scratch": 2 * 10**8, "context": 131072, "parallel": 4}
    fits, not_with_it = ("a:1b", 10**9, False, memory), ("b:1b", 10**9, False, {**memory, "kv": 20 * 10**9})
    a_bridge_that_says(installation, [fits])
    status, checks = installation.check()
    assert status == 0 and checks["memory"]["detail"] == ("16.0 GB of memory: all 1 models fit, the largest needs 6.2 GB (1.0 weights, "
                                                          "5.0 keys and values of 4 x 131072 tokens, 0.2 a step)")
    a_bridge_that_says(installation, [fits, not_with_it])
    status, checks = installation.check()
    assert status == 0 and "1 of 2 models fit" in checks["memory"]["detail"]
    assert "b:1b needs 21.2 GB (1.0 weights, 20.0 keys and values" in checks["memory"]["remedy"]
    a_bridge_that_says(installation, [not_with_it])
    status, checks = installation.check()
    assert status == 1 and "no model fits: b:1b" in checks["memory"]["detail"]
    assert "OLLAMA_CONTEXT_LENGTH" in checks["memory"]["remedy"]


def test_the_bridge_says_what_its_models_need(tiny_models, tmp_path):
    def memory(name, **variables):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "MLX_BRIDGE", "HF_", "XDG_"))}
        env = {**kept, "HOME": str(tmp_path), "OLLAMA_MODELS": str(tmp_path / "none"), **variables}
        said = subprocess.run([program(), "--root", str(tiny_models), "list", "--json"], env=env, capture_output=True, text=True,
                              timeout=PATIENCE, check=True).stdout
        [model] = [m for m in json.loads(said)["models"] if m["name"] == name]
        return model["memory"]

    usual, short = memory("tiny:latest"), memory("tiny:latest", OLLAMA_CONTEXT_LENGTH="1024", OLLAMA_NUM_PARALLEL="1")
    assert (usual["context"], usual["parallel"]) == (4096, 4) and (short["context"], short["parallel"]) == (1024, 1)
    a_token = 2 * 2 * 384  # keys and values of one layer in 16 bits
    assert short["kv"] >= 1024 * a_token and usual["kv"] >= 4 * 4096 * a_token
    assert 10 * short["kv"] < usual["kv"] and short["weights"] == usual["weights"] > 1000000
    assert memory("tiny-embed:latest")["context"] >= 1


def test_what_a_program_does_not_offer_is_skipped(installation):
    installation.stand_in("mlx-server-startup", {})
    installation.stand_in("ollama-to-mlx-router", {})
    _, checks = installation.check()
    for name in ("service-config", "router-config"):
        assert checks[name]["state"] == "skipped" and "what is" in checks[name]["detail"], checks
    assert checks["service-unit"]["state"] == "skipped"


def test_a_service_that_is_not_installed_is_skipped(installation):
    installation.service({"diff": unit(installed=False) + "\nexit 3"})
    status, checks = installation.check()
    assert status == 0 and checks["service-unit"]["state"] == "skipped" and "install-service" in checks["service-unit"]["detail"]


def test_the_real_programs_are_a_sound_installation(installation, tiny_models):
    for name in ("mlx-server-startup", "ollama-to-mlx-router"):
        (installation.bin / name).unlink()
        (installation.bin / name).symlink_to(Path(program()).with_name(name))
    settings(installation, "service.ini", f"[bridge]\nport = {installation.bridge}\n[logs]\nlogs = state\n")
    settings(installation, "router.ini", f"[router]\nport = {installation.router}\n[mlx]\nkind = mlx\n"
                                         f"url = http://127.0.0.1:{installation.bridge}\n")
    status, checks = installation.check("--", "--root", tiny_models)
    assert status == 0, checks
    assert [name for name in checks if checks[name]["state"] != "passed"] in ([], ["service-unit"])  # none is installed here
    assert f"{installation.clients} free, {installation.bridge} free, {installation.router} free" == checks["ports"]["detail"]
    assert str(installation.home) in checks["logs"]["detail"]  # as service.ini says
    settings(installation, "service.ini", "[bridge]\nport = many\n")
    settings(installation, "router.ini", "[router]\nport = many\n")
    _, checks = installation.check()
    for name, file in (("service-config", "service.ini line 2"), ("router-config", "router.ini line 2")):
        assert checks[name]["state"] == "failed" and file in checks[name]["detail"], checks[name]


def test_many_failures_are_counted_by_the_status(installation):
    program_open_to_all(installation)
    version_other(installation)
    settings_open_to_all(installation)
    log_is_a_link(installation)
    status, _ = installation.check()
    assert status == 4


def test_no_program_at_all(doctor, tmp_path):
    lonely = tmp_path / "test-mlx-integration"
    shutil.copy(doctor.program, lonely)
    done = type(doctor)(tmp_path, lonely)("--installation", env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 1 and "✗ the four programs: " in done.stdout
    assert done.stdout.count("to ask\n") == 7


# ---- and then what is live


def test_without_a_server_it_starts_its_own(installation, tiny_models):
    status, document = installation.doctor.json("--model", "tiny-hello", "--", "--root", tiny_models)
    found = {c["check"]: c["state"] for c in document["checks"]}
    assert status == 0, document
    assert found["start"] == found["stop"] == found["generate"] == found["space"] == "passed"
    assert str(installation.clients) not in document["url"]


def test_a_running_server_is_asked_where_its_clients_look(installation, tiny_models):
    with Bridge(roots=[tiny_models]) as bridge:
        status, document = installation.doctor.json(env={"OLLAMA_HOST": f"0.0.0.0:{bridge.port}"})
        assert bridge.health()["models"] == 0  # unloaded at the end
    found = {c["check"]: c["state"] for c in document["checks"]}
    assert status == 0 and document["url"] == bridge.url, document
    assert "start" not in found and found["generate"] == "passed"


def test_a_running_server_is_found_where_the_service_has_it(installation):
    with Server(stand_in()) as server:
        installation.bridge = server.port
        installation.service()
        status, document = installation.doctor.json()
    assert status == 0 and document["url"] == server.url, document
    [ports] = [c for c in document["checks"] if c["check"] == "ports"]
    assert "1.2.3 runs on port" in ports["remedy"] and "restart it" in ports["remedy"]  # another version than what is installed
