"""Layouts by values: any bytes stay in their folder, two values have two folders, and Hive's readers get them back."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote_to_bytes

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.folders import DIRECTIVES, MOST_VALUE_BYTES, escaped, parse_template
from consumer.layout import MOST_KEY_BYTES, Layout
from consumer.moments import NO_MOMENT, open_zone, reader
from consumer.pointer import Fields, parse_pointer, scalar
from headrace.objects import HIVE_NULL, Range, parse_key
from headrace.record import StoredRecord

AT = 1_795_219_200_000  # 2026-11-21T00:00:00Z


def record(value: object, *, key: bytes | None = None, timestamp: int = AT, offset: int = 0) -> StoredRecord:
    body = value if isinstance(value, bytes | None) else orjson.dumps(value)
    return StoredRecord(offset, timestamp, key, body)


# Values in names

values = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=150).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from(
        [b".", b"..", b"_gaps", b"a/b", b"a=b", b"%41", b"A", HIVE_NULL.encode(), b"a b", b"\x00", b"x" * 129]
    ),
)


@given(values, st.booleans())
def test_a_value_stays_in_its_folder_and_comes_back(value: bytes, begins: bool) -> None:
    name = escaped(value, begins=begins)
    assert not re.search(r'[\x00-\x20"#%\'*/:=?\\{}\[\]^\x7f-\xa0]', re.sub("%[0-9A-F]{2}", "", name))
    assert name not in {"", ".", ".."}
    assert not (begins and value and name[0] in "._")
    assert 0 < len(name.encode()) <= MOST_VALUE_BYTES
    if not value:
        assert name == HIVE_NULL
    elif "%2D" not in name:
        assert unquote_to_bytes(name) == value


@given(values, values, st.booleans())
def test_two_values_have_two_names(one: bytes, other: bytes, begins: bool) -> None:
    assert (escaped(one, begins=begins) == escaped(other, begins=begins)) == (one == other)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"de", "de"),
        ("Zürich".encode(), "Zürich"),
        (b"a b/c=d%", "a%20b%2Fc%3Dd%25"),
        (b"user@example.com", "user@example.com"),
        (b"..", "%2E."),
        (b"\xff\xe9t", "%FF%E9t"),
        ("\u0085\u202e\ufeff".encode(), "%C2%85%E2%80%AE%EF%BB%BF"),
        (HIVE_NULL.encode(), "%5F_HIVE_DEFAULT_PARTITION__"),
        (b"_x", "_x"),
        (None, HIVE_NULL),
        (b"", HIVE_NULL),
    ],
)
def test_names_of_values(value: bytes | None, name: str) -> None:
    assert escaped(value) == name


def test_a_long_value_ends_with_its_digest() -> None:
    long, longer = escaped(b"a" * 129), escaped("ü".encode() * 100)
    assert long == "a" * 93 + "%2D" + long[-32:]
    assert longer.startswith("ü" * 46 + "%2D")
    assert len({escaped(b"a" * size) for size in range(129, 140)}) == 11
    assert escaped(b"\xff" * 100).startswith("%2D"), "an escape is never cut in two"


# Fields of payloads


@pytest.mark.parametrize("wrong", ["", "a", "/a~", "/a~2"])
def test_what_is_no_pointer(wrong: str) -> None:
    with pytest.raises(ValueError, match="JSON pointer"):
        parse_pointer(wrong)


def test_pointers_as_in_the_rfc() -> None:
    document = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "m~n": 8, " ": 7, "deep": {"er": [{"x": "y"}]}}
    told = {
        "/foo/0": b'"bar"',
        "/": b"0",
        "/a~1b": b"1",
        "/c%d": b"2",
        "/m~0n": b"8",
        "/ ": b"7",
        "/deep/er/0/x": b'"y"',
    }
    assert Fields(list(told)).read(orjson.dumps(document)) == list(told.values())
    assert Fields(["/foo", "/foo/1", "/foo/2", "/foo/01", "/foo/-", "/deep/er/x"]).read(orjson.dumps(document)) == [
        *(b'["bar","baz"]', b'"baz"', b"", b"", b"", b""),
    ]


def deep(levels: int) -> bytes:
    return b'{"a":1,"b":' + b"[" * levels + b"]" * levels + b"}"


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b' {"a" : 1 }\n', b"1"),
        (b'{"a":1,"a":2}', b"2"),
        (b'{"\\u0061":1}', b"1"),
        (b'{"a":12345678901234567890.10}', b"12345678901234567890.10"),
        (b'{"a":1e999999}', b"1e999999"),
        (b'{"a":"x\xff"}', b""),
        (b'{"a":"\\u0041"}', b"A"),
        (b'{"a":true}', b"true"),
        *[(b'{"a":%b}' % it, b"") for it in (b"null", b"[]", b"{}", b'"\\ud800"')],
        *[(it, b"") for it in (b"", b"x", b"[]", b"3", b'{"a":1', b'{"a":1}{}', b'{"a":NaN}', b'\xef\xbb\xbf{"a":1}')],
        (deep(511), b"1"),
        (deep(512), b""),
        (deep(100_000), b""),
        (b'{"a":' + b"1" * 1_000_000 + b"}", b"1" * 1_000_000),
        (None, b""),
    ],
)
def test_any_payload_can_be_asked(payload: bytes | None, found: bytes) -> None:
    (token,) = Fields(["/a"]).read(payload)
    assert (scalar(token) or b"") == found


@given(st.one_of(st.binary(), st.text().map(str.encode), st.from_regex(rb'\s*[\[{]"?a?"?:?[\[{"0-9a-]*[\]}"]*')))
def test_no_payload_is_refused(payload: bytes) -> None:
    layout = Layout("p", "a={/a}/{/b/0}/k={key}/%Y", "jsonl", time_field="/at")
    path = layout.place(record(payload, key=payload))
    assert path.count("/") == 3
    assert parse_key(layout.key("t", 0, Range(0, 1), path)) is not None


JSON = st.recursive(
    st.sampled_from([None, 0, 1.5, True, "x", ""]),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab0"), inner, max_size=3)),
)


@given(JSON, st.lists(st.sampled_from(["/a", "/b", "/a/b", "/a/0", "/a/0/b", "/b/a/a"]), min_size=1, max_size=3))
def test_the_quick_way_finds_what_the_steps_find(document: object, pointers: list[str]) -> None:
    def naive(pointer: str) -> object:
        found: object = document
        for name in parse_pointer(pointer):
            if isinstance(found, list) and name.isdigit() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                return ...
        return found

    fields = Fields(pointers)
    body = b" " + orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"
    found = fields.read(body)
    assert [orjson.loads(token) if token else ... for token in found] == [naive(pointer) for pointer in pointers]
    assert found == fields._walk(body)


# Times of payloads


@pytest.mark.parametrize(
    ("told", "time_format", "expected"),
    [
        (b'"2026-11-22T01:02:03Z"', "iso8601", "2026-11-22T01:02:03"),
        (b'"2026-11-22t01:02:03.123456789z"', "iso8601", "2026-11-22T01:02:03.123"),
        (b'"2026-11-22 01:02:03+02:00"', "iso8601", "2026-11-21T23:02:03"),
        (b'"20261122T010203"', "iso8601", "2026-11-22T01:02:03"),
        (b'"2026-11-22"', "iso8601", "2026-11-22"),
        (b"1795309323", "unix_s", "2026-11-22T01:02:03"),
        (b'"1795309323"', "unix_s", "2026-11-22T01:02:03"),
        (b"1795309323.9876", "unix_s", "2026-11-22T01:02:03.987"),
        (b"1.795309323e9", "unix_s", "2026-11-22T01:02:03"),
        (b"1795309323123", "unix_ms", "2026-11-22T01:02:03.123"),
        (b"1795309323123999", "unix_us", "2026-11-22T01:02:03.123"),
        (b"1795309323123999999", "unix_ns", "2026-11-22T01:02:03.123"),
        (b'"22/Nov/2026:01:02:03 +0100"', "%d/%b/%Y:%H:%M:%S %z", "2026-11-22T00:02:03"),
        (b'"20261122"', "%Y%m%d", "2026-11-22"),
    ],
)
def test_times_that_can_be_read(told: bytes, time_format: str, expected: str) -> None:
    at = datetime.fromisoformat(expected).replace(tzinfo=UTC)
    assert reader(time_format)(told) == (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


@pytest.mark.parametrize("time_format", ["iso8601", "unix_s", "unix_ms", "unix_us", "unix_ns", "%d.%m.%Y"])
@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"null",
        b"{}",
        b'"yesterday"',
        b'"1e9999"',
        b"9" * 5000,
        b"1e999",
        b'"\xff"',
        b'"nan"',
        b'"0001-01-01T00:00:00+14:00"',
    ],
)
def test_what_is_no_time_is_undated(told: bytes, time_format: str) -> None:
    layout = Layout("p", "dt=%Y", "jsonl", time_field="/at", time_format=time_format)
    assert layout.place(record(b'{"at":%b}' % (told or b"1"))) == f"dt={HIVE_NULL}"
    assert not 31_536_000_000 <= reader(time_format)(told) < 253_402_300_800_000


@pytest.mark.parametrize("wrong", ["", "rfc3339", "unix", "%H:%M", "%Y-%Q", "%"])
def test_what_is_no_format_of_times(wrong: str) -> None:
    with pytest.raises(ValueError, match="is "):
        reader(wrong)


def test_numbers_read_as_no_moment() -> None:
    assert reader("unix_s")(b"-5e1") == -50_000
    assert reader("unix_s")(b"1e99") == NO_MOMENT


# Zones


def test_an_hour_of_a_zone() -> None:
    """In autumn two hours are called 02; a path with %z tells them apart. A path is a function of the instant."""
    layout, exact = (Layout("p", path, "j", time_zone="Europe/Berlin") for path in ("%Y-%m-%d/%H", "%Y-%m-%d/%H%z"))
    noon = int(datetime(2026, 10, 25, tzinfo=UTC).timestamp()) * 1000
    hours = [noon + half * 1_800_000 for half in range(4)]
    assert [layout.bucket(at) for at in hours] == ["2026-10-25/02"] * 4
    assert [exact.bucket(at) for at in hours] == ["2026-10-25/02+0200"] * 2 + ["2026-10-25/02+0100"] * 2
    records = [record(None, timestamp=at, offset=number) for number, at in enumerate([*hours, noon - 1])]
    assert [(group.path, len(group.records)) for group in layout.by_bucket(records)] == [
        ("2026-10-25/02", 4),
        ("2026-10-25/01", 1),
    ]


@given(
    st.integers(31_536_000_000 + 40_000_000_000, 253_402_300_800_000 - 86_400_000 - 1),
    st.sampled_from(["Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe", "Asia/Gaza", "Pacific/Apia"]),
)
def test_zones_with_odd_distances(at: int, zone: str) -> None:
    pattern = "%Y-%m-%dT%H:%M%z"
    found = Layout("p", pattern, "j", time_zone=zone).bucket(at)
    clock, _ = open_zone(zone)
    assert found == datetime.fromtimestamp(at // 1000, clock).strftime(pattern)


def test_the_end_of_time_is_nowhere_an_error() -> None:
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago", "UTC"):
        layout = Layout("p", "%Y", "j", time_zone=zone)
        assert {layout.bucket(at) for at in (31_536_000_000, 253_402_300_799_999)} <= {
            "1970",
            "1971",
            "9999",
            "undated",
        }


@pytest.mark.parametrize(
    "wrong", ["", "Berlin", "europe/berlin/", "../zones", "Europe", "zone.tab", "leapseconds", "/etc/localtime"]
)
def test_what_is_no_zone(wrong: str) -> None:
    with pytest.raises(ValueError, match="no zone's name"):
        open_zone(wrong)


def test_fields_of_the_time_are_strftimes() -> None:
    for day in range(0, 800, 7):
        at = datetime(2025, 12, 28, 3, 4, 5, tzinfo=UTC) + timedelta(days=day)
        for letter, write in DIRECTIVES.items():
            assert write(at) == at.strftime(f"%{letter}"), letter
    newfoundland, _ = open_zone("America/St_Johns")
    assert DIRECTIVES["z"](datetime(2026, 1, 1, tzinfo=newfoundland)) == "-0330"


# Templates


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("country={/address/country}/dt=%F", "country=de/dt=2026-11-21"),
        ("%Y/{key}/x-{/n}-y", "2026/%5Fk%2F1/x-1.50-y"),
        ("key={key}", "key=_k%2F1"),
        ("{topic}/partition={partition}/no={/nothing}", "{topic}/partition={partition}/no=__HIVE_DEFAULT_PARTITION__"),
        ("week=%G-W%V/{/a~1b}", "week=2026-W47/true"),
    ],
)
def test_paths_of_values(path: str, expected: str) -> None:
    value = b'{"address":{"country":"de"},"n":1.50,"a/b":true}'
    assert Layout("p", path, "j").place(record(value, key=b"_k/1")) == expected


def test_topic_and_partition_are_filled_in() -> None:
    layout = Layout("p", "{topic}/part={partition}/k={key}", "j")
    path = layout.place(record(None, key=b"{topic}"))
    name = "t/part=3/k=%7Btopic%7D"
    assert layout.key("t", 3, Range(0, 1), path).startswith(f"p/t/{name}/t-00003-")
    assert layout.payload_stem("p", "t", 3, path) == f"p/_payloads/t/{name}/t-00003-"


def test_what_is_missing_has_hives_name() -> None:
    layout = Layout("p", "c={/c}/{key}/dt=%Y/%m", "j")
    assert layout.undated == f"c={HIVE_NULL}/{HIVE_NULL}/dt={HIVE_NULL}/undated"
    assert layout.place(record({"c": "de"}, timestamp=-1)) == f"c=de/{HIVE_NULL}/dt={HIVE_NULL}/undated"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("a={/a", "{ without }"),
        ("a=/a}", "} without {"),
        ("{{key}}", "single braces"),
        ("{value}", "neither {key}"),
        ("{/a~}", "JSON pointer"),
        ("{key}{/a}", "a folder holds one"),
        ("{key}-%Y", "no fields of the time beside it"),
        ("{topic}{key}", "two {…} in a folder"),
        ("plain", "write none for flat"),
        ("_x={key}", "beginning with _"),
        ("a\\b=%Y", "a letter that names had better not have"),
        ("%Q", "has %Q, which is not one of"),
    ],
)
def test_templates_that_are_refused(path: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        parse_template(path)


def test_every_setting_of_names_is_in_the_fingerprint() -> None:
    layouts = [
        Layout("p", "%Y", "j"),
        Layout("p", "%Y", "j", time_zone="Europe/Berlin"),
        Layout("p", "%Y", "j", time_zone="Europe/Paris"),
        Layout("p", "%Y", "j", time_field="/a"),
        Layout("p", "%Y", "j", time_field="/b"),
        Layout("p", "%Y", "j", time_field="/a", time_format="unix_s"),
        Layout("p", "{/a}/%Y", "j"),
    ]
    assert len({layout.fingerprint for layout in layouts}) == len(layouts)
    default = Layout("", "dt=%Y-%m-%d/hour=%H", "jsonl.zst")
    assert default.fingerprint == "0a8519b81165", "changing it stops the rolling upgrade of everybody"


def test_keys_are_within_what_s3_takes() -> None:
    layout = Layout("p" * 100, "a={/a}/b={/b}/%A-%B/%Y", "index.jsonl.zst")
    longest = layout.longest_key("t" * 200)
    assert longest < MOST_KEY_BYTES
    worst = record({"a": "ü" * 500, "b": "x" * 500}, timestamp=1_790_726_400_000)
    key = layout.key("t" * 200, 7, Range(5, 6), layout.place(worst))
    assert 600 < len(key.encode()) <= longest


# However it is fetched


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"", None]), st.integers(-1, 3), st.integers(0, 2)), min_size=1),
    st.lists(st.integers(1, 8), min_size=1),
    st.sampled_from(["c={/c}/hour=%H", "k={key}", "{/c}/{key}/%Y", "at=%H"]),
    st.sampled_from(["", "/t"]),
)
def test_names_and_contents_do_not_depend_on_slices(
    rows: list[tuple[bytes | None, int, int]], sizes: list[int], path: str, time_field: str
) -> None:
    time_field = time_field if "%" in path else ""
    layout = Layout("p", path, "j", time_field=time_field, time_format="unix_s")
    records = [
        record({"c": c, "t": AT // 1000 + hour * 3600}, key=key, timestamp=AT + hour * 3_600_000, offset=number)
        for number, (key, hour, c) in enumerate(rows)
    ]
    naive: dict[str, list[int]] = {}
    for each in records:
        naive.setdefault(Layout("p", path, "j", time_field=time_field, time_format="unix_s").place(each), []).append(
            each.offset
        )
    found: dict[str, list[int]] = {}
    at, turn = 0, 0
    while at < len(records):
        some = records[at : at + sizes[turn % len(sizes)]]
        at, turn = at + len(some), turn + 1
        for group in layout.by_bucket(some):
            found.setdefault(group.path, []).extend(one.offset for one in group.records)
            times = [one.timestamp for one in group.records]
            assert (group.first_timestamp, group.last_timestamp) == (min(times), max(times))
    assert found == naive


def test_many_values_stay_bounded() -> None:
    layout = Layout("p", "k={key}", "j")
    for number in range(10_500):
        layout.place(record(None, key=b"%d" % number))
    layout.place(record(None, key=b"x" * 10_000))
    assert len(layout._paths) < 10_000
