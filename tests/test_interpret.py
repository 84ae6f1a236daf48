"""Neurons as units, features, what an explainer is shown and says, and classes; each by an oracle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llm_server import KEY, Json, State, completion, serving
from pydantic import ValidationError
from steerkit_plugins.judges.llm_explain import CLASSES, Explained, LLMExplainJudge
from steerkit_plugins.rank1_lora.classes import class_difference, class_shares, clusters, same_shares
from steerkit_plugins.rank1_lora.feature_contexts import FeatureContexts
from steerkit_plugins.rank1_lora.neurons import neuron_groups
from steerkit_plugins.trained.examples import examples_text
from steerkit_plugins.trained.token_texts import TokenTexts
from tiny import byte_tokenizer, random_items
from zoo import breed

from steerkit.data.trace import Trace
from steerkit.errors import SteerkitError
from steerkit.judging import ask
from steerkit.models.language_model import LanguageModel
from steerkit.models.units import units_in, write_norms
from steerkit.units.contexts import Context, TopContexts
from steerkit.units.reading import read_units

# --- neurons --------------------------------------------------------------------------------------------------------

UP = {"llama": "mlp.up_proj", "gemma2": "mlp.up_proj", "gpt2": "mlp.c_fc", "phi3": "mlp.gate_up_proj"}


def up_outputs(lm: LanguageModel, name: str, ids: list[int]) -> list[torch.Tensor]:
    """[T, D] of each block's up projection, by plain forward hooks on transformers' own modules."""
    found: list[torch.Tensor] = []
    hooks = [
        block.get_submodule(UP[name]).register_forward_hook(lambda module, args, output: found.append(output[0]))
        for block in lm.blocks
    ]
    with torch.no_grad():
        lm.model(input_ids=torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return [output.chunk(2, -1)[1] if name == "phi3" else output for output in found]


@pytest.mark.parametrize("which", ["first", "spread"])
@pytest.mark.parametrize("name", UP)
def test_neurons_are_coordinates_of_the_up_projection(name: str, which: Any) -> None:
    lm, items, found = breed(name), random_items(4), dict[str, np.ndarray]()
    groups = neuron_groups(lm, 5, which)
    read_units(lm, items, groups, lambda item, numbers: found.update({item.trace.id: numbers.numpy()}))
    units = units_in(groups)
    assert len(units) == 5 * len(lm.blocks) and units[1].name == f"0.up.{units[1].index}"
    for item in items:
        outputs = up_outputs(lm, name, list(item.ids))
        places = range(5) if which == "first" else [outputs[0].shape[-1] * n // 5 for n in range(5)]
        expected = torch.cat([output[:, list(places)] for output in outputs], -1).numpy()
        np.testing.assert_allclose(found[item.trace.id], expected, rtol=1e-4, atol=1e-5)
    assert write_norms(groups).tolist() == [1.0] * len(units)


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_a_neuron_set_to_zero_is_one_whose_weights_are(name: str) -> None:
    lm, ids = breed(name), torch.tensor([[5, 9, 3, 30, 8]])
    group = neuron_groups(lm, 3)[1]
    x = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(1))
    whole = group.module(x).detach()
    torch.testing.assert_close(group.activations(x).detach(), whole @ group.writes.T)
    handle = group.edit(torch.zeros_like)
    edited = lm.model(input_ids=ids).logits.detach()
    handle.remove()
    plain = lm.model(input_ids=ids).logits.detach()
    weight: Any = group.module.weight
    first = len(weight) // 2 if name == "phi3" else 0
    with torch.no_grad():
        weight[first : first + 3] = 0
    torch.testing.assert_close(edited, lm.model(input_ids=ids).logits.detach())
    assert not torch.allclose(edited, plain)


def test_a_block_with_fewer_neurons_is_named() -> None:
    with pytest.raises(SteerkitError, match="block 0 has 24 neurons, fewer than 25"):
        neuron_groups(breed("llama"), 25)


# --- features and their contexts --------------------------------------------------------------------------------------


def gathered(values: dict[str, np.ndarray], first: int = 0) -> FeatureContexts:
    found = FeatureContexts.empty(["0.up", "1.up"], TopContexts(3, 2, 2, 0.5))
    for trace, own in values.items():
        found.add(trace, own, first)
    return found


def test_features_are_units_with_a_sign_and_parts_add_up(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = {f"t{n}": rng.normal(size=(7 + n, 2)).astype(np.float32) for n in range(5)}
    whole, parts = gathered(values, 2), gathered({"t3": values["t3"], "t0": values["t0"]}, 2)
    parts.merge(gathered({name: values[name] for name in ("t4", "t1", "t2")}, 2))
    parts.save(tmp_path / "parts.json")
    rows = np.concatenate([own[2:] for own in values.values()])
    for found in (whole, parts, FeatureContexts.load(tmp_path / "parts.json")):
        features = list(found.features())
        assert [feature.name for feature in features] == ["0.up +", "0.up −", "1.up +", "1.up −"]
        assert features == list(whole.features())
        for feature in features:
            own = feature.sign * rows[:, feature.column]
            assert feature.share == pytest.approx((own > 0.5).mean()) and feature.largest == own.max()
            assert feature.contexts[0].value == feature.sign * own.max()


def test_tokens_that_split_a_character_keep_it_whole() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer("the √2 <b>", add_special_tokens=False)["input_ids"]
    trace = Trace(id="t", prompt_id="t", prompt="", text="", prompt_ids=tuple(ids[:2]), ids=tuple(ids[2:]))
    texts = TokenTexts(tokenizer, [trace])
    assert "".join(texts("t", 0, len(ids))) == "the √2 <b>" and len(texts("t", 0, len(ids))) == len(ids)
    assert "√" in texts("t", 0, len(ids)) and "" in texts("t", 0, len(ids))
    assert texts("t", 1, 3) == texts("t", 0, len(ids))[1:3] and texts.prompt_length("t") == 2


WORDS = {"a": [" so", " wait", " it", " is"], "b": [" six", " but", " no", "\n"]}


def shown(contexts: list[Context], sign: int, **options: Any) -> str:
    given: dict[str, Any] = {"count": 10, "width": 1, **options}
    return examples_text(contexts, sign, lambda trace, first, end: WORDS[trace][first:end], **given)


def test_examples_are_scaled_by_the_largest_size_among_them() -> None:
    contexts = [
        Context("a", 1, -4.0, 0, (1.0, -4.0, 0.1, -9.0)),  # the last is beyond the window that is shown
        Context("b", 3, -2.0, 1, (2.0, -0.25, -2.0)),
    ]
    text = shown(contexts, -1)
    assert {part.partition(":\n")[2] for part in text.split("\n\n")} == {
        '<text> so wait it</text>\nTokens: " wait" 10.0, " so" -2.5',
        '<text> no\n</text>\nTokens: "\\n" 5.0, " no" 0.6',
    }
    assert text.startswith("Example 1:\n") and "\n\nExample 2:\n" in text
    assert '" so" 2.5' in shown(contexts, -1, shows="absolute")  # the other sign as evidence, as the author has it
    assert " no" not in shown(contexts, -1, count=1) and shown([], 1) == ""
    assert len({shown(contexts, -1, seed=seed) for seed in range(9)}) == 2  # the order is drawn
    assert shown(contexts, -1, seed=3) == shown(contexts, -1, seed=3)


# --- the explainer ----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, State]]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as (url, state):
        state.text_of = lambda body: body["messages"][1]["content"]
        yield url, state


Make = Callable[..., LLMExplainJudge]


@pytest.fixture
def make(server: tuple[str, State], tmp_path: Path) -> Make:
    def build(**options: Any) -> LLMExplainJudge:
        judge = LLMExplainJudge(base_url=server[0], **{"max_retries": 0, "timeout": 5, **options})
        judge.open(tmp_path / "answers", lambda done, total: None)
        return judge

    return build


def says(explanation: str, kind: str = "broad") -> str:
    return json.dumps({"explanation": explanation, "class": kind})


def answering(state: State, *answers: str, finish: str = "stop") -> None:
    """The n-th answer about a text is the n-th of these; the last one goes on."""

    def reply(body: Json) -> Json:
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        return completion(answers[min(turn, len(answers) - 1)], finish=finish)

    state.reply = reply


def test_features_are_explained_once_and_never_paid_for_twice(make: Make, server: tuple[str, State]) -> None:
    _, state = server
    answering(state, f"Sure:\n```json\n{says('turning back, as with }  braces', 'monosemantic')}\n```")
    judge = make()
    expected = Explained("turning back, as with } braces", "monosemantic")
    assert judge.estimate(["one", "two", "one"])["calls"] == 2
    assert judge.explain(["one", "", "two", "one"]) == [expected, None, expected, expected]
    assert state.asked == {"one": 1, "two": 1} and judge.notes()["asked_now"] == 2
    assert ask.score(make(), ["two"]) == [{"class": 0.0}] and state.asked["two"] == 1
    assert make().estimate(["one", "two"])["calls"] == 0
    body = state.bodies[0]
    assert body["response_format"]["json_schema"]["schema"]["properties"]["class"]["enum"] == list(CLASSES)
    assert body["model"] == "gpt-5-mini" and "temperature" not in body
    make(format="plain").explain(["three"])
    assert "response_format" not in state.bodies[-1]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (says("one two three four five six seven eight nine ten eleven"), "the explanation has 11 words, more than 10"),
        (says("turning back", "clear"), "the class is 'clear', not one of monosemantic, broad, polysemantic"),
        (says(" "), "it has no explanation"),
        ("It turns back.", "there is no JSON object in it"),
    ],
)
def test_an_answer_that_cannot_be_used_is_asked_for_again_with_what_is_wrong(
    make: Make, server: tuple[str, State], wrong: str, why: str
) -> None:
    _, state = server
    answering(state, wrong, says("turning back"))
    assert make().explain(["one"]) == [Explained("turning back", "broad")]
    again = state.bodies[-1]["messages"][-2:]
    assert again[0] == {"role": "assistant", "content": wrong.strip()} and why in again[1]["content"]
    answering(state, wrong)
    with pytest.raises(SteerkitError, match=r"1 of 1 features have no usable answer") as error:
        make().explain(["two"])
    assert f"1 × not the form ({why})" in str(error.value) and state.asked["two"] == 3
    assert make(unusable="leave-out", attempts=1).explain(["one", "two"]) == [None, None]  # the first answers
    left_out = make(unusable="leave-out")
    assert ask.score(left_out, ["two", "one"])[1] == {"class": 1.0}
    assert left_out.notes()["unusable_answers"] == {"not the form": 1} and state.asked["two"] == 3


def test_refusals_cuts_and_a_dead_server_are_told_and_not_asked_again(make: Make, server: tuple[str, State]) -> None:
    _, state = server
    answering(state, '{"explanation": "turning', finish="length")
    state.faults["no"] = ["refusal"]
    with pytest.raises(SteerkitError, match=r"1 × cut off .*\n.*1 × refused|1 × refused .*\n.*1 × cut off"):
        make().explain(["no", "long"])
    assert state.asked == {"no": 1, "long": 1}
    state.faults["*"] = ["status:500"]
    with pytest.raises(SteerkitError, match="server error"):
        make(unusable="leave-out").explain(["down"])
    with pytest.raises(ValidationError):
        make(attempts=0)


# --- classes ----------------------------------------------------------------------------------------------------------


def of_counts(*counts: int) -> np.ndarray:
    """One feature a unit."""
    return clusters((number, kind) for number, kind in enumerate(np.repeat(np.arange(3), counts)))


def test_the_papers_counts_give_the_papers_numbers() -> None:
    """The author's summary: 59, 146 and 162 of 367 units, 49, 100 and 227 of 376 neurons."""
    units, neurons = of_counts(59, 146, 162), of_counts(49, 100, 227)
    own = class_shares(units, confidence=0.95, resamples=2000)
    assert own.counts.tolist() == [59, 146, 162] and np.round(100 * own.shares, 1).tolist() == [16.1, 39.8, 44.1]
    normal = 1.96 * np.sqrt(own.shares * (1 - own.shares) / 367)
    np.testing.assert_allclose(own.high - own.low, 2 * normal, rtol=0.1)
    assert (own.low < own.shares).all() and round(own.mean[0], 2) == 1.28
    found = class_difference(units, neurons, confidence=0.95, resamples=2000)
    assert round(found.chi2, 1) == 20.3 and 3e-5 < found.p < 5e-5
    values = [np.repeat(np.arange(3), c) for c in ((59, 146, 162), (49, 100, 227))]
    error = np.sqrt(sum(v.var(ddof=1) / len(v) for v in values))
    expected = values[0].mean() - values[1].mean()
    assert found.difference == pytest.approx((expected, expected - 1.96 * error, expected + 1.96 * error), abs=0.02)


def test_both_signs_of_a_unit_are_one_draw() -> None:
    kinds = np.random.default_rng(0).integers(0, 3, 60)
    alone = clusters((number, kind) for number, kind in enumerate(kinds))
    twice = clusters((number, kind) for _ in "+-" for number, kind in enumerate(kinds))
    narrow, wide = (class_shares(each, confidence=0.95, resamples=1000) for each in (alone, twice))
    np.testing.assert_allclose(wide.high - wide.low, narrow.high - narrow.low)
    assert wide.counts.sum() == 120


def test_one_class_alone_is_no_test() -> None:
    assert np.isnan(same_shares([5, 0, 0], [7, 0, 0])).all() and np.isnan(same_shares([5, 1, 0], [0, 0, 0])).all()
    assert same_shares([5, 5, 0], [5, 5, 0]) == (0.0, 1.0)
