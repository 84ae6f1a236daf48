"""Positions of whole traces, paired fits, and `contrast_vector`: against plain HF forwards and numpy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import blocks_of, hidden_by_layer
from tiny import build, tiny

import steerkit
from steerkit.data.draws import Draws, TraceSpans, draw
from steerkit.data.trace import Item, Span, Trace
from steerkit.errors import InputError, SteerkitError
from steerkit.extraction.extract import extract
from steerkit.interfaces import OWN_TOKENS
from steerkit.vectors.fit import fit

AT = ("response mean", "prompt mean", "last prompt token", "last token")
PAIRS = [
    ("wait w1 w2 w3", "hmm w1 w2"),
    ("the sum is w4 w5", "but sum is w6"),
    ("w7 w8 is w9 w10", "w11 w8 is the"),
    ("w20 wait", "w21 hmm w22 w23"),
    ("is the w30 w31 w32 w33", "is but w30"),
]


def states(lm: Any, text: str) -> np.ndarray:
    """[L, H] float64 hidden_states[layer + 1] of a text's last token, the last block's before the final norm."""
    return hidden_by_layer(lm.model, lm.tokenizer(text)["input_ids"])[:, -1]


def differences(lm: Any, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """[P, L, H]."""
    return np.stack([states(lm, positive) - states(lm, negative) for positive, negative in pairs])


def directions(vector: steerkit.SteeringVector) -> np.ndarray:
    """[L, H]."""
    return np.stack([vector.direction(layer).numpy() for layer in vector.layers])


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "qwen3"])
def test_the_difference_of_means_is_that_of_hidden_states(architecture: str) -> None:
    lm = tiny(architecture)
    vector = steerkit.contrast_vector(lm, PAIRS)
    np.testing.assert_allclose(directions(vector), differences(lm, PAIRS).mean(0), rtol=1e-4, atol=1e-5)
    assert vector.layers == tuple(range(lm.depth))
    assert vector.norm(1) == pytest.approx(np.linalg.norm(differences(lm, PAIRS).mean(0)[1]), rel=1e-4)


def test_the_last_blocks_direction_is_not_one_behind_the_final_norm() -> None:
    lm = tiny("llama")
    vector, ends = steerkit.contrast_vector(lm, PAIRS), []
    for pair in PAIRS:
        for text in pair:
            ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
            ends.append(lm.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1].detach().numpy())
    normed = (np.stack(ends[::2]) - np.stack(ends[1::2])).mean(0)
    own = vector.direction(lm.depth - 1).numpy()
    assert np.abs(own - normed).max() > 0.1
    np.testing.assert_allclose(own, differences(lm, PAIRS).mean(0)[-1], rtol=1e-4, atol=1e-5)


def test_paired_means_are_unpaired_ones_where_all_pairs_are_whole() -> None:
    lm = tiny("llama")
    fitter = steerkit.get("fitters", "paired")(label="positive", window=OWN_TOKENS)
    paired, unpaired = steerkit.contrast_vector(lm, PAIRS, fitter=fitter), steerkit.contrast_vector(lm, PAIRS)
    np.testing.assert_allclose(directions(paired), directions(unpaired), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("center", [True, False])
def test_the_principal_component_is_numpys_and_points_to_the_positive_sides(center: bool) -> None:
    lm = tiny("llama")
    fitter = steerkit.get("fitters", "paired")(label="positive", window=OWN_TOKENS, method="pca", center=center)
    vector = steerkit.contrast_vector(lm, PAIRS, fitter=fitter)
    for layer, d in enumerate(differences(lm, PAIRS).transpose(1, 0, 2)):
        rows = d - d.mean(0) if center else d
        values, vectors = np.linalg.eigh(rows.T @ rows)
        expected = vectors[:, -1] * np.sign(((d @ vectors[:, -1]) > 0).mean() - 0.5)
        np.testing.assert_allclose(vector.direction(layer).numpy(), expected, atol=1e-4)
        assert values[-1] > values[-2]


def test_where_the_sides_change_places_the_vector_turns_round() -> None:
    lm, turned = tiny("llama"), [(negative, positive) for positive, negative in PAIRS]
    for method in ("mean", "pca"):
        fitter = steerkit.get("fitters", "paired")(label="positive", window=OWN_TOKENS, method=method)
        one, other = (directions(steerkit.contrast_vector(lm, pairs, fitter=fitter)) for pairs in (PAIRS, turned))
        np.testing.assert_allclose(one, -other, atol=1e-4)


def two_sided(count: int, rng: np.random.Generator) -> list[Item]:
    """Pairs of random traces, prompts and responses of unequal length, one span over each."""
    items = []
    for number in range(count):
        for side in ("positive", "negative"):
            prompt, ids = (tuple(map(int, rng.integers(3, 60, rng.integers(2, 7)))) for _ in range(2))
            trace = Trace(
                id=f"p{number}/{side}",
                prompt_id=f"p{number}/{side}",
                prompt="",
                text="x" * len(ids),
                prompt_ids=prompt,
                ids=ids,
                starts=tuple(range(len(ids))),
            )
            span = Span(
                trace_id=trace.id,
                label=side,
                judge="t",
                start=0,
                end=len(ids),
                first=len(prompt),
                last=len(trace.tokens) - 1,
            )
            items.append(Item(trace, [span], trace.tokens))
    return items


@pytest.mark.parametrize("at", AT)
@pytest.mark.parametrize("name", ["dom", "paired"])
def test_positions_are_read_as_said(at: str, name: str, tmp_path: Path) -> None:
    lm, items = tiny("llama"), two_sided(7, np.random.default_rng(0))
    options = {"reference": "rest"} if name == "dom" else {}
    fitter = steerkit.get("fitters", name)(label="positive", window=OWN_TOKENS, **options)
    extractor = steerkit.get("extractors", "positions")(at=at)
    statistics = extract(lm, items, extractor, needs=fitter.needs, raw_folder=tmp_path, batch_tokens=40)
    by_side: dict[str, list[np.ndarray]] = {"positive": [], "negative": []}
    for item in items:
        hidden, begin = hidden_by_layer(lm.model, item.ids), len(item.trace.prompt_ids)
        chosen = {
            "response mean": hidden[:, begin:].mean(1),
            "prompt mean": hidden[:, :begin].mean(1),
            "last prompt token": hidden[:, begin - 1],
            "last token": hidden[:, -1],
        }
        by_side[item.spans[0].label].append(chosen[at])
    expected = np.mean(by_side["positive"], 0) - np.mean(by_side["negative"], 0)
    np.testing.assert_allclose(directions(fit(fitter, statistics)), expected, rtol=1e-4, atol=1e-5)


def test_the_answer_behind_a_reasoning_is_part_of_the_response() -> None:
    trace = Trace(
        id="p/positive",
        prompt_id="p/positive",
        prompt="",
        text="ab",
        answer_text="</think>c",
        prompt_ids=(5, 6),
        ids=(7, 8, 9, 10),
        starts=(0, 1, 2, 10),
    )
    span = Span(trace_id=trace.id, label="positive", judge="t", start=0, end=2, first=2, last=3)
    places = {at: steerkit.get("extractors", "positions")(at=at).positions(trace, [span], OWN_TOKENS) for at in AT}
    assert {at: own.tolist() for at, own in places.items()} == {
        "response mean": [[2, 3, 4, 5]],
        "prompt mean": [[0, 1]],
        "last prompt token": [[1]],
        "last token": [[5]],
    }


def test_a_planted_shift_is_recovered_exactly() -> None:
    """A block adds s to every position of texts that begin with one word, and nothing to the others."""
    lm = build("llama")
    shift, marked = torch.linspace(-1, 1, lm.width), lm.tokenizer.convert_tokens_to_ids("wait")
    ids: list[torch.Tensor] = []
    lm.model.get_input_embeddings().register_forward_pre_hook(lambda module, args: ids.append(args[0]))
    with torch.no_grad():  # the marker itself leaves no trace
        lm.model.get_input_embeddings().weight[marked] = lm.model.get_input_embeddings().weight[marked + 1]

    def plant(module: Any, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        moved = hidden + shift * (ids[-1][:, :1, None] == marked)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    blocks_of(lm.model)[1].register_forward_hook(plant)
    unmarked = lm.tokenizer.convert_ids_to_tokens(marked + 1)
    pairs = [(f"wait w{n} w{n + 1}", f"{unmarked} w{n} w{n + 1}") for n in range(6)]
    vector = steerkit.contrast_vector(lm, pairs, position="last token")
    assert vector.direction(0).abs().max() == 0
    np.testing.assert_allclose(vector.direction(1).numpy(), shift.numpy(), atol=2e-6)


def test_completions_are_read_behind_their_prompts() -> None:
    lm = tiny("llama")
    question = {"role": "user", "content": "the sum is"}
    pairs = [
        tuple([question, {"role": "assistant", "content": text}] for text in texts)
        for texts in (("w1 w2", "w3"), ("w4", "w5 w6 w7"))
    ]
    vector = steerkit.contrast_vector(lm, pairs, position="response mean")
    means = [
        [hidden_by_layer(lm.model, lm.tokenizer(f"the sum is {text}")["input_ids"])[:, 3:].mean(1) for text in texts]
        for texts in (("w1 w2", "w3"), ("w4", "w5 w6 w7"))
    ]
    expected = np.mean([positive - negative for positive, negative in means], 0)
    np.testing.assert_allclose(directions(vector), expected, rtol=1e-4, atol=1e-5)


def test_what_makes_no_vector_is_said_in_words() -> None:
    lm = tiny("llama")
    with pytest.raises(SteerkitError, match="2 sides of the pairs have no response; take another position"):
        steerkit.contrast_vector(lm, PAIRS[:1], position="response mean")
    with pytest.raises(InputError, match=r"(?s)pairs\[0\]: must be a pair.*pairs\[1\], negative: is empty"):
        steerkit.contrast_vector(lm, ["ab", ("wait", " ")])
    with pytest.raises(SteerkitError, match="there is no trace to extract from"):
        steerkit.contrast_vector(lm, [])


def test_single_windows_of_repeated_positions_count_each_position_once(tmp_path: Path) -> None:
    """Spans' own tokens differ in number: shorter ones repeat their last position."""
    lm, items = tiny("llama"), two_sided(3, np.random.default_rng(1))
    item = items[0]
    begin, end = len(item.trace.prompt_ids), len(item.ids) - 1
    spans = [
        Span(trace_id=item.trace.id, label="positive", judge="t", start=0, end=1, first=first, last=last)
        for first, last in ((begin, begin), (begin, end))
    ]
    extractor = steerkit.get("extractors", "offset-window")(windows=[OWN_TOKENS])
    statistics = extract(lm, [Item(item.trace, spans, item.ids)], extractor, needs={"raw"}, raw_folder=tmp_path)
    raw = statistics.at(OWN_TOKENS).raw
    assert raw is not None
    hidden = hidden_by_layer(lm.model, item.ids)[2]
    expected = [hidden[begin], hidden[begin : end + 1].mean(0)]
    np.testing.assert_allclose(raw.read(2)[0].numpy(), expected, rtol=1e-4, atol=1e-5)


