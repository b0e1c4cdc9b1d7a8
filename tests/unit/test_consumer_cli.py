"""What `headrace replay` and `headrace claims` refuse before they ask any server, and how claims are shown."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition
from click.testing import CliRunner

from consumer.claims import Committed
from consumer.cli import _claims_row, replay
from headrace.errors import SettingsError


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--prefix", "archive"], "is S3_PREFIX, the archive's own"),
        (["--prefix", "archive/orders/again"], "lies in the archive's own folder archive/orders/"),
        (["--prefix", "again", "--since", "yesterday"], "--since 'yesterday' is neither an offset"),
        (["--prefix", "again", "--topic", "a,b"], "replay takes one topic, not a, b"),
        (["--prefix", "../up"], "S3_PREFIX"),
    ],
)
def test_a_replay_that_could_harm_is_refused(arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"S3_BUCKET": "bucket", "S3_PREFIX": "archive", "KAFKA_TOPIC": "orders"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HEADRACE_CONFIG", "/dev/null")
    result = CliRunner().invoke(replay, arguments)
    assert isinstance(result.exception, SettingsError)
    assert told in str(result.exception)


def test_claims_are_shown_as_ranges() -> None:
    tp = TopicPartition("t", 1)
    committed = Committed(105, 100, (200, 250), 0, "0123456789ab", "id")
    row = _claims_row(tp, 105, committed.encode())
    assert (row["claimed"], row["layout"], row["remark"]) == ([[100, 200], [200, 250]], "0123456789ab", "")
    filling = Committed(105, 105, (), 900, "0123456789ab", "id")
    assert _claims_row(tp, 105, filling.encode())["remark"] == "repairing up to 900"
    assert _claims_row(tp, -1, "")["remark"] == "nothing committed"
    assert _claims_row(tp, 7, "")["remark"] == "committed by another tool"
    assert "can't read" in _claims_row(tp, 7, "something else")["remark"]
