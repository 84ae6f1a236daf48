"""Tagged annotations, found again in the original trace.

An LLM annotator's answer, `["label"] text ["end-section"] ...`, repeats the trace unfaithfully: text is dropped
or altered, labels are invented. Spans are located in the ORIGINAL text, in order; what can't be is counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from steerkit.data.locating import locate, size_of

TAG = re.compile(r'\[\s*"(?P<label>[^"\]\n]{1,80})"\s*\]')
END = "end-section"
_TORN = re.compile(r'\[\s*"[^"\]\n]{0,80}"?\s*\Z')


@dataclass(frozen=True)
class Aligned:
    """An annotation's spans in the original text.

    Attributes:
        spans: (start, end, label) characters of the original, in order, not overlapping.
        coverage: share of the text's non-space characters inside these spans.
        unlocated: sections whose text can't be found in order; `overlapping` and `misplaced` ones among them.
        rejected: invented label → located sections with it.
        empty: sections without text.
        edited: spans that were located with small edits; the others stand in the text as quoted, whitespace aside.
        overlapping: sections whose text stands only where other sections are located.
        misplaced: sections whose text stands elsewhere, out of order.
    """

    spans: list[tuple[int, int, str]]
    coverage: float
    unlocated: int
    rejected: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    edited: int = 0
    overlapping: int = 0
    misplaced: int = 0


def parse_tagged(annotated: str, original: str = "") -> list[tuple[str, str]]:
    """(label, text) of each tagged section. A section ends at its end tag, or where the next one begins.

    Args:
        original: the text that was annotated. What looks like a tag in there is text where it stands in an open
            section (an end tag: where text follows it).
    """
    tags = list(TAG.finditer(annotated))
    own = {match[0] for match in TAG.finditer(original)}
    found: list[tuple[str, str]] = []
    label, begin = "", -1  # the open section
    for tag, following in zip(tags, [*tags, None][1:], strict=True):
        closes = tag["label"] == END
        if begin >= 0 and tag[0] in own:
            rest = annotated[tag.end() : following.start() if following else None]
            if not closes or rest.strip():
                continue
        if begin >= 0:
            found.append((label, annotated[begin : tag.start()].strip()))
        label, begin = ("", -1) if closes else (tag["label"].strip(), tag.end())
    if begin >= 0:
        found.append((label, _TORN.sub("", annotated[begin:]).strip()))
    return found


def align(text: str, sections: Sequence[tuple[str, str]], labels: Collection[str]) -> Aligned:
    """Find annotated sections in the text they were made of, in order; whitespace and small edits may differ.

    A sentence whose own place was altered is not found in a copy of it far ahead if that would lose those in
    between. How much an edit may change, and how places are searched, says `steerkit.data.locating.locate`.
    """
    located = locate(text, [section for _, section in sections])
    spans: list[tuple[int, int, str]] = []
    rejected: Counter[str] = Counter()
    unlocated = empty = covered = edited = 0
    for (label, section), place in zip(sections, located.places, strict=True):
        if not section.strip():
            empty += 1
        elif place is None:
            unlocated += 1
        elif label not in labels:
            rejected[label] += 1
        else:
            spans.append((place.start, place.end, label))
            edited += not place.exact
            covered += size_of(text[place.start : place.end])
    total = size_of(text)
    coverage = covered / total if total else 0.0
    return Aligned(spans, coverage, unlocated, rejected, empty, edited, located.overlapping, located.misplaced)