def sides(count: int) -> list[TraceSpans]:
    return [
        TraceSpans(f"p{n}/{side}", np.array([True]), np.array([side == "positive"]))
        for side in ("positive", "negative")
        for n in range(count)
    ]


def drawn(traces: Sequence[TraceSpans], names: Sequence[str], folds: int = 0) -> Draws:
    return draw(traces, names, label="positive", window=OWN_TOKENS, folds=folds)


def test_labels_shuffled_within_swap_the_sides_of_a_pair() -> None:
    found = drawn(sides(40), [f"within-{n:02}" for n in range(10)])
    positive = np.stack([found.of[f"p{n}/positive"].positive[:, 0] for n in range(40)])
    negative = np.stack([found.of[f"p{n}/negative"].positive[:, 0] for n in range(40)])
    assert (positive != negative).all()
    assert 0.35 < positive.mean() < 0.65


def test_the_sides_of_a_pair_share_a_fold() -> None:
    found = drawn(sides(10), [], folds=5)
    folds = [(found.of[f"p{n}/positive"].fold, found.of[f"p{n}/negative"].fold) for n in range(10)]
    assert all(one == other for one, other in folds)
    assert sorted(one for one, _ in folds) == sorted([0, 1, 2, 3, 4] * 2)
    assert drawn(sides(3), [], folds=5).folds == 3


def test_a_pair_without_both_sides_is_left_out_of_a_paired_fit(tmp_path: Path) -> None:
    lm, items = tiny("llama"), two_sided(4, np.random.default_rng(2))
    fitter = steerkit.get("fitters", "paired")(label="positive", window=OWN_TOKENS)
    extractor = steerkit.get("extractors", "positions")(at="last token")

    def fitted(items: Sequence[Item], folder: str) -> np.ndarray:
        (tmp_path / folder).mkdir()
        statistics = extract(lm, items, extractor, needs=fitter.needs, raw_folder=tmp_path / folder)
        return directions(fit(fitter, statistics))

    np.testing.assert_allclose(fitted(items[:-1], "one"), fitted(items[:-2], "two"), rtol=1e-5, atol=1e-6)
    with pytest.raises(SteerkitError, match=r"no pair has both .* \(of 4 pairs\); use fitter dom"):
        fitted(items[::2], "none")


def test_the_example_on_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs/contrast.md").read_text(encoding="utf-8")
    exec(page.split("```python\n")[1].split("```")[0], {})
    assert "SteeringVector('positive' by dom" in capsys.readouterr().out
