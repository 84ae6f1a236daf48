"""Pseudo-labels, weights and folds: what they keep, and that one pass sums them as separate passes do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from steerkit_plugins.extractors.offset_window import OffsetWindow
from steerkit_plugins.fitters.dom import DifferenceOfMeans
from steerkit_plugins.fitters.lda import DiagonalLDA
from tiny import LABELS, build, random_items, tiny

from steerkit.data.draws import KINDS, Draws, TraceSpans, draw, draw_name
from steerkit.data.statistics import ActivationStatistics
from steerkit.data.trace import Item
from steerkit.errors import SteerkitError
from steerkit.extraction.drawn_sums import spans_of
from steerkit.extraction.extract import extract

LABEL, WINDOW = LABELS[0], (-4, -1)
NAMES = [draw_name(kind, number) for kind in KINDS for number in range(4)]
EXTRACTORS = {
    "each": (OffsetWindow(windows=(WINDOW,), sweep=(-8, 3)), WINDOW),
    "once": (OffsetWindow(windows=(WINDOW,), overlap="once"), WINDOW),
    "own tokens": (OffsetWindow(windows=((0, -1),)), (0, -1)),
}
FITTERS = [
    lambda window: DifferenceOfMeans(label=LABEL, window=window),
    lambda window: DifferenceOfMeans(label=LABEL, window=window, positives="traces", weighting="span"),
    lambda window: DifferenceOfMeans(label=LABEL, window=window, reference="rest"),
    lambda window: DifferenceOfMeans(label=LABEL, window=window, reference="tokens"),
    lambda window: DiagonalLDA(label=LABEL, window=window),
]


@pytest.fixture(scope="module")
def many() -> list[Item]:
    return random_items(24, seed=3)


def drawn(items: list[Item], how: str, **more: Any) -> Draws:
    extractor, window = EXTRACTORS[how]
    spans = spans_of(items, extractor, LABEL, window)
    return draw(spans, more.pop("names", NAMES), label=LABEL, window=window, **{"folds": 5, "seed": 1, **more})


def relabelled(items: list[Item], draws: Draws, name: str) -> list[Item]:
    """The items, their spans labelled as a draw has it."""
    row = draws.names.index(name)
    return [
        Item(
            item.trace,
            tuple(
                replace(span, label=LABEL if positive else "none")
                for span, positive in zip(item.spans, draws.of[item.trace.id].positive[row], strict=True)
            ),
            item.ids,
        )
        for item in items
    ]


def counts(items: list[Item], how: str) -> list[tuple[int, int]]:
    extractor, window = EXTRACTORS[how]
    spans = spans_of(items, extractor, LABEL, window)
    return [(int(s.positive.sum()), int((s.positive & s.eligible).sum())) for s in spans]


def test_within_a_trace_every_count_is_kept(many) -> None:
    draws = drawn(many, "each")
    assert sum(n for _, n in counts(many, "each")) > 10
    for number in range(4):
        own = relabelled(many, draws, draw_name("within", number))
        assert counts(own, "each") == counts(many, "each")
        assert own != many


def test_over_all_traces_the_total_is_kept_and_the_traces_are_not(many) -> None:
    draws = drawn(many, "each")
    own = [counts(relabelled(many, draws, draw_name("over", number)), "each") for number in range(4)]
    assert {sum(n for _, n in each) for each in own} == {sum(n for _, n in counts(many, "each"))}
    assert all(each != counts(many, "each") for each in own)


def test_elsewhere_are_windows_that_the_label_does_not_follow(many) -> None:
    extractor, window = EXTRACTORS["each"]
    draws = drawn(many, "each")
    for number in range(4):
        row = draws.names.index(draw_name("elsewhere", number))
        for each in spans_of(many, extractor, LABEL, window):
            chosen = draws.of[each.trace].positive[row] & each.eligible
            rest = int((each.eligible & ~each.positive).sum())
            assert not (chosen & each.positive).any()
            assert chosen.sum() == min(int((each.eligible & each.positive).sum()), rest)


def test_the_first_draws_are_the_same_however_many_there_are(many) -> None:
    few = drawn(many, "each", names=[n for n in NAMES if n.endswith("01")], folds=0)
    all_of_them = drawn(many, "each")
    reverse = drawn(many[::-1], "each")
    for item in many:
        own, of, other = (d.of[item.trace.id] for d in (few, all_of_them, reverse))
        assert np.array_equal(own.positive, of.positive[[d.endswith("01") for d in all_of_them.names]])
        assert np.array_equal(own.weights, of.weights[[1]])
        assert np.array_equal(of.positive, other.positive) and of.fold == other.fold
    assert few.folds == 0


def test_folds_share_out_the_traces_that_have_the_label(many) -> None:
    draws, spans = drawn(many, "each"), spans_of(many, *EXTRACTORS["each"][:1], LABEL, WINDOW)
    having = [s.trace for s in spans if (s.positive & s.eligible).any()]
    for traces in (having, [s.trace for s in spans]):
        sizes = np.bincount([draws.of[trace].fold for trace in traces], minlength=5)
        assert sizes.max() - sizes.min() <= 1
    assert drawn(many[:3], "each", folds=20).folds == 3


def test_every_place_is_drawn_equally_often() -> None:
    names = [draw_name("within", number) for number in range(4000)]
    spans = [TraceSpans("t", np.ones(5, bool), np.array([1, 0, 0, 1, 0], bool))]
    found = draw(spans, names, label="x", window=(-1, -1)).of["t"].positive
    assert found.sum(1).tolist() == [2] * 4000
    assert np.allclose(found.mean(0), 0.4, atol=4 * np.sqrt(0.24 / 4000))
    assert np.allclose((found[:, 0] & found[:, 1]).mean(), 0.1, atol=4 * np.sqrt(0.09 / 4000))


@pytest.mark.parametrize("how", EXTRACTORS)
@pytest.mark.parametrize("tokens", [1, 10_000])
def test_one_pass_equals_separate_passes(many, how: str, tokens: int) -> None:
    """In float64: other labels make other batches, whose float32 forwards differ."""
    many, names = many[:12], [draw_name(kind, number) for kind in KINDS for number in (0, 3)]
    lm, (extractor, window), draws = build("llama"), EXTRACTORS[how], drawn(many, how, names=names)
    lm.model.double()
    options: dict[str, Any] = {"needs": {"means", "squares"}, "batch_tokens": tokens}
    together = extract(lm, many, extractor, LABELS, draws=draws, **options)
    main, sums = together.at(window), together.drawn
    assert sums is not None
    for name in draws.names:
        alone = extract(lm, relabelled(many, draws, name), extractor, [LABEL], **options).at(window)
        own = sums.labelled(name, main)
        for make in FITTERS:
            fitter = make(window)
            for layer, expected in fitter.fit(alone).items():
                scale = alone.mean("all").abs().max()
                torch.testing.assert_close(fitter.fit(own)[layer] / scale, expected / scale, rtol=1e-12, atol=1e-12)
        assert own.count(LABEL, "span") == alone.count(LABEL, "span") and own.count(LABEL) == alone.count(LABEL)


@pytest.mark.parametrize("how", EXTRACTORS)
def test_folds_equal_separate_passes_and_add_up(many, how: str) -> None:
    lm, (extractor, window), draws = build("llama"), EXTRACTORS[how], drawn(many, how)
    lm.model.double()
    together = extract(lm, many, extractor, LABELS, draws=draws, needs={"means", "squares"})
    main, sums = together.at(window), together.drawn
    assert sums is not None and sums.folds == 5
    for chosen in ([0], [1, 3], [4, 3, 2, 1, 0]):
        items = [item for item in many if draws.of[item.trace.id].fold in chosen]
        alone = extract(lm, items, extractor, [LABEL], needs={"means", "squares"}).at(window)
        own = sums.of_folds(chosen, main)
        assert own.traces == alone.traces and torch.equal(own.counts, alone.counts)
        for group in ("all", LABEL, f"rest:{LABEL}", f"with:{LABEL}"):
            for weighting in ("trace", "span"):
                for moment in ("mean", "mean_square"):
                    value, expected = (getattr(s, moment)(group, weighting) for s in (own, alone))
                    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(own.tokens_mean(), alone.tokens_mean(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(own.residual_norm(), alone.residual_norm(), rtol=1e-7, atol=1e-7)


def test_a_weighted_sum_is_that_of_the_windows(many) -> None:
    """Against HF's hidden states, one trace at a time."""
    lm, (extractor, window), draws = tiny("llama"), EXTRACTORS["each"], drawn(many, "each")
    together = extract(lm, many, extractor, LABELS, draws=draws)
    assert together.drawn is not None
    windows, weights = [], []
    for item in many:
        with torch.inference_mode():
            states = lm.model(torch.tensor([item.ids]), output_hidden_states=True).hidden_states[2][0].double()
        places = extractor.positions(item.trace, item.spans, window)
        for span, place in enumerate(places):
            if place[0] >= 0:
                windows.append(states[torch.from_numpy(place)].mean(0))
                weights.append(draws.of[item.trace.id].weights[2, span])
    stacked, g = torch.stack(windows), torch.tensor(weights)
    expected = (g[:, None] * (stacked - stacked.mean(0))).sum(0)
    found = together.drawn.weighted_mean(draw_name("covariance", 2), together.at(window))[1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", EXTRACTORS)
def test_traces_without_spans_add_nothing_to_draws(many, how: str) -> None:
    """A judge may label none of a batch's traces, as when a contrast keeps few pairs."""
    extractor, _ = EXTRACTORS[how]
    bare = [Item(replace(item.trace, id=f"bare{item.trace.id}"), (), item.ids) for item in many[:6]]
    lm, draws = build("llama"), drawn(many + bare, how)
    lm.model.double()
    parts = [
        extract(lm, part, extractor, LABELS, draws=draws.only(item.trace.id for item in part)).drawn
        for part in (many, bare)
    ]
    both = extract(lm, many + bare, extractor, LABELS, draws=draws).drawn
    assert both is not None and parts[0] is not None and parts[1] is not None
    assert not parts[1].sums.any() and not parts[1].counts.any()
    for name in ("sums", "counts"):
        torch.testing.assert_close(getattr(both, name), getattr(parts[0], name), rtol=1e-9, atol=1e-9)


def test_draws_change_nothing_else(many, tmp_path) -> None:
    lm, (extractor, _) = tiny("llama"), EXTRACTORS["each"]
    for name, draws in (("without", None), ("with", drawn(many, "each"))):
        found = extract(lm, many, extractor, LABELS, draws=draws, needs={"means", "squares"})
        replace(found, drawn=None).save(tmp_path / name)
    assert (tmp_path / "with").read_bytes() == (tmp_path / "without").read_bytes()


def test_pieces_add_up_and_come_back_from_disk(many, tmp_path) -> None:
    lm, (extractor, window), draws = tiny("llama"), EXTRACTORS["each"], drawn(many, "each")
    whole = extract(lm, many, extractor, LABELS, draws=draws)
    parts = []
    for number, items in enumerate((many[:10], many[10:])):
        own = extract(lm, items, extractor, LABELS, draws=draws.only(item.trace.id for item in items))
        own.save(tmp_path / f"{number}")
        parts.append(ActivationStatistics.load(tmp_path / f"{number}"))
    added = parts[0] + parts[1]
    assert added.drawn is not None and whole.drawn is not None
    torch.testing.assert_close(added.drawn.sums, whole.drawn.sums, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(added.drawn.counts, whole.drawn.counts, rtol=1e-12, atol=1e-12)
    fitter = DifferenceOfMeans(label=LABEL, window=window)
    own, other = (fitter.fit(s.drawn.labelled("over-02", s.at(window))) for s in (added, whole))
    for layer in own:
        torch.testing.assert_close(own[layer], other[layer], rtol=1e-9, atol=1e-12)


def test_an_interrupted_extraction_goes_on_with_its_draws(many, monkeypatch: pytest.MonkeyPatch) -> None:
    """From every part that was handed over: what comes later is not added to a part."""
    lm, (extractor, window), draws = build("llama"), EXTRACTORS["each"], drawn(many, "each")
    lm.model.double()  # what is left makes other batches
    options: dict[str, Any] = {"needs": {"means", "squares"}, "batch_tokens": 200, "draws": draws}
    parts: list[tuple[ActivationStatistics, list[str]]] = []
    monkeypatch.setattr("steerkit.extraction.extract.PART_SHARE", 1e9)  # hands over after every group

    def keep(so_far: ActivationStatistics, traces: list[str]) -> None:
        parts.append((so_far, list(traces)))

    whole = extract(lm, many, extractor, LABELS, on_part=keep, **options)
    assert len(parts) > 2 and whole.drawn is not None
    for before, done in parts:
        resumed = extract(lm, many, extractor, LABELS, before=before, skip=done, **options)
        assert resumed.drawn is not None
        for name, values in whole.drawn.tensors().items():
            torch.testing.assert_close(resumed.drawn.tensors()[name], values, rtol=1e-12, atol=1e-9)
        assert resumed.at(window).count(LABEL, "span") == whole.at(window).count(LABEL, "span")


def test_adding_in_place_gives_the_sum_and_changes_one_side_alone(many, tmp_path) -> None:
    lm, (extractor, _), draws = tiny("llama"), EXTRACTORS["each"], drawn(many, "each")
    for number, items in enumerate((many[:10], many[10:])):
        own = draws.only(item.trace.id for item in items)
        extract(lm, items, extractor, LABELS, draws=own, needs={"means", "squares"}).save(tmp_path / f"{number}")
    before = [(tmp_path / f"{number}").read_bytes() for number in range(2)]
    one, other = (ActivationStatistics.load(tmp_path / f"{number}") for number in range(2))
    (one + other).save(tmp_path / "sum")
    one.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == before[0]
    added = one
    added += other
    added.save(tmp_path / "again")
    other.save(tmp_path / "other")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "sum").read_bytes() != before[0]
    assert [(tmp_path / name).read_bytes() for name in ("0", "1", "other")] == [*before, before[1]]
    assert other.drawn is not None
    with pytest.raises(SteerkitError, match="sums of different draws can't be added"):
        added += replace(other, drawn=replace(other.drawn, names=other.drawn.names[1:]))
    added.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "sum").read_bytes()


def test_what_is_not_there_is_told(many, tmp_path) -> None:
    found = extract(tiny("llama"), many, EXTRACTORS["each"][0], LABELS, draws=drawn(many, "each"))
    assert found.drawn is not None
    main = found.at(WINDOW)
    with pytest.raises(SteerkitError, match="the statistics have no draw 'within-09'; did you mean 'within-0"):
        found.drawn.labelled("within-09", main)
    with pytest.raises(SteerkitError, match="no draw 'over-00'"):
        found.drawn.weighted_mean("over-00", main)
    with pytest.raises(SteerkitError, match=r"'withn-00' is no draw, which is called KIND-00.* did you mean 'within'"):
        draw([], ["withn-00"], label=LABEL, window=WINDOW)
    with pytest.raises(SteerkitError, match="sums of different draws can't be added"):
        found.drawn + replace(found.drawn, names=found.drawn.names[1:])
    cut = replace(found, drawn=replace(found.drawn, counts=found.drawn.counts[:-1]))
    cut.save(tmp_path / "d")
    with pytest.raises(SteerkitError, match=r"d: not a statistics file \(counts has the shape .* delete it and run"):
        ActivationStatistics.load(tmp_path / "d")
