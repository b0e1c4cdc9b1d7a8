"""Every command explains itself, as it was laid out."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from headrace.cli import COMMANDS, app


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_shows_lines_and_not_their_marks(command: list[str]) -> None:
    answer = CliRunner().invoke(app, [*command, "--help"])
    assert answer.exit_code == 0, answer.output
    assert "\\b" not in answer.output
    assert "Usage:" in answer.output
