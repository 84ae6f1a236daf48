"""Difference of means on statistics small enough to work out on paper (real models: test_extraction)."""

from __future__ import annotations

import pytest
import torch
from steerkit_plugins.fitters.dom import DifferenceOfMeans

from steerkit.data.windows import WindowStatistics, groups_of
from steerkit.errors import SteerkitError

LABELS = ("b",)
GROUPS = groups_of(LABELS)


def statistics(sums: dict[str, tuple[float, float]], counts: dict[str, tuple[int, int]]) -> WindowStatistics:
    """One layer, one offset, H = 1, from each group's (trace, span) sum and count."""
    table = torch.tensor([[sums.get(g, (0, 0))[w] for g in GROUPS] for w in (0, 1)], dtype=torch.float64)
    number = torch.tensor([[counts.get(g, (0, 0))[w] for g in GROUPS] for w in (0, 1)], dtype=torch.float64)
    return WindowStatistics(
        range=(-1, -1),
        window=(-1, -1),
        layers=(3,),
        labels=LABELS,
        sums=table[:, :, None, None, None],
        counts=number,
        dropped={},
        tokens=torch.tensor([[9.0]], dtype=torch.float64),
        norms=torch.ones(1),
        traces=3,
    )


# Trace 1: b at 1, other at 2 and 6. Trace 2: b at 5. Trace 3: other at 8.
PAPER = statistics(
    {"all": (3 + 5 + 8, 22), "b": (1 + 5, 6), "rest:b": (4 + 8, 16), "with:b": (3 + 5, 14)},
    {"all": (3, 5), "b": (2, 2), "rest:b": (2, 3), "with:b": (2, 4)},
)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 6 / 2 - 16 / 3),
        ({"weighting": "span"}, 6 / 2 - 22 / 5),
        ({"reference": "rest"}, 6 / 2 - 12 / 2),
        ({"reference": "rest", "weighting": "span"}, 6 / 2 - 16 / 3),
        ({"reference": "tokens"}, 6 / 2 - 9 / 3),
        ({"positives": "traces"}, 8 / 2 - 16 / 3),
        ({"positives": "traces", "weighting": "span"}, 14 / 4 - 22 / 5),
    ],
)
def test_on_paper(options: dict[str, str], expected: float) -> None:
    found = DifferenceOfMeans(label="b", window=(-1, -1), **options).fit(PAPER)
    assert list(found) == [3]
    assert found[3].tolist() == pytest.approx([expected])


def test_an_empty_positive_set_is_said_in_words() -> None:
    empty = statistics({"all": (3, 3)}, {"all": (1, 1)})
    with pytest.raises(SteerkitError, match=r"no span of group 'b' has a whole window .* in any of 3 traces; use more"):
        DifferenceOfMeans(label="b", window=(-1, -1)).fit(empty)


def test_the_plugin_remembers_its_options() -> None:
    one = DifferenceOfMeans(label="backtracking", window=(-13, -8), weighting="span")
    other = one.replace(label="deduction")
    assert (other.config.label, other.config.weighting, one.config.label) == ("deduction", "span", "backtracking")
