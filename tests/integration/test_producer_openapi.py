"""The OpenAPI document and the running server agree: schemathesis asks for all that the document tells of."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.producer_process import serving

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.stack
ROOT = str(Path(__file__).parents[2])
TOKEN = "a-token-of-some-length"


@pytest.mark.timeout(180)
async def test_the_document_and_the_server_agree(
    service_env: dict[str, str], topic: Callable[..., str], tmp_path: Path
) -> None:
    name = topic()
    (tmp_path / "schemathesis.toml").write_text(f'[parameters]\ntopic = "{name}"\npartition = 1\n')
    async with serving(service_env, name, HTTP_TOKEN=TOKEN, LINGER_MS="0") as (process, url):
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"{url}/openapi.json",
            "--seed=1",
            "--max-examples=25",
            "--phases=examples,coverage,fuzzing",
            "--generation-database=none",
            "--workers=2",
            f"--header=Authorization: Bearer {TOKEN}",
            "--warnings=off",
            "--no-color",
        ]
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.integration.schemathesis_hooks", "PYTHONPATH": ROOT}
        asked = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
        )
        assert asked.returncode == 0, asked.stdout[-20_000:] + asked.stderr
        assert "Traceback" not in process.log, process.log
