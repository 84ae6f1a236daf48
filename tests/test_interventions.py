"""Edits at sites inside blocks, sets of them, and how prompts are shared, against hooks of the test's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from steerkit_plugins.engines.vllm import refuse_edits
from steerkit_plugins.steerers.gaussian_noise import GaussianNoise
from steerkit_plugins.steerers.residual_add import ResidualAdd
from tiny import random_items, tiny
from torch import Tensor
from zoo import breed

from steerkit.data.site import Site
from steerkit.errors import SteerkitError
from steerkit.extraction.extract import read_sites
from steerkit.generation import prefill
from steerkit.generation.stream import GenerationRow, generate
from steerkit.interfaces import EditContext, Intervention
from steerkit.interventions.edits import Edit, EditSet
from steerkit.interventions.steering import Steering
from steerkit.models.language_model import LanguageModel
from steerkit.stats.noise import key_of

ADD = ResidualAdd()
PROMPTS = [[5, 9, 12, 33, 7], [9, 14], [22, 8, 30, 11], [40, 41, 42]]
NEW = 6
WIDTHS = {"q": 16, "k": 8, "v": 8, "o": 16, "gate": 24, "up": 24, "down": 16, "attention": 16, "mlp": 16, "block": 16}


class Reflect(Intervention):
    """x - 2 (x·v̂) v̂."""

    direction = "vector"

    def forward(self, x: Tensor, at: EditContext) -> Tensor:
        return x - 2 * (x * at.direction).sum(-1, keepdim=True) * at.direction


class Counting(Intervention):
    """Doubles, and remembers how often it was called: what a row's prompt gets depends on the calls before."""

    shares_prefix = False

    def forward(self, x: Tensor, at: EditContext) -> Tensor:
        return 2 * x


def unit(width: int, seed: int = 0) -> Tensor:
    value = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return value / value.norm()


def names_in_llama(site: Site) -> tuple[str, str]:
    """Dotted name and side."""
    if site.part in ("q", "k", "v", "o"):
        below = f".self_attn.{site.part}_proj"
    elif site.part in ("gate", "up", "down"):
        below = f".mlp.{site.part}_proj"
    else:
        below = {"attention": ".self_attn", "mlp": ".mlp", "block": ""}[site.part]
    return f"model.layers.{site.layer}{below}", site.side


