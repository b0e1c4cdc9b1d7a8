"""In CI a skipped test fails the session: nothing goes unchecked unnoticed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ci", "body", "code"),
    [
        ("true", "pytest.skip('not today')", 1),
        ("", "pytest.skip('not today')", 0),
        ("true", "pass", 0),
        ("true", "pytest.xfail('known')", 0),
    ],
)
def test_a_skip(tmp_path: Path, ci: str, body: str, code: int) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(f"import pytest\n\ndef test_it():\n    {body}\n")
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", os.devnull, str(test)],
        cwd=ROOT,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert answer.returncode == code, answer.stdout
    assert ("skipped in CI" in answer.stdout) == (code == 1)
