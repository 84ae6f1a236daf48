"""Tagged annotations, found again in the original trace.

An LLM annotator's answer, `["label"] text ["end-section"] ...`, repeats the trace unfaithfully: text is dropped
or altered, labels are invented. Spans are located in the ORIGINAL text, in order; what can't be is counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

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
    """Find annotated sections in the text they were made of, in order; only whitespace may differ."""
    spans: list[tuple[int, int, str]] = []
    rejected: Counter[str] = Counter()
    at = unlocated = empty = covered = 0
    for label, section in sections:
        words = section.split()
        if not words:
            empty += 1
            continue
        found = re.compile(r"\s+".join(map(re.escape, words))).search(text, at)
        if found is None:
            unlocated += 1
            continue
        at = found.end()
        if label not in labels:
            rejected[label] += 1
            continue
        spans.append((found.start(), found.end(), label))
        covered += sum(not c.isspace() for c in found.group())
    total = sum(not c.isspace() for c in text)
    return Aligned(spans, covered / total if total else 0.0, unlocated, rejected, empty)