@contextmanager
def by_hand(model: Any, edits: EditSet, length: int) -> Iterator[None]:
    """Inside, hooks on a Llama's modules by their names do what the edits of one row say."""
    handles = []
    for edit in edits:
        place = {"all": slice(None), "prompt": slice(length), "generated": slice(length, None)}[edit.tokens]

        def change(value: Any, edit: Edit = edit, place: slice = place) -> Any:
            x = (value[0] if isinstance(value, tuple) else value).clone()
            v = edit.direction
            assert v is not None
            own = x[:, place]
            if isinstance(edit.intervention, Reflect):
                x[:, place] = own - 2 * (own * v).sum(-1, keepdim=True) * v
            else:
                x[:, place] = own + edit.norm * v
            return (x, *value[1:]) if isinstance(value, tuple) else x

        name, side = names_in_llama(edit.site)
        module = model.get_submodule(name)
        if side == "out":
            handles.append(module.register_forward_hook(lambda m, a, out, change=change: change(out)))
        else:

            def before(m: Any, args: Any, kwargs: Any, change: Any = change) -> Any:
                if args:
                    return (change(args[0]), *args[1:]), kwargs
                return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def alone_by_hand(lm: LanguageModel, row: GenerationRow) -> list[int]:
    """Greedy, the whole sequence in each step, no cache."""
    ids = list(row.prompt_ids)
    with torch.no_grad(), by_hand(lm.model, row.edits, len(ids)):
        for _ in range(NEW):
            token = int(lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token == 1:
                break
            ids.append(token)
    return ids[len(row.prompt_ids) :]


SITES = [Site(2, part, side) for part in WIDTHS for side in ("in", "out")]


def width_of(site: Site) -> int:
    if site.side == "in":
        return {"o": 16, "down": 24}.get(site.part, 16)
    return WIDTHS[site.part]


def grid(sites: Sequence[Site]) -> list[GenerationRow]:
    rows = []
    for number, site in enumerate(sites):
        for which, prompt in enumerate(PROMPTS[:3]):
            tokens = ("all", "prompt", "generated")[(number + which) % 3]
            edit = Edit(ADD, site, 6.0, unit(width_of(site), number), tokens)  # type: ignore[arg-type]
            rows.append(GenerationRow(prompt, 0, (edit,)))
    return rows


def test_texts_under_edits_at_every_site_are_those_of_hooks_by_hand(llama: LanguageModel) -> None:
    """All sites, prompts of unequal length and kinds of tokens in one batch that is refilled."""
    rows = [*grid(SITES), *(GenerationRow(prompt, 0) for prompt in PROMPTS)]
    found = [text.ids for text in generate(llama, rows, max_new_tokens=NEW, temperature=0, batch_size=16)]
    expected = [alone_by_hand(llama, row) for row in rows]
    assert found == expected
    assert len({tuple(ids) for ids in found}) > len(rows) // 3  # edits do change texts


def test_a_set_of_edits_is_applied_in_order(llama: LanguageModel) -> None:
    """At several sites; and at one: adding and then mirroring is something else than mirroring and then adding."""
    v, w = unit(16, 1), unit(16, 2)
    add, mirror = Edit(ADD, 1, 5.0, v), Edit(Reflect(), 1, 1.0, w)
    sets: list[EditSet] = [
        (add, mirror),
        (mirror, add),
        (add, Edit(ADD, 1, 2.0, w)),
        (Edit(ADD, Site(3, "q"), 4.0, w), Edit(ADD, Site(0, "mlp"), 3.0, v), mirror),
        (),
        (Edit(ADD, Site(1, "down", "in"), 4.0, unit(24)), Edit(ADD, Site(1, "mlp"), 3.0, v), add),
    ]
    ids = torch.tensor([[5, 9, 12, 33, 7]])
    with torch.no_grad():
        with Steering(llama, sets) as steering:
            together = llama.model(input_ids=ids.expand(len(sets), -1)).logits
        for row, edits in zip(together, sets, strict=True):
            with by_hand(llama.model, edits, 5):
                torch.testing.assert_close(row, llama.model(input_ids=ids).logits[0], rtol=1e-4, atol=1e-4)
            if edits:
                with Steering(llama, edits):
                    shared = llama.model(input_ids=ids).logits[0]
                torch.testing.assert_close(row, shared, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    assert steering.steered_at == {
        Site(0, "mlp"): 5,
        Site(1, "down", "in"): 5,
        Site(1, "mlp"): 5,
        Site(1): 5 * 8,
        Site(3, "q"): 5,
    }
    rows = [GenerationRow(prompt, 0, edits) for edits in sets for prompt in PROMPTS]
    found = [text.ids for text in generate(llama, rows, max_new_tokens=NEW, temperature=0, batch_size=7)]
    assert found == [alone_by_hand(llama, row) for row in rows]


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "opt", "falcon", "bloom"])
def test_strength_zero_leaves_rows_bit_for_bit(name: str) -> None:
    lm = breed(name)
    ids = torch.tensor([[5, 9, 12, 33]] * 3)
    with torch.no_grad():
        plain = lm.model(input_ids=ids).logits
        zero = (Edit(ADD, Site(1, "v"), 0.0, unit(8)), Edit(ADD, Site(1, "mlp", "in"), 0.0, unit(16)))
        width = plain_width(lm, Site(1, "v"))
        rows: list[EditSet] = [(Edit(ADD, Site(1, "v"), 9.0, unit(width)), Edit(ADD, 0, 4.0, unit(16))), zero, ()]
        with Steering(lm, rows):
            mixed = lm.model(input_ids=ids).logits
        assert torch.equal(mixed[1:], plain[1:]) and not torch.equal(mixed[0], plain[0])
        assert torch.equal(lm.model(input_ids=ids).logits, plain)


def plain_width(lm: LanguageModel, site: Site) -> int:
    [(_, read)] = read_sites(lm, random_items(1), [site])
    return int(read[site].shape[-1])


def test_generate_of_transformers_under_edits_inside_blocks(llama: LanguageModel) -> None:
    """With beams, too, which copy rows."""
    edits = (Edit(ADD, Site(1, "q"), 5.0, unit(16)), Edit(ADD, Site(2, "mlp", "in"), 3.0, unit(16, 3)))
    ids = torch.tensor([PROMPTS[0]])
    for options in ({"do_sample": False}, {"do_sample": False, "num_beams": 3}):
        options |= {"max_new_tokens": NEW, "pad_token_id": 0}
        with by_hand(llama.model, edits, 5):
            expected = llama.model.generate(ids, **options)
        with Steering(llama, [edits]):
            assert torch.equal(llama.model.generate(ids, **options), expected)


