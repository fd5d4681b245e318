#!/usr/bin/env python3
"""Fails when a room includes what its CMakeLists.txt does not list, or another room's private header.

The arrows between rooms are the DEPS of lm_module(...) in src/ROOM/CMakeLists.txt. Public headers of a room are
room/room.h and the others that PUBLIC names.
"""
import pathlib
import re
import sys

SRC = pathlib.Path(__file__).resolve().parent.parent / "src"
PUBLIC = {
    "base": {"base.h", "cond.h", "file.h", "ini.h", "json.h", "lines.h", "notify.h", "pool.h", "test.h"},
    "http": {"http.h", "client.h", "pump.h", "guard.h", "raw_client.h", "raw_server.h"},  # raw_*: for tests
    "store": {"store.h", "modelfile.h"},
    "weights": {"weights.h", "gguf.h", "gguf_make.h", "quantize.h", "safetensors_write.h"},
    "mlx": {"backend.h"},  # mlx/mlx.h is MLX's own
}


def rooms():
    """room -> the rooms that it lists; header-only rooms and programs list by linking lm_ROOM."""
    found = {}
    for cmake in sorted(SRC.glob("*/CMakeLists.txt")):
        text = re.sub(r"#.*", "", cmake.read_text())
        deps = set()
        for call in re.findall(r"lm_module\(\s*(\w+)([^)]*)\)", text):
            words = call[1].split()
            if "DEPS" in words:
                for word in words[words.index("DEPS") + 1:]:
                    if word in ("SRC", "LIBS"):
                        break
                    deps.add(word)
        for call in re.findall(r"target_link_libraries\(([^)]*)\)", text):
            deps.update(word[3:] for word in call.split()[1:] if word.startswith("lm_"))
        deps.discard(cmake.parent.name)
        found[cmake.parent.name] = deps
    return found


def check_circles(room, arrows, seen=()):
    if room in seen:
        sys.exit(f"the rooms {' -> '.join((*seen, room))} depend on each other in a circle")
    for dep in arrows.get(room, ()):
        check_circles(dep, arrows, (*seen, room))


def main():
    arrows = rooms()
    problems, n_includes = [], 0
    for room in sorted(arrows):
        check_circles(room, arrows)
        for file in sorted(path for suffix in ("c", "h", "cpp") for path in (SRC / room).rglob(f"*.{suffix}")):
            is_test = file.stem.endswith("_test") or "tests" in file.parts  # a test may bring a backend of its own
            for number, line in enumerate(file.read_text().splitlines(), 1):
                match = re.match(r'\s*#\s*include\s+"(\w+)/([^"]+)"', line)
                if not match or match[1] not in arrows:
                    continue
                n_includes += 1
                other, header = match[1], match[2]
                where = f"{file.relative_to(SRC.parent)}:{number}"
                if other == room:
                    continue
                if other not in arrows[room] and not is_test:
                    problems.append(f"{where}: {room}/ includes {other}/, which its CMakeLists.txt does not list")
                elif header not in PUBLIC.get(other, {f"{other}.h"}):
                    problems.append(f"{where}: {other}/{header} is private to its room")
    for problem in problems:
        print(problem)
    if not n_includes:
        sys.exit("no includes found: is this the right tree?")
    print(f"{n_includes} includes in {len(arrows)} rooms, {len(problems)} point the wrong way")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
