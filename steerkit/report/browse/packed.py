"""Features as JSON, small: each token's text stands once, values are thousandths of their feature's largest.

The contexts stand in parts of their own, which the page reads when a feature of theirs is opened.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steerkit.errors import UNSAFE
from steerkit.report.browse.features import Column, Feature, Shown, Value

STEPS = 1000
"""Of a feature's largest |value|: three digits."""
TOLD = 12
"""Of the tokens that a feature is strongest at, for the list and the search."""
PART = 50
"""Features whose contexts stand together."""


def packed(features: Sequence[Feature], columns: Sequence[Column]) -> tuple[dict[str, Any], list[Any]]:
    """JSON of features, and of their contexts in parts of `PART` features.

    Returns:
        ``tokens``: texts, the commonest first, so that their numbers are short. ``features``: lists of name, kind,
        label, explanation, values by column, numbers of the strongest tokens, largest |value|. A context is a list of
        ``at``, token numbers and values (joined by blanks), and facts.
    """
    counts = Counter(token for feature in features for shown in feature.contexts for token in shown.tokens)
    tokens = [token for token, _ in counts.most_common()]
    numbers = {token: str(number) for number, token in enumerate(tokens)}
    head = {
        "columns": [[c.key, c.title, c.about, c.digits, c.better] for c in columns],
        "tokens": [_safe(token) for token in tokens],
        "features": [_feature(feature, columns, numbers) for feature in features],
        "part": PART,
    }
    contexts = [[_context(shown, f.largest, numbers) for shown in f.contexts] for f in features]
    return head, [contexts[i : i + PART] for i in range(0, len(contexts), PART)]


def _feature(feature: Feature, columns: Sequence[Column], numbers: Mapping[str, str]) -> list[Any]:
    return [
        _safe(feature.name),
        _safe(feature.kind),
        _safe(feature.label),
        _safe(feature.explanation),
        [_value(feature.values.get(column.key), column.digits) for column in columns],
        [int(numbers[token]) for token in feature.strongest[:TOLD]],
        float(f"{feature.largest:.6g}"),
    ]


def _context(shown: Shown, largest: float, numbers: Mapping[str, str]) -> list[Any]:
    steps = np.rint(np.array(shown.values) * (STEPS / largest if largest else 0.0)).astype(int).tolist()
    return [
        shown.at,
        " ".join(numbers[token] for token in shown.tokens),
        " ".join(map(str, steps)),
        _safe(shown.facts),
    ]


def _value(value: Value, digits: int) -> Value:
    """A value as JSON has it: None for what is no number."""
    if isinstance(value, str):
        return _safe(value)
    if value is None or not math.isfinite(value):
        return None
    return round(float(value), digits + 2)


def _safe(text: str) -> str:
    """A text without control characters, those among them that turn the direction of what follows; breaks stay."""
    return UNSAFE.sub(lambda found: "\r" if found[0] == "\r" else "\ufffd", text)
