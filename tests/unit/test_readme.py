"""README and ARCHITECTURE speak of what is there."""

from __future__ import annotations

import re
from pathlib import Path

from consumer.settings import ConsumerSettings
from headrace.cli import COMMANDS
from producer.settings import ProducerSettings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_readme_names_every_setting_and_no_other() -> None:
    there = {name.upper() for kind in (ProducerSettings, ConsumerSettings) for name in kind.model_fields}
    table = README[README.index("## Settings") : README.index("## In production")]
    named = set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", table)) | {"FORMAT", "COMPRESSION", "WORKERS"}
    assert named == there


def test_readme_names_every_command() -> None:
    assert [name for name in COMMANDS if f"`headrace {name}" not in README] == []


def test_architecture_names_modules_that_are_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for folder, names in re.findall(r"`(producer|consumer)/([a-z]+)`", text):
        assert (ROOT / folder / f"{names}.py").exists(), f"{folder}/{names}"
    for name in set(re.findall(r"\| `([a-z]+)(?:`| |\.)", text)):
        assert any((ROOT / folder / f"{name}.py").exists() for folder in ("producer", "consumer", "headrace")), name
