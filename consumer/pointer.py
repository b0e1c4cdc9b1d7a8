"""Fields of a JSON payload, by RFC 6901 pointers such as `/address/country` or `/items/0/sku`. Pure.

Only what a pointer meets on its way is made into objects; the rest is looked at once and left. Where names depend on a
field, all owners must read the same: what counts as bad is settled here, and not left to how deep a stack is.
"""

from __future__ import annotations

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

    def __init__(self) -> None:
        self.found: list[int] = []
        self.steps: dict[str, _Step] = {}
        self._members: Callable[[bytes], Any]
        self._elements: list[tuple[int, _Step]] = []

    def at(self, name: str) -> _Step:
        return self.steps.setdefault(name, _Step())

    def ready(self) -> None:
        fields = [(f"f{number}", msgspec.Raw, msgspec.Raw()) for number in range(len(self.steps))]
        names = {f"f{number}": name for number, name in enumerate(self.steps)}
        self._members = msgspec.json.Decoder(msgspec.defstruct("Members", fields, rename=names)).decode
        self._elements = [(int(name), step) for name, step in self.steps.items() if _is_index(name)]
        for step in self.steps.values():
            step.ready()

    def walk(self, value: bytes, into: list[bytes]) -> None:
        for place in self.found:
            into[place] = value
        if not self.steps:
            return
        if value[:1] == b"{":
            members = self._members(value)
            for number, step in enumerate(self.steps.values()):
                if raw := bytes(getattr(members, f"f{number}")):
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
        """Raises ValueError for what isn't a pointer."""
        self._count = len(pointers)
        self._root = _Step()
        for place, pointer in enumerate(pointers):
            step = self._root
            for name in parse_pointer(pointer):
                step = step.at(name)
            step.found.append(place)
        self._root.ready()

    def read(self, payload: bytes | None) -> list[bytes]:
        """Each field's JSON text as it stands there. Never refuses a payload: NOTHING is what can't be read.

        All of them are NOTHING where the payload is no valid JSON, or more than 512 deep.
        """
        found = [NOTHING] * self._count
        if payload:
            try:
                self._root.walk(payload.strip(_WHITE), found)
            except (ValueError, RecursionError):
                return [NOTHING] * self._count
            if not is_shallow(payload):
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
