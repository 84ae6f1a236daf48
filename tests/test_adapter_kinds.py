"""Every kind of PEFT adapter is read, steered and told apart as PEFT's own forward has it, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_zoo import CHANGES_BASE, VARIANTS, WORKING, put_on, save_adapter, save_base, with_and_without
from oracles import edited_logits, hidden_by_layer
from peft import PeftModel, PeftType
from steerkit_plugins.steerers.residual_add import ResidualAdd
from tiny import EOS, build, random_items, word_tokenizer

import steerkit
from steerkit.errors import SteerkitError
from steerkit.extraction.extract import read_layer
from steerkit.generation.stream import GenerationRow, generate
from steerkit.interventions.steering import Edit
from steerkit.models.adapter_kinds import OPTIONS, REFUSED, WORK
from steerkit.models.language_model import LanguageModel

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's, on what it does on a CPU or on a Llama
LORA = WORKING["LORA"]
CASES = {
    **{kind: (kind, options) for kind, options in WORKING.items()},
    **{f"LoRA, {name}": ("LORA", {**LORA, **options}) for name, options in {**VARIANTS, **CHANGES_BASE}.items()},
}
PROMPT, NEW = [5, 9, 12, 33], 4
ITEM = random_items(1, longest=16)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def plain() -> LanguageModel:
    return build("llama")


def test_every_kind_that_peft_knows_is_decided() -> None:
    assert sorted({*WORK, *REFUSED}) == sorted(kind.value for kind in PeftType)
    assert not set(WORK) & set(REFUSED)
    assert sorted(WORK) == sorted(WORKING)


def test_the_docs_name_every_kind() -> None:
    text = (Path(steerkit.__file__).parents[1] / "docs" / "adapters.md").read_text(encoding="utf-8")
    rows = {row.split("|")[1].strip(): row.split("|")[2] for row in text.splitlines() if row.startswith("| ")}
    named = {kind: "refused" in what for kinds, what in rows.items() for kind in kinds.split(", ")}
    assert {kind: refused for kind, refused in named.items() if kind != "kinds"} == {
        **dict.fromkeys(WORK, False),
        **dict.fromkeys(REFUSED, True),
    }


@pytest.mark.parametrize("name", CASES)
def test_each_role_is_what_peft_computes(name: str, base: str, plain: LanguageModel, tmp_path: Path, direction) -> None:
    kind, options = CASES[name]
    adapter = save_adapter(tmp_path, kind, options)
    pair = with_and_without(base, adapter)
    assert (pair["base"].model is pair["reasoning"].model) == (name.removeprefix("LoRA, ") not in CHANGES_BASE)
    theirs = PeftModel.from_pretrained(build("llama").model, adapter).eval()
    assert pair["base"].fingerprint == plain.fingerprint
    assert pair["reasoning"].fingerprint != plain.fingerprint
    edit = Edit(ResidualAdd(), 1, 4.0, direction)
    for lm, expected in ((pair["reasoning"], theirs), (pair["base"], plain.model)):
        assert_states(lm, expected)
        for given, added in ((None, torch.zeros(16)), (edit, 4.0 * direction)):
            [text] = generate(
                lm, [GenerationRow(PROMPT, 0, (given,) if given else ())], max_new_tokens=NEW, temperature=0
            )
            assert text.ids == greedy(expected, added)
    assert_states(pair["reasoning"], theirs)  # after the base ran


def assert_states(lm: LanguageModel, model: Any) -> None:
    """Block outputs of a trace are those of the model's own forward."""
    expected = torch.tensor(hidden_by_layer(model, ITEM[0].ids))
    for layer in (1, lm.depth - 1):
        [(_, hidden)] = read_layer(lm, ITEM, layer)
        torch.testing.assert_close(hidden[0].double(), expected[layer], rtol=2e-3, atol=2e-3)


def greedy(model: Any, added: torch.Tensor) -> list[int]:
    """Greedy tokens of a loop without a cache, with a hook of its own on block 1."""
    ids = torch.tensor([PROMPT])
    for _ in range(NEW):
        chosen = edited_logits(model, ids, 1, lambda h: h + added, use_cache=False)[0, -1].argmax()
        ids = torch.cat([ids, chosen.view(1, 1)], 1)
    found = ids[0, len(PROMPT) :].tolist()
    return found[: found.index(EOS)] if EOS in found else found


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_other_kinds_are_refused_by_name(kind: str, base: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": kind, "task_type": "CAUSAL_LM"}))
    message = rf"a {kind} adapter can't be used: {REFUSED[kind][:20]}.*these kinds can: ADALORA, "
    with pytest.raises(SteerkitError, match=message):
        with_and_without(base, str(tmp_path))


@pytest.mark.parametrize("option", OPTIONS)
def test_options_are_refused_by_name(option: str, base: str, tmp_path: Path) -> None:
    kind = "PVERA" if option == "sample_at_inference" else "LORA"
    value: Any = {
        "alora_invocation_tokens": [7, 8],
        "arrow_config": {"top_k": 1},
        "layer_replication": [[0, 3], [1, 4]],
    }.get(option, True)
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": kind, "task_type": "CAUSAL_LM", option: value})
    )
    with pytest.raises(SteerkitError, match=f"a {kind} adapter with {option} can't be used"):
        with_and_without(base, str(tmp_path))


def test_models_in_memory_are_refused_too() -> None:
    model = put_on(build("llama").model, "PROMPT_TUNING", {"num_virtual_tokens": 3})
    with pytest.raises(
        SteerkitError, match="mine: a PROMPT_TUNING adapter can't be used: it puts trained vectors before"
    ):
        LanguageModel("mine", model, word_tokenizer(), adapter=True)


def test_mixed_models_are_refused() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(build("llama").model, LoraConfig(target_modules=["q_proj"]), mixed=True)
    with pytest.raises(
        SteerkitError, match="mine: a PeftMixedModel can't be used: merge its adapters into the weights"
    ):
        LanguageModel("mine", model, word_tokenizer(), adapter=True)


def test_a_kind_that_is_new_to_steerkit_is_refused(monkeypatch, base: str, tmp_path: Path) -> None:
    from steerkit.models import adapter_kinds

    adapter = save_adapter(tmp_path)
    monkeypatch.setattr(adapter_kinds, "WORK", ("IA3",))
    with pytest.raises(SteerkitError, match="a LORA adapter can't be used: steerkit was never tried with it"):
        with_and_without(base, adapter)
