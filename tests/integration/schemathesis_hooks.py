"""What JSON Schema can't tell schemathesis: 2.0 is an integer there, and none in Kafka's REST proxy and CloudEvents."""

from __future__ import annotations

from typing import Any

import schemathesis


def integers(value: Any) -> Any:
    """Whole numbers without a fraction, wherever they stand."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [integers(one) for one in value]
        case dict():
            return {name: integers(one) for name, one in value.items()}
        case _:
            return value


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    return integers(body)
