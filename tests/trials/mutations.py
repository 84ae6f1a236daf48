"""Files nearly right: bytes, numbers and values of a good one replaced by what breaks readers (for hypothesis)."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import yaml
from hypothesis import strategies as st

WORDS = (
    "../../x",
    "/etc/passwd",
    "a\0b",
    "\ud800",
    "\u202e",
    "\x1b[2J",
    "<script>",
    "1e999",
    "-1",
    "²",
    "9" * 5000,
    "",
    "!!python/object/apply:os.system [id]",
    "name",
    "null",
    "x" * 3000,
    "\u2028",
    "human:../x",
    "[" * 2000,
    "{}",
)
TOKENS = [
    *(word.encode("utf-8", "surrogatepass") for word in WORDS),
    b"\xff\xfe",
    b"&a [*a]",
    b"*a",
    b"<<: ",
    b"- ",
    b": ",
    b"!!binary ",
    b"!!set {a}",
    b"\r",
    b"\t",
    b"\n",
    b'"',
    b"'",
    b"\\ud800",
    b"[[[[",
    b"}}",
    b"\0" * 64,
]
SIZES = [
    struct.pack(code, value)
    for code in ("<I", "<Q")
    for value in (0, 1, 2, 8, 9, 0x7FFFFFFF, 0xFFFFFFFF, *((2**31 + 1, 2**40, 2**63, 2**64 - 1) if "Q" in code else ()))
]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**31, -(2**63), 10**30, 10**400]),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=12),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=6), inner, max_size=3)
    ),
)


@st.composite
def mutated(draw: st.DrawFn, corpus: list[bytes]) -> bytes:
    """A file of the corpus with a few of its bytes cut, doubled, flipped, or replaced by nasty ones."""
    data = bytearray(draw(st.sampled_from(corpus)))
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 16))
        match draw(st.sampled_from(["cut", "end", "double", "flip", "token", "size"])):
            case "cut":
                del data[at : at + length]
            case "end":
                del data[at:]
            case "double":
                data[at:at] = data[at : at + length] * draw(st.integers(1, 3))
            case "flip" if at < len(data):
                data[at] ^= draw(st.integers(1, 255))
            case "token":
                data[at : at + draw(st.integers(0, 3))] = draw(st.sampled_from(TOKENS))
            case "size":
                size = draw(st.sampled_from(SIZES))
                data[at : at + len(size)] = size
    return bytes(data)


@st.composite
def replaced(draw: st.DrawFn, corpus: list[bytes], suffix: str) -> bytes:
    """A file of the corpus with some of its values replaced, left out or put elsewhere; still well-formed."""
    rows = _parsed(draw(st.sampled_from(corpus)), suffix)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(rows))
        holder, key = draw(st.sampled_from(places))
        if draw(st.integers(0, 4)) == 0:
            del holder[key]
            rows = rows or [None]
        else:
            holder[key] = draw(values)
    if suffix == ".yaml":
        return json.dumps(rows[0]).encode()  # JSON is YAML, but for halves of surrogate pairs and long keys
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@st.composite
def headed(draw: st.DrawFn, corpus: list[bytes]) -> bytes:
    """A safetensors file with values of its JSON header replaced."""
    data = draw(st.sampled_from(corpus))
    (size,) = struct.unpack("<Q", data[:8])
    head = [json.loads(data[8 : 8 + size])]
    inner = {k: [json.loads(v)] for k, v in head[0]["__metadata__"].items() if v[:1] in "[{"}
    places = [*_places(head), *(place for value in inner.values() for place in _places(value))]
    for holder, key in draw(st.lists(st.sampled_from(places), min_size=1, max_size=2)):
        if key in (range(len(holder)) if isinstance(holder, list) else holder):
            holder[key] = draw(values)
    if head and isinstance(head[0], dict) and isinstance(head[0].get("__metadata__"), dict):
        head[0]["__metadata__"] |= {k: json.dumps(v[0]) for k, v in inner.items()}
    text = json.dumps(head[0]).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def _parsed(data: bytes, suffix: str) -> list[Any]:
    if suffix == ".yaml":
        try:
            return list(json.loads(json.dumps([yaml.safe_load(data)])))
        except (yaml.YAMLError, ValueError):  # those of the corpus that are hostile already
            return [{"extends": "backtracking", "name": "mine"}]
    try:
        return [json.loads(line) for line in data.splitlines()]
    except ValueError:
        return [{"sections": [{"label": "a", "text": data.decode()}]}]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])
