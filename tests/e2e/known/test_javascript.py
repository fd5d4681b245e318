"""The real JavaScript clients against the bridge: a script for each, which prints "ok" when all was as it should be.

Needs node and the packages of package.json: `npm ci` in tests/e2e, or in the directory that LM_E2E_NODE names.
"""
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .bridge import PATIENCE

HERE = Path(__file__).resolve().parent
MODULES = Path(os.environ.get("LM_E2E_NODE") or HERE.parent) / "node_modules"


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
@pytest.mark.parametrize("script, package", [
    ("ollama.mjs", "ollama"), ("langchain.mjs", "@langchain/ollama"), ("continue.mjs", "@continuedev/openai-adapters"),
])
def test_a_javascript_client(bridge, tmp_path, script, package):
    if not (MODULES / package).exists():
        pytest.skip("run `npm ci` in tests/e2e")
    # node looks for packages beside the script
    shutil.copy(HERE / script, tmp_path)
    (tmp_path / "node_modules").symlink_to(MODULES.resolve())
    done = subprocess.run(["node", script, bridge.url], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
    bridge.wait_idle()
