"""Tagged annotations, found again in the original trace.

An LLM annotator's answer, `["label"] text ["end-section"] ...`, repeats the trace unfaithfully: text is dropped
or altered, labels are invented. Spans are located in the ORIGINAL text, in order; what can't be is counted.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

TAG = re.compile(r'\[\s*"(?P<label>[^"\]\n]{1,80})"\s*\]')
END = "end-section"


@dataclass(frozen=True)
class Aligned:
    """An annotation's spans in the original text.

    Attributes:
        spans: (start, end, label) characters of the original, in order, not overlapping.
        coverage: share of the text's non-space characters inside located spans.
        unlocated: spans whose text can't be found in order.
        rejected: invented label → spans with it.
        empty: spans without text.
    """

    spans: list[tuple[int, int, str]]
    coverage: float
    unlocated: int
    rejected: Counter[str] = field(default_factory=Counter)
    empty: int = 0


def parse_tagged(annotated: str) -> list[tuple[str, str]]:
    """(label, text) of each tagged section. A section ends at its end tag, or where the next one begins."""
    tags = list(TAG.finditer(annotated))
    found = []
    for tag, following in zip(tags, [*tags[1:], None], strict=True):
        if tag["label"] != END:
            found.append(
                (
                    tag["label"].strip(),
                    annotated[tag.end() : following.start() if following else None].strip(),
                )
            )
    return found


def align(text: str, sections: Sequence[tuple[str, str]], labels: Collection[str]) -> Aligned:
    """Find annotated sections in the text they were made of, in order; only whitespace may differ.

    Of all ways to do so, the one that locates the most characters (then, the earliest places): a sentence whose
    own place was altered is not found in a copy of it far ahead if that would lose those in between.
    """
    places = _locate(text, [section for _, section in sections])
    spans: list[tuple[int, int, str]] = []
    rejected: Counter[str] = Counter()
    unlocated = empty = covered = 0
    for (label, section), place in zip(sections, places, strict=True):
        if not section.strip():
            empty += 1
        elif place is None:
            unlocated += 1
        elif label not in labels:
            rejected[label] += 1
        else:
            spans.append((*place, label))
            covered += _size(text[slice(*place)])
    total = _size(text)
    return Aligned(spans, covered / total if total else 0.0, unlocated, rejected, empty)


def _size(text: str) -> int:
    return len("".join(text.split()))


def _locate(text: str, sections: Sequence[str]) -> list[tuple[int, int] | None]:
    """(start, end) of each section, in order and not overlapping, or None; the most characters in all."""
    words = [word.span() for word in re.finditer(r"\S+", text)]
    plain = " ".join(text[start:end] for start, end in words)  # all whitespace as one space ...
    origin = [i for start, end in words for i in range(start, end + 1)]  # ... and where its characters stand in `text`
    # The best chains of places so far: (end, characters, chain), both rising; a chain is (before, section, start, end).
    best: list[tuple[int, int, Any]] = [(0, 0, None)]
    for index, section in enumerate(sections):
        size, ends = _size(section), [end for end, _, _ in best]
        longer = []
        for start, end in _occurrences(plain, " ".join(section.split())):
            _, characters, chain = best[bisect_right(ends, start) - 1]
            longer.append((end, characters + size, (chain, index, start, end)))
        if not longer:
            continue
        kept: list[tuple[int, int, Any]] = []
        for state in sorted([*best, *longer], key=lambda s: (s[0], -s[1])):
            if not kept or state[1] > kept[-1][1]:
                kept.append(state)
        best = kept
    places: list[tuple[int, int] | None] = [None] * len(sections)
    chain = best[-1][2]
    while chain is not None:
        chain, index, start, end = chain
        places[index] = (origin[start], origin[end - 1] + 1)
    return places


def _occurrences(text: str, part: str) -> Iterator[tuple[int, int]]:
    """(start, end) of every place of a part in a text."""
    at = text.find(part) if part else -1
    while at >= 0:
        yield at, at + len(part)
        at = text.find(part, at + 1)
