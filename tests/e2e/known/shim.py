"""The program with shim.c before the system: killed before the n-th step that changes a disk, a disk that is full from the
n-th on, and a list of whom it talked to."""
import mmap
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

FIELDS = ("steps", "kill_at", "full_from", "room")


def build(directory):
    """The library; skips where there is no compiler, or another way to preload."""
    if sys.platform != "linux" or not shutil.which("cc"):
        pytest.skip("it takes a C compiler, and Linux' way to preload a library")
    out = Path(directory) / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", out, source, "-ldl"], check=True)
    return out


class Shim:
    def __init__(self, library, directory):
        self.path, self.connects = Path(directory) / "shim.state", Path(directory) / "shim.connects"
        self.path.write_bytes(bytes(8 * len(FIELDS)))
        with open(self.path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 0)
        # the sanitizer's runtime wants to be the first library, and is content with being the second
        asan = os.environ.get("ASAN_OPTIONS", "")
        self.env = {"LD_PRELOAD": str(library), "LM_SHIM_STATE": str(self.path), "LM_SHIM_CONNECTS": str(self.connects),
                    "ASAN_OPTIONS": ":".join(filter(None, [asan, "verify_asan_link_order=0"]))}

    def __getitem__(self, field):
        return struct.unpack_from("<Q", self.map, 8 * FIELDS.index(field))[0]

    def __setitem__(self, field, value):
        struct.pack_into("<Q", self.map, 8 * FIELDS.index(field), value)

    def reset(self):
        for field in FIELDS:
            self[field] = 0
