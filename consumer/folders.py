"""OBJECT_PATH: the template of a bucket's folders, and how values stand in names. Pure.

    dt=%Y-%m-%d/hour=%H                 the record's time
    country={/address/country}/%Y       a field of the payload, by JSON pointer
    key={key}                           the record's key
    partition={partition}               where it came from, or {topic}

A folder has one value in braces, or fields of the time; not both, and not two values: who reads it could not tell
where one ends and the other begins.

Values are escaped as Hive does it, so that Spark, Hive and DuckDB give them back: a byte that is not safe is %XX. They
can't leave their folder, be mistaken for another value, or grow beyond 128 bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Final

from consumer.pointer import parse_pointer
from headrace.objects import HIVE_NULL

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

FLAT: Final = "none"
KEY: Final = "key"
ORIGINS: Final = ("topic", "partition")
"""Values that are the same for all records of a chunk."""
UNDATED: Final = "undated"

MOST_VALUE_BYTES: Final = 128
_DIGEST: Final = 32
_CUT: Final = "%2D"
"""Stands before the digest of a value that is too long. It reads as -, which is never escaped: no value looks so."""
_KEPT_BYTES: Final = MOST_VALUE_BYTES - len(_CUT) - _DIGEST

_SAFE: Final = re.compile(rb"[A-Za-z0-9~@-][A-Za-z0-9._~@-]*")
# Letters beyond ASCII stay, since Spark unescapes byte by byte; not so what is no letter to anybody, or no XML.
_UNSAFE: Final = re.compile(
    "[^A-Za-z0-9._~@\u00a1-\uffff\U00010000-\U0010ffff-]|[\u2000-\u200f\u2028-\u202f\u205f-\u206f\ufeff\ufff0-\uffff]"
)
_ESCAPE_OR_LETTER: Final = re.compile(r"(?:%[0-9A-F]{2})+|.", re.DOTALL)

_MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _distance(at: datetime) -> str:
    """From UTC, as strftime has it: +0200."""
    offset = at.utcoffset()
    assert offset is not None
    minutes = offset.days * 1440 + offset.seconds // 60
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}{abs(minutes) % 60:02d}"


DIRECTIVES: Final[dict[str, Callable[[datetime], str]]] = {
    # Written here, so that they are the same on every machine: strftime asks the C library, and the locale.
    "Y": lambda at: f"{at.year:04d}",
    "y": lambda at: f"{at.year % 100:02d}",
    "m": lambda at: f"{at.month:02d}",
    "d": lambda at: f"{at.day:02d}",
    "F": lambda at: f"{at.year:04d}-{at.month:02d}-{at.day:02d}",
    "j": lambda at: f"{at.timetuple().tm_yday:03d}",
    "H": lambda at: f"{at.hour:02d}",
    "M": lambda at: f"{at.minute:02d}",
    "S": lambda at: f"{at.second:02d}",
    "G": lambda at: f"{at.isocalendar().year:04d}",
    "V": lambda at: f"{at.isocalendar().week:02d}",
    "u": lambda at: str(at.isoweekday()),
    "B": lambda at: _MONTHS[at.month - 1],
    "b": lambda at: _MONTHS[at.month - 1][:3],
    "A": lambda at: _DAYS[at.weekday()],
    "a": lambda at: _DAYS[at.weekday()][:3],
    "z": _distance,
    "%": lambda _: "%",
}
"""Strftime fields that a path may have, none finer than a second."""


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder of the path. `source`: where its value is from (`key`, a pointer), empty for fields of the time.

    Its name is all `parts`, joined; those of fields of the time are functions. A value stands between two of them.
    """

    parts: tuple[str | Callable[[datetime], str], ...]
    source: str = ""

    @property
    def is_dated(self) -> bool:
        return any(not isinstance(part, str) for part in self.parts)

    @property
    def varies(self) -> bool:
        """Whether it tells anything at all."""
        return bool(self.source) or self.is_dated or any(f"{{{name}}}" in self.parts for name in ORIGINS)

    def at(self, moment: datetime) -> str:
        """The folder of a time."""
        return "".join([part if isinstance(part, str) else part(moment) for part in self.parts])

    @property
    def undated(self) -> str:
        """The folder where there is no time to believe."""
        if not self.is_dated:
            return "".join(map(str, self.parts))
        name, equals, _ = "".join(part if isinstance(part, str) else "" for part in self.parts).partition("=")
        return f"{name}={HIVE_NULL}" if equals else UNDATED

    def of(self, value: bytes | None) -> str:
        """The folder of a value; None and an empty one are Hive's NULL."""
        before, after = self.parts
        assert isinstance(before, str)
        assert isinstance(after, str)
        return before + escaped(value, begins=not before) + after


