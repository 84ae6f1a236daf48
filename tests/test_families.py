"""Each family of models is loaded, read and steered as transformers alone says; docs/families.md holds the figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import ATTENTION, ELSEWHERE, FAMILIES, HEAD, KNOWN, PARTS, grow, measure
from tiny import random_items, word_tokenizer
from towers import TOWERS, save, whole
from zoo import HYBRIDS, REFUSED, breed

from steerkit.checks.averages import Around
from steerkit.checks.suite import CHECKS
from steerkit.errors import SteerkitError
from steerkit.extraction.extract import extract
from steerkit.generation.stream import GenerationRow, generate
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_model, load_shape, wrap_model
from steerkit.models.supported import refuse

DOCS = Path(__file__).parent.parent / "docs/families.md"
quiet = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21's


@quiet
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_right(family: str, tmp_path: Path) -> None:
    lm, model = grow(family, tmp_path / family)
    ids = torch.tensor([[5, 9, 12, 30, 7]])
    with torch.no_grad():
        torch.testing.assert_close(lm.model(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
    before = {key: value.clone() for key, value in lm.model.state_dict().items()}
    row = measure(lm, model)
    assert (row.read <= 1e-6, row.same) == (True, row.texts)
    _, skipped, failed = row.checks
    assert failed == KNOWN.get(family, ())
    parts = {name.partition(".")[0] for name in row.sites}
    missing = {f"site: {part}" for part in PARTS if part not in parts}
    assert set(skipped) == missing | (set() if lm.batches == "padded" else {"left-padded = alone"})
    assert sum(map(len, row.checks)) == len(CHECKS) - len(ELSEWHERE)
    assert f"\n{row}\n" in DOCS.read_text(encoding="utf-8"), f"python tests/families.py > docs/families.md: {row}"
    after = lm.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    modules = lm.model.modules()
    hooks = [hook for m in modules for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert not [hook for hook in hooks if hook.__module__.startswith("steerkit")]  # transformers keeps its recorders


def test_the_table_is_whole() -> None:
    assert len(set(FAMILIES)) == len(FAMILIES)
    assert len(TOWERS) + len(HYBRIDS) >= 16 and len(ATTENTION) >= 34
    text = DOCS.read_text(encoding="utf-8")
    assert text.startswith(HEAD) and text.count("\n| ") == len(FAMILIES) + 1


@pytest.mark.parametrize("family", TOWERS)
def test_a_tower_is_not_loaded(family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = whole(family)
    folder = str(save(model, tmp_path / family))
    with caplog.at_level("INFO", logger="steerkit"):
        lm = load_model(folder)
    said = [record.message for record in caplog.records if "loaded as a text model, without" in record.message]
    assert len(said) == 1 and said[0].startswith(folder)
    own, all_of_it = lm.model.num_parameters(), model.num_parameters()
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    text = {id(p): p.numel() for part in (decoder, head) for p in part.parameters()}
    assert own == sum(text.values()) < all_of_it
    assert not any(parameter.is_meta for parameter in lm.model.parameters())
    shape = load_shape(folder)
    assert (shape.depth, shape.width) == (lm.depth, lm.width)
    assert wrap_model(model, lm.tokenizer).fingerprint == wrap_model(lm.model, lm.tokenizer).fingerprint or (
        family.startswith("qwen") and family != "qwen3_5"  # transformers has no text class: its own model, whole
    )


def test_a_model_in_memory_keeps_its_tower() -> None:
    model = whole("gemma3")
    lm = wrap_model(model, word_tokenizer())
    assert type(lm.model).__name__ == "Gemma3ForCausalLM"
    assert lm.blocks is model.get_decoder().layers
    assert sum(p.numel() for p in model.model.vision_tower.parameters())


def test_what_was_left_out_says_so(tmp_path: Path) -> None:
    lm = load_model(str(save(whole("qwen3_vl"), tmp_path / "m")))
    with pytest.raises(RuntimeError, match="visual was left out: steerkit loads text models"):
        lm.model.model.visual(torch.zeros(1))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("recurrent_gemma", "RecurrentGemmaForCausalLM keeps a past of its own kind"),
        ("rwkv", "RwkvForCausalLM takes no cache"),
        ("minimax", "transformers' cache doesn't fit this model"),
        ("gemma3n", r"its blocks hand on several streams, \[4, 1, 3, 16\]"),
    ],
)
def test_families_that_are_refused(name: str, said: str) -> None:
    assert name in REFUSED
    lm = breed(name)
    row = GenerationRow([5, 9, 12], 0)
    if name == "gemma3n":
        from families import ADD, Edit

        row = GenerationRow([5, 9, 12], 0, (Edit(ADD, 0, 1.0, torch.ones(16) / 4),))
    with pytest.raises(SteerkitError, match=f"^{name}: .*{said}"):
        generate(lm, [row], max_new_tokens=2, temperature=0)


def test_check_refuses_before_it_measures() -> None:
    with pytest.raises(SteerkitError, match="keeps a past of its own kind"):
        refuse(breed("recurrent_gemma"))


@pytest.mark.parametrize("name", ["lfm2", "mamba"])
def test_only_rows_of_one_length_share_a_forward(name: str) -> None:
    lm = breed(name)
    shapes: list[tuple[int, ...]] = []
    handle = lm.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append((*args, kwargs.get("input_ids"))[0].shape), with_kwargs=True
    )
    lengths = [3, 7, 3, 5, 7, 3]
    rows = [GenerationRow([5 + n + i for i in range(length)], n) for n, length in enumerate(lengths)]
    generate(lm, rows, max_new_tokens=2, temperature=1.0, batch_size=2)
    prompts = [tuple(shape) for shape in shapes if shape[1] > 1]
    assert prompts == [(2, 7), (1, 5), (2, 3), (1, 3)]
    shapes.clear()
    items = random_items(4, longest=20)
    extract(lm, [*items, *(twin(item) for item in items)], Around())
    handle.remove()
    assert sorted(tuple(shape) for shape in shapes) == sorted((2, len(item.ids)) for item in items)


def twin(item: Any) -> Any:
    from dataclasses import replace

    return replace(item, trace=replace(item.trace, id=item.trace.id + "'"))


def test_the_setup_says_how_rows_are_batched() -> None:
    assert breed("lfm2").setup["batches"] == "equal lengths"
    assert breed("llama").setup["batches"] == "padded"


def test_trust_in_one_block_is_none_in_another() -> None:
    """Prompts' lower blocks may be shared up to one block and not up to a later one, which keeps keys for others."""
    from families import ADD, Edit

    model = whole("gemma4")
    lm: LanguageModel = wrap_model(model, word_tokenizer())
    draws = torch.nn.functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    for layer in range(lm.depth):
        rows = [GenerationRow([5, 9, 12, 7], 0, (Edit(ADD, layer, 5.0, draw),)) for draw in draws]
        together = [text.ids for text in generate(lm, rows, max_new_tokens=4, temperature=0)]
        assert together == [generate(lm, [row], max_new_tokens=4, temperature=0)[0].ids for row in rows]
