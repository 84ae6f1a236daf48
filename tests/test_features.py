"""Features that are 0 nearly everywhere: what is collected and told of them, against all numbers of whole passes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from steerkit_plugins.judges.forms import NotTheForm
from steerkit_plugins.judges.llm_features import CLASSES_FORM, PASSAGES_FORM
from steerkit_plugins.transcoder.feature_collection import Reasoning
from steerkit_plugins.transcoder.feature_passages import Passage, Passages, scores
from steerkit_plugins.transcoder.feature_shares import stratified_share
from steerkit_plugins.transcoder.units import transcoder_groups
from tiny import random_items
from tiny_transcoder import with_transcoder

from steerkit.data.trace import Trace
from steerkit.errors import SteerkitError
from steerkit.models.language_model import LanguageModel
from steerkit.models.units import Unit
from steerkit.units.active import read_active
from steerkit.units.active_aurocs import active_aurocs, column, question
from steerkit.units.active_store import ActiveShard, ActiveStore
from steerkit.units.aurocs import unit_aurocs
from steerkit.units.collected import CollectedUnits, Layout
from steerkit.units.collecting import collect, layout_of
from steerkit.units.detection import halves
from steerkit.units.kept import Kept
from steerkit.units.marks import Marks
from steerkit.units.parts import save_parts
from steerkit.units.regions import REGIONS, regions_of

ITEMS = random_items(7)
U = 48
KEPT = {"top": 5, "sample": 6, "per_trace": 2, "before": 4, "after": 2}
TRACES = [item.trace.id for item in ITEMS]


@cache
def model() -> LanguageModel:
    return with_transcoder("llama", features=12)


@cache
def dense() -> dict[str, np.ndarray]:
    """[T, U] of each trace, by ten lines beside the product: a whole pass of transformers' own model."""
    lm, found = model(), {}
    for item in ITEMS:
        seen: list[torch.Tensor] = []

        def see(module: Any, args: Any, output: Any, seen: list[torch.Tensor] = seen) -> None:
            t = module.transcoder_parts["default"]
            seen.append((args[0][0] @ t.encoder.weight.T + t.encoder.bias).clamp(min=0))

        handles = [m.register_forward_hook(see) for m in lm.model.modules() if hasattr(m, "transcoder_parts")]
        with torch.no_grad():
            lm.model(torch.tensor([item.ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        found[item.trace.id] = torch.cat(seen, 1).numpy()
    return found


def counts(trace: str) -> np.ndarray:
    return np.arange(len(dense()[trace])) >= 3


def regions(trace: str) -> np.ndarray:
    return np.arange(len(dense()[trace])) % 2


def collected(items: Any = ITEMS, sample: int = KEPT["sample"], **options: Any) -> CollectedUnits:
    groups = transcoder_groups(model())
    names = [item.trace.id for item in items]
    return collect(
        model(),
        items,
        groups,
        layout_of(groups, ("even", "odd"), **{**KEPT, "sample": sample}),
        {name: regions(name) for name in names},
        {name: counts(name) for name in names},
        **options,
    )


@cache
def found() -> CollectedUnits:
    return collected()


def test_sums_are_those_of_all_numbers() -> None:
    own = found()
    values = np.concatenate([dense()[t][counts(t)] for t in TRACES])
    assert own.tokens == len(values) and own.layout.units == U
    np.testing.assert_array_equal(own.active, (values > 0).sum(0))
    np.testing.assert_allclose(own.total, values.sum(0, dtype=float), rtol=1e-5)
    np.testing.assert_allclose(own.largest, values.max(0), rtol=1e-5)
    written = np.concatenate([g.transcoder.decoder.weight.detach().norm(dim=0) for g in transcoder_groups(model())])
    np.testing.assert_allclose(own.contribution, (values * written).mean(0), rtol=1e-4)
    for number in range(2):
        part = np.concatenate([dense()[t][regions(t) == number] for t in TRACES])
        np.testing.assert_allclose(own.density()[number], (part > 0).mean(0))
    assert own.layout.unit(13) == Unit(1, "mlp", 1) and own.layout.column(Unit(1, "mlp", 1)) == 13


def test_the_strongest_contexts_are_those_of_a_plain_sort() -> None:
    for u in range(U):
        wanted = []
        for trace in TRACES:
            values = dense()[trace][:, u]
            own = [(-values[at], trace, at) for at in np.flatnonzero(counts(trace) & (values > 0))]
            wanted += sorted(own)[: KEPT["per_trace"]]
        wanted = sorted(wanted)[: KEPT["top"]]
        contexts = found().contexts(u)
        assert [(c.trace, c.at) for c in contexts] == [(trace, at) for _, trace, at in wanted]
        for context in contexts:
            values = dense()[context.trace][:, u]
            assert context.first == max(0, context.at - KEPT["before"])
            around = values[context.first : context.at + KEPT["after"] + 1]
            np.testing.assert_allclose(context.values, around, rtol=1e-4, atol=1e-6)


def test_quantiles_split_what_was_drawn_and_small_features_are_drawn_whole() -> None:
    for u in range(U):
        parts = found().quantiles(u, 3)
        drawn = [c for part in parts for c in part]
        places = {(t, at) for t in TRACES for at in np.flatnonzero(counts(t) & (dense()[t][:, u] > 0))}
        assert {(c.trace, c.at) for c in drawn} <= places
        assert len({(c.trace, c.at) for c in drawn}) == len(drawn) == min(KEPT["sample"], len(places))
        values = [c.value for c in drawn]
        assert values == sorted(values, reverse=True) and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_draws_are_even_over_the_tokens_at_which_a_feature_is_active() -> None:
    """All contexts, with the numbers by which they are drawn: even, and apart from value, token and feature."""
    from scipy.stats import kstest, spearmanr

    table = collected(sample=10**6).drawn()
    score = (table.score + 2**31) / 2**32
    assert len(table) == found().active.sum() and kstest(score, "uniform").pvalue > 0.01
    for told in (table.value, table.at, table.unit, table.trace):
        assert spearmanr(score, told).pvalue > 0.001
    other = (collected(sample=10**6, seed=1).drawn().score + 2**31) / 2**32
    assert abs(np.corrcoef(np.sort(score), np.sort(other))[0, 1]) > 0.99 and not np.array_equal(score, other)
    by_place = {
        (int(t), int(a), int(u)): s for t, a, u, s in zip(table.trace, table.at, table.unit, score, strict=True)
    }
    pairs = [(s, by_place[t, a, u + 1]) for (t, a, u), s in by_place.items() if (t, a, u + 1) in by_place]
    assert spearmanr(*zip(*pairs, strict=True)).pvalue > 0.001


@pytest.mark.parametrize("batch_tokens", [1, 97])
def test_batches_do_not_matter(batch_tokens: int) -> None:
    one, other = found(), collected(ITEMS[::-1], batch_tokens=batch_tokens)
    np.testing.assert_array_equal(one.active, other.active)
    np.testing.assert_allclose(one.total, other.total, rtol=1e-4)
    for u in range(U):
        for mine, theirs in ((one.contexts(u), other.contexts(u)), (one.quantiles(u, 1)[0], other.quantiles(u, 1)[0])):
            assert [(c.trace, c.at, c.first) for c in mine] == [(c.trace, c.at, c.first) for c in theirs]


def test_pieces_are_merged_and_files_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerkit.units.kept.WAITING", 10)
    parts = [collected(ITEMS[:3]), collected(ITEMS[3:])]
    for number, part in enumerate(parts):
        part.save(tmp_path / f"{number}")
    whole = CollectedUnits.load(tmp_path / "1")
    whole.merge(CollectedUnits.load(tmp_path / "0"))
    assert whole.tokens == found().tokens
    np.testing.assert_array_equal(whole.region_active, found().region_active)
    for u in range(U):
        assert [(c.trace, c.at) for c in whole.contexts(u)] == [(c.trace, c.at) for c in found().contexts(u)]
        wanted = {(c.trace, c.at) for c in found().quantiles(u, 1)[0]}
        assert {(c.trace, c.at) for c in whole.quantiles(u, 1)[0]} == wanted
    with pytest.raises(SteerkitError, match="text 't0' has been added before"):
        whole.merge(parts[0])
    (tmp_path / "bad").write_bytes(b"nothing")
    with pytest.raises(SteerkitError, match="is not a file of collected units"):
        CollectedUnits.load(tmp_path / "bad")


def test_what_is_kept_does_not_grow_with_the_texts() -> None:
    from steerkit.units.sparse_table import SparseTable

    kept, names = Kept(3, 2), [str(number) for number in range(50)]
    for number in range(50):
        unit = np.arange(3)
        column = np.full(3, number)
        table = {"unit": unit, "trace": column, "at": unit, "value": column + 1, "score": (column * 7) % 50}
        kept.add(SparseTable.of({**table, "near": unit * 0, "offset": np.zeros(0), "values": np.zeros(0)}))
        assert len(kept.settle(names[: number + 1])) <= 6
    assert kept.settle(names).score.tolist() == [49, 48] * 3 and kept.bound.tolist() == [48] * 3


def test_a_number_that_is_none_is_named() -> None:
    lm = with_transcoder("llama", features=4)
    with torch.no_grad():
        transcoder_groups(lm)[1].transcoder.encoder.bias[2] = float("nan")
    with pytest.raises(SteerkitError, match=r"unit 1\.mlp\.2 at token 0 of trace 't\d' is nan"):
        read_active(lm, ITEMS[:1], transcoder_groups(lm), lambda batch, active: None)
    with pytest.raises(SteerkitError, match="there are no units to read"):
        read_active(lm, ITEMS[:1], [], lambda batch, active: None)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActiveStore:
    """What is active at the reasoning of the traces, in two files."""
    folder, files = tmp_path_factory.mktemp("active"), []
    for number, items in enumerate((ITEMS[:3], ITEMS[3:])):
        groups = transcoder_groups(model())
        reasoning = Reasoning(items, [0, 12, 24, 36])
        read_active(model(), items, groups, reasoning.see)
        files.append(folder / f"{number}")
        save_parts(files[-1], ActiveShard.of(U, reasoning.entries, reasoning.places).parts())
    return ActiveStore(files)


def test_aurocs_of_what_is_active_are_those_of_all_numbers(store: ActiveStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros tie; scikit-learn, and the dense implementation with its errors."""
    monkeypatch.setattr("steerkit.units.active_aurocs.MOST", 7)  # several blocks of units
    rng, marks, rows = np.random.default_rng(0), {}, {}
    for item in ITEMS:
        begin, length = len(item.trace.prompt_ids), len(item.ids)
        rows[item.trace.id] = np.arange(begin, begin + item.trace.thinking - 1)
        candidates = np.zeros(length, bool)
        candidates[rows[item.trace.id]] = rng.random(len(rows[item.trace.id])) < 0.7
        marks[item.trace.id] = Marks(candidates, candidates & (rng.random(length) < 0.2))
    values = {t: np.where(dense()[t] > 0.4, dense()[t], 0).astype(np.float32) for t in TRACES}
    half, _ = halves(TRACES, 1)
    for given, own in ((dense(), store), (values, _cut(store, 0.4))):
        (got,) = active_aurocs(own, [question(own, marks, half)])
        wanted = unit_aurocs(given, marks, sorted(half))
        np.testing.assert_allclose(got.value, wanted.value, atol=1e-9)
        np.testing.assert_allclose(got.error, wanted.error, atol=1e-9)
        assert (got.traces, got.hits) == (wanted.traces, wanted.hits)
        x = np.concatenate([given[t][marks[t].candidates] for t in sorted(half)])
        y = np.concatenate([marks[t].hits[marks[t].candidates] for t in sorted(half)])
        np.testing.assert_allclose(got.value, [roc_auc_score(y, x[:, u]) for u in range(U)], atol=1e-9)
        with np.errstate(invalid="ignore"):
            lift = [y[x[:, u] > 0].mean() / y.mean() if (x[:, u] > 0).any() else np.nan for u in range(U)]
        np.testing.assert_allclose(got.lift, lift, atol=1e-9)
    one = column(store, 5, {t: len(dense()[t]) for t in TRACES})
    for trace in TRACES:
        np.testing.assert_allclose(one[trace][rows[trace]], dense()[trace][rows[trace], 5], rtol=1e-4, atol=1e-6)
        assert not np.delete(one[trace], rows[trace]).any()
    none = {t: Marks(own.candidates, own.hits & False) for t, own in marks.items()}
    assert np.isnan(active_aurocs(store, [question(store, none, half)])[0].value).all()


class _cut(ActiveStore):
    """A store whose small numbers are 0: a few active ones, most ties."""

    def __init__(self, store: ActiveStore, least: float) -> None:
        super().__init__(store.files)
        self.least = least

    def entries(self, first: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        unit, row, value = super().entries(first, end)
        own = value > self.least
        return unit[own], row[own], value[own]


def test_passages_without_a_feature_are_of_its_places(store: ActiveStore) -> None:
    reader, own, tested = Passages(store, 3, 1), found(), 0
    for u in range(U):
        contexts = own.contexts(u)
        got = reader.test(u, contexts[1:], contexts[:1], 2, np.random.default_rng(u))
        if not got:
            continue
        tested += 1
        assert [p.active for p in got].count(True) == 2 == len(got) / 2
        lengths = sorted(p.end - p.first for p in got if p.active)
        assert sorted(p.end - p.first for p in got if not p.active) == lengths
        for p in got:
            assert (dense()[p.trace][p.first : p.end, u] > 0).any() == p.active
            shown = contexts[0]
            assert p.trace != shown.trace or shown.at + 2 <= p.first or p.end <= shown.at - 3
        starts = {item.trace.id: len(item.trace.prompt_ids) for item in ITEMS}
        places = [[p.first - starts[p.trace] for p in got if p.active == which] for which in (True, False)]
        assert all(min(abs(place - other) for other in places[0]) <= 10 for place in places[1])
    assert tested > 3
    assert reader.test(0, [], [], 2, np.random.default_rng(0)) == []


def test_detection_scores() -> None:
    passages = [Passage("t", 0, 1, active) for active in (True, False, True, False)]
    assert scores(passages, frozenset({0, 1})) == (0.5, 0.5, 0.5)
    assert scores(passages, frozenset({0, 2})) == (1.0, 1.0, 1.0)
    accuracy, precision, recall = scores(passages, frozenset())
    assert (accuracy, recall) == (0.5, 0.0) and np.isnan(precision)


def test_shares_count_blocks_by_their_features() -> None:
    """A block with many features that are alive counts for more; by hand."""
    own = stratified_share([9, 1, 0], [10, 10, 0], [900, 100, 50], "alive_weighted", 0.95)
    assert own.value == pytest.approx(0.9 * 0.9 + 0.1 * 0.1) and own.n == 20
    assert stratified_share([9, 1], [10, 10], [900, 100], "per_layer_equal", 0.95).value == pytest.approx(0.5)
    none = stratified_share([0], [20], [100], "alive_weighted", 0.95)
    assert none.low == 0 and none.high == pytest.approx(0.161, abs=1e-3)  # Wilson, 0 of 20
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):
        hits = [rng.binomial(30, 0.02), rng.binomial(30, 0.3)]
        share = stratified_share(hits, [30, 30], [700, 300], "alive_weighted", 0.95)
        inside += share.low <= 0.7 * 0.02 + 0.3 * 0.3 <= share.high
    assert inside > 280


def test_regions_of_a_trace() -> None:
    places = {"prompt_ids": (9, 1), "ids": (2, 3, 9, 4), "starts": (0, 1, 2, 3)}
    trace = Trace(id="t", prompt_id="p", prompt="?", text="ab", answer_text="cd", **places)
    told = [REGIONS[number] for number in regions_of(trace, {9})]
    assert told == ["marker", "prompt", "thinking", "thinking", "marker", "answer"]


def test_layouts_know_their_units() -> None:
    layout = Layout((0, 2), (3, 4), "mlp", ("a",))
    assert [layout.column(layout.unit(u)) for u in range(7)] == list(range(7))
    for unit in (Unit(1, "mlp"), Unit(0, "mlp", 3), Unit(0, "down")):
        with pytest.raises(SteerkitError, match=f"unit {unit}"):
            layout.column(unit)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"description": "x", "class": "reasoning", "kind": "math", "confidence": 1}, "the kind is 'math', not one of"),
        ({"description": "x", "class": "reasoning", "kind": "output", "confidence": 2}, "the confidence is 2"),
        ({"description": "", "class": "domain", "kind": "math", "confidence": 1}, "it has no description"),
    ],
)
def test_answers_that_are_not_the_form(values: dict[str, Any], why: str) -> None:
    with pytest.raises(NotTheForm, match=why):
        CLASSES_FORM.read(values)
    with pytest.raises(NotTheForm, match="not a list of whole numbers"):
        PASSAGES_FORM.read({"passages": [True]})