def parse_template(text: str) -> tuple[Folder, ...]:
    """The folders of an OBJECT_PATH. Raises ValueError that says what is wrong with it."""
    if text == FLAT:
        return ()
    folders = tuple(_folder(part) for part in _split(text))
    if not any(folder.varies for folder in folders):
        raise ValueError(f"has neither a time's field such as %Y nor a value such as {{key}}; write {FLAT} for flat")
    return folders


def _split(text: str) -> list[str]:
    """At slashes outside of braces: pointers have slashes of their own."""
    parts, inside = [""], False
    for letter in text:
        if letter == "{" and inside:
            raise ValueError("has { within {…}; a value is written {key} or {/field}, in single braces")
        if letter == "}" and not inside:
            raise ValueError("has } without {")
        inside = letter == "{" or (inside and letter != "}")
        if letter == "/" and not inside:
            parts.append("")
        else:
            parts[-1] += letter
    if inside:
        raise ValueError("has { without }")
    return parts


def _folder(part: str) -> Folder:
    if part in {"", ".", ".."} or part.startswith("_"):
        raise ValueError("must be folder names joined by /, none empty, . or .. or beginning with _")
    if not part.isprintable() or "\\" in part:
        raise ValueError("has a letter that names had better not have (control, or backslash)")
    before, brace, rest = part.partition("{")
    if not brace:
        return Folder(_pieces(part))
    source, _, after = rest.partition("}")
    if source in ORIGINS:  # one name is no danger to another; filled in where a key is made
        return Folder((*_pieces(before), f"{{{source}}}", *_folder_end(after)))
    if "{" in after or "%" in before + after:
        raise ValueError(f"has {part!r}: a folder holds one {{…}}, and no fields of the time beside it")
    if source != KEY:
        if not source.startswith("/"):
            raise ValueError(
                f"has {{{source}}}, which is neither {{key}}, {{topic}}, {{partition}} nor a payload's field such as "
                f"{{/address/country}}"
            )
        parse_pointer(source)
    return Folder((before, after), source)


def _folder_end(part: str) -> tuple[str | Callable[[datetime], str], ...]:
    if "{" in part:
        raise ValueError("has two {…} in a folder: write a folder for each")
    return _pieces(part)


def _pieces(part: str) -> tuple[str | Callable[[datetime], str], ...]:
    """Literal text and fields of the time."""
    found: list[str | Callable[[datetime], str]] = []
    for piece in re.split("(%.?)", part):
        if not piece.startswith("%"):
            found += [piece] if piece else []
        elif piece[1:] in DIRECTIVES:
            found.append(DIRECTIVES[piece[1:]])
        else:
            known = ", ".join(f"%{letter}" for letter in sorted(DIRECTIVES))
            raise ValueError(f"has {piece}, which is not one of {known}")
    return tuple(found)


def escaped(value: bytes | None, *, begins: bool = False) -> str:
    """A value as a part of a folder's name: unescaped, it is the value again, if that is at most 128 bytes.

    What is longer ends with 32 digits of its SHA-256. None and nothing are Hive's NULL. `begins`: the folder begins
    with it, where . and _ mean something to Hive, to S3's tools and to us.
    """
    if not value:
        return HIVE_NULL
    if len(value) <= MOST_VALUE_BYTES and _SAFE.fullmatch(value):
        return value.decode()
    try:
        text = _UNSAFE.sub(_percent, value.decode())
    except UnicodeDecodeError:
        text = _UNSAFE.sub(_percent_byte, value.decode("latin-1"))
        text = re.sub("[^ -~]", _percent_byte, text)
    if text[0] == "." or (text[0] == "_" and (begins or text == HIVE_NULL)):
        text = f"%{ord(text[0]):02X}{text[1:]}"
    if len(text.encode()) <= MOST_VALUE_BYTES:
        return text
    sizes = accumulate(len(piece.encode()) for piece in _ESCAPE_OR_LETTER.findall(text))
    whole = sum(1 for _ in takewhile(lambda size: size <= _KEPT_BYTES, sizes))
    kept = "".join(_ESCAPE_OR_LETTER.findall(text)[:whole])
    return kept + _CUT + sha256(value).hexdigest()[:_DIGEST]


def _percent(letters: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in letters[0].encode())


def _percent_byte(letter: re.Match[str]) -> str:
    return f"%{ord(letter[0]):02X}"
