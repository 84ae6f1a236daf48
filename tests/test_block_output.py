"""Hidden states are found in whatever a block puts out, and put back into it."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from oracles import edited_logits
from steerkit_plugins.steerers.residual_add import ResidualAdd
from tiny import build, random_items, word_tokenizer
from transformers.utils import ModelOutput

from steerkit.checks.averages import WINDOW, Around
from steerkit.errors import SteerkitError
from steerkit.extraction.extract import extract, read_layer
from steerkit.generation.parity import activation_length
from steerkit.generation.stream import GenerationRow, generate
from steerkit.interventions.steering import Edit, Steering
from steerkit.models.block_output import hidden_of, with_hidden
from steerkit.models.language_model import LanguageModel
from steerkit.models.supported import refuse

Pair = namedtuple("Pair", ["hidden", "rest"])
HIDDEN, REST = torch.ones(1, 2, 3), torch.zeros(1)


@pytest.mark.parametrize(
    "output",
    [
        HIDDEN,
        (HIDDEN, REST),
        [HIDDEN, REST],
        Pair(HIDDEN, REST),
        {"hidden": HIDDEN, "rest": REST},
        ModelOutput(hidden=HIDDEN, rest=REST),
    ],
    ids=lambda output: type(output).__name__,
)
def test_containers(output: Any) -> None:
    assert hidden_of(output) is HIDDEN
    changed = with_hidden(output, 2 * HIDDEN)
    assert type(changed) is (torch.Tensor if output is HIDDEN else type(output))
    assert torch.equal(hidden_of(changed), 2 * HIDDEN) and hidden_of(output) is HIDDEN
    if output is not HIDDEN:
        rest = list(changed.values())[1] if isinstance(changed, dict) else changed[1]
        assert rest is REST


@pytest.mark.parametrize("output", [None, (), {}, ("x", HIDDEN)])
def test_what_holds_no_hidden_states(output: Any) -> None:
    with pytest.raises(SteerkitError, match=r"a decoder block put out a .* and no hidden states"):
        hidden_of(output)


@pytest.fixture(scope="module")
def gpt() -> LanguageModel:
    """OpenAI's GPT, whose blocks put out lists."""
    torch.manual_seed(0)
    config = transformers.OpenAIGPTConfig(
        vocab_size=64,
        n_embd=16,
        n_layer=3,
        n_head=2,
        n_positions=128,
        initializer_range=0.3,
        bos_token_id=2,
        eos_token_id=1,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    assert isinstance(model.transformer.h[0](torch.ones(1, 2, 16)), list)
    return LanguageModel("gpt", model, word_tokenizer())


def test_a_model_whose_blocks_put_out_lists_is_read(gpt: LanguageModel) -> None:
    items = random_items(3)
    found = extract(gpt, items, Around()).at(WINDOW).mean("all", "trace").numpy()
    states = []
    for item in items:
        with torch.no_grad():
            hidden = gpt.model(torch.tensor([list(item.ids)]), output_hidden_states=True).hidden_states[1:]
        windows = [[span.first + o for o in range(WINDOW[0], WINDOW[1] + 1)] for span in item.spans]
        states.append(np.mean([[h[0, window].mean(0).numpy() for h in hidden] for window in windows], 0))
    np.testing.assert_allclose(found, np.mean(states, 0), rtol=1e-4, atol=1e-4)
    [(_, hidden)] = read_layer(gpt, items[:1], 1)
    assert activation_length(gpt, [items[0].ids], 1) == pytest.approx(float(hidden[0, 1:].norm(dim=-1).mean()))


def test_a_model_whose_blocks_put_out_lists_is_steered(gpt: LanguageModel, direction) -> None:
    ids = torch.tensor([[5, 9, 12, 33]])
    edit = Edit(ResidualAdd(), 1, 4.0, direction)
    with torch.no_grad(), Steering(gpt, edit) as steering:
        found = gpt.model(input_ids=ids).logits
    assert steering.steered == 4

    def change(module: Any, args: Any, output: list[Any]) -> list[Any]:
        return [output[0] + 4.0 * direction, *output[1:]]

    handle = gpt.blocks[1].register_forward_hook(change)
    with torch.no_grad():
        torch.testing.assert_close(found, gpt.model(input_ids=ids).logits)
        own = gpt.model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
    handle.remove()
    with torch.no_grad(), Steering(gpt, edit):
        assert torch.equal(gpt.model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0), own)


def test_what_such_a_model_lacks_is_told(gpt: LanguageModel) -> None:
    for call in (lambda: refuse(gpt), lambda: generate(gpt, [GenerationRow([5], 0)], max_new_tokens=2, temperature=0)):
        with pytest.raises(
            SteerkitError, match="OpenAIGPTLMHeadModel takes no cache, which steerkit's decode loop needs"
        ):
            call()


@pytest.mark.parametrize("kind", [tuple, list, lambda parts: ModelOutput(hidden=parts[0], rest=parts[1])])
def test_generation_through_any_container(kind: Any, direction) -> None:
    """A Llama whose block 1 puts out a container, which block 2 takes apart again."""
    lm, plain = build("llama"), build("llama")

    def pack(module: Any, args: Any, output: Any) -> Any:
        return kind((output, torch.zeros(1)))

    def unpack(module: Any, args: Any) -> Any:
        return (hidden_of(args[0]), *args[1:])

    lm.blocks[1].register_forward_hook(pack)
    lm.blocks[2].register_forward_pre_hook(unpack)
    edits = [Edit(ResidualAdd(), 1, norm, direction) for norm in (4.0, -4.0)]
    rows = [GenerationRow([5, 9, 12, 33], 0, (edit,)) for edit in edits]  # they share blocks 0 and 1
    texts, expected = ([t.ids for t in generate(m, rows, max_new_tokens=5, temperature=0)] for m in (lm, plain))
    assert texts == expected
    first = edited_logits(plain.model, torch.tensor([[5, 9, 12, 33]]), 1, lambda h: h + 4.0 * direction)
    assert texts[0][:1] == first[0, -1:].argmax(-1).tolist()