def computed_tokens(lm: LanguageModel, rows: Sequence[GenerationRow]) -> list[int]:
    """Prompt tokens that each block computes."""
    seen: Counter[int] = Counter()

    def count(layer: int) -> Any:
        def hook(module: Any, args: Any) -> None:
            if args[0].shape[1] > 1:
                seen[layer] += args[0].shape[0] * args[0].shape[1]

        return hook

    handles = [block.self_attn.q_proj.register_forward_pre_hook(count(n)) for n, block in enumerate(lm.blocks)]
    try:
        generate(lm, rows, max_new_tokens=2, temperature=0)
    finally:
        for handle in handles:
            handle.remove()
    return [seen[layer] for layer in range(lm.depth)]


@pytest.mark.parametrize(
    ("edits", "shared"),
    [
        ((Edit(ADD, Site(2), 1.0, unit(16)),), 3),
        ((Edit(ADD, Site(2, "q"), 1.0, unit(16)),), 2),
        ((Edit(ADD, Site(2, "block", "in"), 1.0, unit(16)),), 2),
        ((Edit(ADD, Site(3, "mlp"), 1.0, unit(16)), Edit(ADD, Site(1), 1.0, unit(16))), 2),
        ((Edit(ADD, Site(0, "v"), 1.0, unit(8)),), 0),
        ((Edit(ADD, Site(1), 0.0, unit(16)), Edit(ADD, Site(3, "up"), 1.0, unit(24))), 3),
        ((Edit(ADD, Site(1), 1.0, unit(16), "generated"), Edit(ADD, Site(3, "up"), 1.0, unit(24))), 3),
        ((Edit(Counting(), Site(3), 1.0),), 0),
        ((Edit(Counting(), Site(3), 1.0, tokens="generated"),), 0),
    ],
)
def test_prompts_share_the_blocks_below_the_first_edited_site(
    llama: LanguageModel, edits: EditSet, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(prefill._trusted, llama.decoder, dict.fromkeys(range(4), True))
    length, count = len(PROMPTS[0]), 4
    # Strengths differ by row, so that no two rows have the same edits.
    sets = [tuple(replace(edit, norm=edit.norm * (1 + row)) for edit in edits) for row in range(count)]
    rows = [GenerationRow(PROMPTS[0], 0, own) for own in sets]
    assert computed_tokens(llama, rows) == [length] * shared + [count * length] * (4 - shared)


def test_rows_with_the_same_edits_share_a_reading_unless_a_state_is_kept(llama: LanguageModel) -> None:
    length = len(PROMPTS[0])
    edit = Edit(ADD, Site(1, "k"), 2.0, unit(8))
    assert computed_tokens(llama, [GenerationRow(PROMPTS[0], i, (edit,)) for i in range(3)]) == [length] * 4
    kept = Edit(Counting(), Site(1, "k"), 2.0)
    assert computed_tokens(llama, [GenerationRow(PROMPTS[0], i, (kept,)) for i in range(3)]) == [3 * length] * 4


def test_noise_inside_a_block_is_a_function_of_its_key(llama: LanguageModel) -> None:
    edit = Edit(GaussianNoise(), Site(2, "attention"), 4.0, key=key_of(0, "a"))
    rows = [GenerationRow(prompt, 3, (edit,)) for prompt in PROMPTS]
    together = generate(llama, rows, max_new_tokens=NEW, temperature=0)
    assert together == [generate(llama, [row], max_new_tokens=NEW, temperature=0)[0] for row in rows]


def test_what_breaks_inside_a_block_is_told() -> None:
    lm = tiny("llama")
    edit = Edit(ADD, Site(1, "o"), 1e30, unit(16))
    [text] = generate(lm, [GenerationRow(PROMPTS[0], 0, (edit,))], max_new_tokens=2, temperature=0)
    assert text.broken == "not finite in the output of block 1, where 1e+30 is added at o.out, at generated token 0"
    message = r"the steered output of block 1 \(o.out\) is not finite, or its squares overflow; up to 1e\+30 is added"
    with pytest.raises(SteerkitError, match=message), torch.no_grad(), Steering(lm, edit):
        lm.model(input_ids=torch.tensor([[5, 9]]))


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_other_number_formats(kind: torch.dtype) -> None:
    lm = breed("llama")
    lm.model.to(kind)
    edits = (Edit(ADD, Site(1, "up"), 4.0, unit(24)), Edit(ADD, 2, 4.0, unit(16)))
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        with Steering(lm, edits):
            found = lm.model(input_ids=ids).logits
        same = tuple(replace(edit, direction=edit.direction.to(kind)) for edit in edits)
        exact = [torch.tensor(edit.norm, dtype=kind) * edit.direction for edit in same]
        same = tuple(replace(edit, norm=1.0, direction=added) for edit, added in zip(same, exact, strict=True))
        with by_hand(lm.model, same, 5):
            assert torch.equal(found, lm.model(input_ids=ids).logits)
    assert found.dtype == kind


def test_hooks_come_off_after_an_exception_and_where_a_site_is_refused() -> None:
    lm = breed("gpt2")

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())

    before = hooks()
    with pytest.raises(KeyError), Steering(lm, (Edit(ADD, Site(0, "q"), 1.0, unit(16)), Edit(ADD, 1, 1.0, unit(16)))):
        assert hooks() == before + 3
        raise KeyError
    assert hooks() == before
    refused = (Edit(ADD, 0, 1.0, unit(16)), Edit(ADD, Site(1, "gate"), 1.0, unit(16)))
    with pytest.raises(SteerkitError, match=r"gpt2: block 1 \(GPT2Block\) has no gate\.out"), Steering(lm, refused):
        raise AssertionError
    assert hooks() == before
    with pytest.raises(SteerkitError, match=r"has no gate\.out"):
        generate(lm, [GenerationRow([5, 9], 0, refused)], max_new_tokens=2, temperature=0)


