"""Fields of a JSON payload, by RFC 6901 pointers such as `/address/country` or `/items/0/sku`. Pure.

Only what a pointer meets on its way is made into objects; the rest is looked at once and left. Where names depend on a
field, all owners must read the same: what counts as bad is settled here, and not left to how deep a stack is.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from consumer.encode.jsonl import is_shallow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOTHING: Final = b""
"""What stands for a field that is missing, or in a payload that is no good JSON."""

_WHITE: Final = b" \t\r\n"
_items: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_text: Final = msgspec.json.Decoder(str).decode
_QUOTE: Final = ord('"')
_NUMBERS: Final = frozenset(b"-0123456789")


def parse_pointer(text: str) -> tuple[str, ...]:
    """The names on the way. Raises ValueError for what isn't a pointer, or points at the whole payload."""
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is no JSON pointer to a field: it begins with /, as /address/country does")
    if text.replace("~0", "").replace("~1", "").count("~"):
        raise ValueError(f"{text!r} is no JSON pointer: ~ is written ~0 there, and / within a name ~1")
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/"))


class _Step:
    """A place on the way: which names go on from it, and the field that is found here, if any."""

    def __init__(self, attribute: str = "") -> None:
        self.attribute = attribute
        self.found: list[int] = []
        self.steps: dict[str, _Step] = {}
        self.members: type[msgspec.Struct]
        """The objects on the way, one in the other, where fields are the ends: what most payloads are."""
        self._decode: Callable[[bytes], Any]
        self._elements: list[tuple[int, _Step]] = []

    def at(self, name: str) -> _Step:
        return self.steps.setdefault(name, _Step(f"f{len(self.steps)}"))

    def ready(self) -> None:
        for step in self.steps.values():
            step.ready()
        names = {step.attribute: name for name, step in self.steps.items()}
        fields = [(step.attribute, msgspec.Raw, msgspec.Raw()) for step in self.steps.values()]
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Members", fields, rename=names)).decode
        inner: list[tuple[str, Any, Any]] = [
            (step.attribute, msgspec.Raw, msgspec.Raw())
            if step.found or not step.steps
            else (step.attribute, step.members | None, None)
            for step in self.steps.values()
        ]
        self.members = msgspec.defstruct("Objects", inner, rename=names)
        self._elements = [(int(name), step) for name, step in self.steps.items() if _is_index(name)]

    def walk(self, value: bytes, into: list[bytes]) -> None:
        for place in self.found:
            into[place] = value
        if not self.steps:
            return
        if value[:1] == b"{":
            members = self._decode(value)
            for step in self.steps.values():
                if raw := bytes(getattr(members, step.attribute)):
                    step.walk(raw.strip(_WHITE), into)
        elif value[:1] == b"[" and self._elements:
            elements = _items(value)
            for index, step in self._elements:
                if index < len(elements):
                    step.walk(bytes(elements[index]).strip(_WHITE), into)


def _is_index(name: str) -> bool:
    return name == "0" or (name.isascii() and name.isdigit() and name[0] != "0" and len(name) < 10)


class Fields:
    """Reads the same fields of many payloads. Of names that come twice in an object, the last counts."""

    def __init__(self, pointers: Sequence[str]) -> None:
        """`pointers`: at least one. Raises ValueError for what isn't one."""
        self._count = len(pointers)
        self._root = _Step()
        attributes = []
        for place, pointer in enumerate(pointers):
            step, way = self._root, []
            for name in parse_pointer(pointer):
                step = step.at(name)
                way.append(step.attribute)
            step.found.append(place)
            attributes.append(".".join(way))
        self._root.ready()
        self._decode = msgspec.json.Decoder(self._root.members).decode
        self._fields = attrgetter(*attributes)

    def read(self, payload: bytes | None) -> list[bytes]:
        """Each field's JSON text as it stands there. Never refuses a payload: NOTHING is what can't be read.

        All of them are NOTHING where the payload is no valid JSON, or more than 512 deep.
        """
        if not payload:
            return [NOTHING] * self._count
        try:
            told = self._fields(self._decode(payload))
            found = [bytes(told)] if self._count == 1 else [bytes(it) for it in told]
        except (ValueError, TypeError, AttributeError, RecursionError):
            found = self._walk(payload)  # no such objects on the way, or an array
        return found if is_shallow(payload) else [NOTHING] * self._count

    def _walk(self, payload: bytes) -> list[bytes]:
        """The same, step by step, whatever lies on the way."""
        found = [NOTHING] * self._count
        try:
            self._root.walk(payload.strip(_WHITE), found)
        except (ValueError, RecursionError):
            return [NOTHING] * self._count
        return found


def scalar(token: bytes) -> bytes | None:
    """A field's value as UTF-8 text: that of a string, and numbers, true and false as they are written.

    None for null, arrays, objects, NOTHING, and strings that are no Unicode text.
    """
    if not token:
        return None
    if token[0] == _QUOTE:
        try:
            return _text(token).encode()
        except ValueError:
            return None
    return token if token[0] in _NUMBERS or token in {b"true", b"false"} else None
