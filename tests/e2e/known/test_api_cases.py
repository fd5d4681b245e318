"""The data-driven cases of tests/api."""
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import run_api  # noqa: E402

CASES = list(run_api.load())


@pytest.mark.parametrize("case", [case for _, case in CASES], ids=[f"{file}: {case['name']}" for file, case in CASES])
def test_case(bridge, case):
    wrong = run_api.run(bridge, case)
    assert not wrong, wrong
