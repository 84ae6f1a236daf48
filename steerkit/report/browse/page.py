"""The page: one file that needs nothing else, and runs no script but its own."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from steerkit.errors import InputError
from steerkit.report.browse.features import Column, Feature, problems
from steerkit.report.browse.packed import packed
from steerkit.report.page import environment, write_html

TEMPLATE, SCRIPT = "browse.html.j2", "browse.js"


def write_browser(
    path: Path, *, title: str, about: str, features: Iterable[Feature], columns: Sequence[Column]
) -> None:
    """Write a page to search, sort and read features, whole or not at all. ``PATH#NAME`` opens one of them.

    Args:
        about: what they are and how they were found, in a sentence or two.
        features: in the order in which they are listed at first.

    Raises:
        InputError: all names that are there twice, and values of no column.
        SteerkitError: the file can't be written.
    """
    own = list(features)
    if wrong := list(problems(own, columns)):
        raise InputError(str(path), wrong)
    made = environment()
    script = made.loader.get_source(made, SCRIPT)[0] if made.loader else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    head, parts = packed(own, columns)
    page = made.get_template(TEMPLATE).render(
        title=title, about=about, script=script, digest=digest, data=_embedded(head), parts=map(_embedded, parts)
    )
    write_html(path, page)


def _embedded(value: object) -> str:
    """JSON, compressed, as letters and digits: the contexts of thousands of features are tens of megabytes."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
