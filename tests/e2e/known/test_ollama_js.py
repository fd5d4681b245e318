"""The real JavaScript client of Ollama against the bridge.

Needs node and the packages of package.json: `npm ci` here, or in the directory that LM_E2E_NODE names.
"""
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .bridge import PATIENCE

HERE = Path(__file__).resolve().parent
MODULES = Path(os.environ.get("LM_E2E_NODE") or HERE) / "node_modules"


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
@pytest.mark.skipif(not (MODULES / "ollama").exists(), reason="run `npm ci` in tests/e2e")
def test_the_javascript_client(bridge, tmp_path):
    # node looks for packages beside the script
    shutil.copy(HERE / "client.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(MODULES.resolve())
    done = subprocess.run(["node", "client.mjs", bridge.url], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
    bridge.wait_idle()
