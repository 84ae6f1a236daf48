"""JSON of strangers: whatever is wrong with it is a ValueError, also what Python's own reader lets through."""

from __future__ import annotations

import json
from typing import Any


class Number(str):
    """A number as its file writes it: 2, 2.0, 2.50 and 1e5 stay apart."""

    __slots__ = ()


def loads(text: str | bytes, *, keep_numbers: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        keep_numbers: give numbers as `Number`, the characters that stand in the text.

    Raises:
        ValueError: it is no JSON, nests too deeply, or holds half of a surrogate pair, which no file can be written of.
    """
    hooks: dict[str, Any] = {"parse_int": _integer, "parse_float": Number} if keep_numbers else {}
    try:
        value = json.loads(text, **hooks)
        if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # type: ignore[operator]
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair, which is no text") from error
    return value


def _integer(text: str) -> Number:
    int(text)  # refuses one of more than 4,300 digits
    return Number(text)