def test_mistakes_in_words(llama: LanguageModel) -> None:
    wide = Edit(ADD, Site(1, "k"), 1.0, unit(16))
    with (
        pytest.raises(SteerkitError, match=r"a direction of width \(16,\) on hidden states of 8"),
        torch.no_grad(),
        Steering(llama, wide),
    ):
        llama.model(input_ids=torch.tensor([[5]]))
    with pytest.raises(SteerkitError, match="None is no Edit: give a list with an entry for each row, or a tuple of"):
        Steering(llama, (Edit(ADD, 1, 1.0, unit(16)), None))  # type: ignore[arg-type]
    message = r"changed no position at block 1, block 2 \(up.out\) in 1 forward passes of llama"
    edits = (Edit(ADD, Site(2, "up"), 1.0, unit(24), "generated"), Edit(ADD, 1, 1.0, unit(16), "generated"))
    with pytest.raises(SteerkitError, match=message), torch.no_grad(), Steering(llama, edits):
        llama.model(input_ids=torch.tensor([[5, 9]]))


def test_the_docs_example_runs() -> None:
    text = (Path(__file__).parents[1] / "docs/sites.md").read_text(encoding="utf-8")
    blocks = text.split("```python\n")[1:]
    code = "\n".join(block.split("```")[0] for block in blocks)
    known: dict[str, Any] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(code, known)
    plain, edited = (text.ids for text in known["texts"])
    assert len(blocks) == 2 and plain != edited


def test_vllm_refuses_what_it_cannot_do_before_it_starts() -> None:
    block = Edit(ADD, 1, 1.0, unit(16))
    refuse_edits([GenerationRow([5], 0), GenerationRow([5], 0, (block, Edit(ADD, Site(0, "q"), 0.0, unit(16))))])
    rows = [
        GenerationRow([5], 0, (block, Edit(ADD, 2, 1.0, unit(16)))),
        GenerationRow([5], 0, (Edit(ADD, Site(0, "q"), 1.0, unit(16)),)),
        GenerationRow([5], 0, (Edit(Counting(), 1, 1.0),)),
    ]
    with pytest.raises(SteerkitError) as error:
        refuse_edits(rows)
    assert str(error.value).splitlines() == [
        "engine vllm can't do what was asked for; engine: hf can:",
        "  edits at block 0 (q.out): it edits the outputs of blocks alone",
        "  1 rows with several edits: it makes one edit a row",
        "  Counting: rows with one edit share their prompts' keys and values",
    ]
