"""Families of models held against transformers alone: what they are loaded as, read and steered like.

`python tests/families.py > docs/families.md` writes the table; `test_families` holds its rows.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from oracles import blocks_of
from tiny import random_items
from towers import TOWERS, save, whole
from zoo import HYBRIDS, ZOO, breed

from steerkit.checks.averages import WINDOW, Around
from steerkit.checks.probe import ADD, make_probe
from steerkit.checks.suite import CHECKS, run_checks
from steerkit.data.site import Part, Site
from steerkit.data.trace import Item
from steerkit.errors import SteerkitError
from steerkit.extraction.extract import extract
from steerkit.generation.stream import GenerationRow, end_ids, generate
from steerkit.interventions.steering import Edit, Tokens
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_model
from steerkit.models.sites import resolve

ATTENTION = tuple(name for name in ZOO if name not in HYBRIDS and name not in TOWERS)
FAMILIES = (*TOWERS, *HYBRIDS, *ATTENTION)
BEGINS_AT_A_BLOCK = ("mamba", "mamba2", "falcon_mamba")  # their hidden_states lack the embeddings
SEEDS = {"qwen3_next": 3}  # its random weights amplify rounding; with seeds 0 to 2 by up to 2 tolerances of a check
ELSEWHERE = ("weights complete", "adapter has an effect")  # checks of files and of adapters
KNOWN = {"zamba2": ("cache = no cache",)}  # checks that fail, and why stands in HEAD
PARTS = get_args(Part)[1:]  # without the block itself
LENGTHS = (4, 9, 13)  # of prompts, in tokens
NEW = 5  # tokens a text
KINDS: tuple[Tokens, ...] = ("all", "prompt", "generated")
HEAD = """# Families of models

Every family below is loaded from a checkpoint of a tiny random model as transformers writes it. *Read*: the largest
relative difference between `extract` and the same means of transformers' hidden states. *Texts*: greedy texts that
equal those of a single row decoded without a cache under a hook of the test's own; three prompt lengths, with tokens
`all`, `prompt` and `generated` and without steering, mixed in one call. *Check*: what `steerkit check` says.

`padded` rows of any length share a batch. Of the others only rows of *equal lengths* do, because a recurrent state
takes in every column that it is shown: traces are read together with traces of their own length or alone, rows are
generated in groups of one prompt length with the model's own cache, and a group begins when the one before has ended.
The check `left-padded = alone` is skipped for them. A run says which it is (`log.jsonl`, the console, the report).

Multimodal checkpoints are loaded as text models. What reads images and sound is left out before weights are read.

Not handled, and refused in words: encoder-decoders; models that keep their past in another way than transformers'
caches (RecurrentGemma, RWKV, xLSTM, MiniMax); models with several residual streams (Gemma 3n, DeepSeek-V4).
Zamba2 fails `cache = no cache` by about 5e-4: transformers bounds the time step from below (`time_step_min`) in a whole
forward and not in a cached step. Nemotron-H does so too where weights make steps that short.

**Quantised weights** are read as transformers reads them: bitsandbytes and torchao (`pip install
'steerkit-hf[quantized]'`) were tried, also in whole runs, and FP8 with and without compressed-tensors; GPTQ, AWQ and
the others were not. They keep the number format that they were saved for, or have bfloat16 with `bf16: true`. A
method that transformers doesn't know is refused. FP8 weights that this machine can't use are unpacked, and a warning
says so. Rows of bitsandbytes' 8-bit models (LLM.int8) are run alone, because their layers mix the rows of a batch.
`check` allows for the coarser arithmetic, and skips what can't be done with packed weights.

**Sites** are the parts of a block that can be read, edited and replaced beside the block itself: `attention`, `mlp`,
and the projections `q`, `k`, `v`, `o`, `gate`, `up`, `down`. *all* is all of them. `q.out` means that one module makes
several parts of one input, so that only the output can be told apart (a share of `c_attn`, `qkv_proj`, `gate_up_proj`).
In hybrids some blocks have other parts than others. Refused in words: what a family lacks (an MLP without a gate),
Mamba mixers and convolutions in the place of attention, the projections inside experts, keys of latent attention (two
modules make them), and MLPs that are two modules side by side. `q`, `k` and `v` are those before any norm and rotation;
`attention.out` and `mlp.out` are what the module adds to the residual stream, before a norm or factor that a family
applies to it first.

| family | class | batches | read | texts | check | sites |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """What was found of a family.

    Attributes:
        read: largest relative error of extracted means.
        same: texts that equal the loop's; `texts` of them were made.
        checks: (passed, skipped, failed) names of checks.
        sites: parts that some block has; with `.out` where it has its output alone.
    """

    family: str
    kind: str
    batches: str
    read: float
    same: int
    texts: int
    checks: tuple[tuple[str, ...], ...]
    sites: tuple[str, ...]

    def __str__(self) -> str:
        found = ", ".join(
            f"{len(names)} {word}"
            for names, word in zip(self.checks, ("passed", "skipped", "failed"), strict=True)
            if names
        )
        read = "≤ 1e-6" if self.read <= 1e-6 else f"{self.read:.0e}"
        sites = "all" if self.sites == PARTS else " ".join(self.sites) or "none"
        texts = f"{self.same} of {self.texts}"
        return f"| {self.family} | {self.kind} | {self.batches} | {read} | {texts} | {found} | {sites} |"


def grow(family: str, folder: Path) -> tuple[LanguageModel, Any]:
    """The family's model as a user loads it, and the one that was saved."""
    seed = SEEDS.get(family, 0)
    model = whole(family, seed) if family in TOWERS else breed(family, seed).model
    return load_model(str(save(model, folder))), model


def measure(lm: LanguageModel, model: Any) -> Row:
    """A family's row."""
    kinds = [type(each).__name__ for each in (model, lm.model)]
    outcomes = run_checks(make_probe(lm), [check for check in CHECKS if check.name not in ELSEWHERE])
    by_verdict = [tuple(o.name for o in outcomes if o.passed is verdict) for verdict in (True, None, False)]
    same, texts = compare_texts(lm)
    return Row(
        Path(lm.name).name,
        " as ".join(dict.fromkeys(kinds)),
        lm.batches,
        compare_reads(lm),
        same,
        texts,
        tuple(by_verdict),
        sites_of(lm),
    )


def sites_of(lm: LanguageModel) -> tuple[str, ...]:
    """The parts that some block has."""
    found = {}
    for part, layer in product(PARTS, range(lm.depth)):
        for side in ("out", "in"):
            with suppress(SteerkitError):
                resolve(lm, Site(layer, part, side))
                found[part] = part if side == "in" else found.get(part, f"{part}.out")
    return tuple(found.values())


def compare_reads(lm: LanguageModel) -> float:
    """Largest relative error of a layer's mean over the spans' windows."""
    items = [Item(i.trace, [s for s in i.spans if s.first >= 2], i.ids) for i in random_items(5, longest=20)]
    items += [Item(replace(items[0].trace, id="again"), items[0].spans, items[0].ids[::-1])]  # two of one length
    found = extract(lm, items, Around()).at(WINDOW).mean("all", "span").numpy()
    means = []
    for item in items:
        states = block_outputs(lm, item.ids)
        means += [states[:, span.first + WINDOW[0] : span.first + WINDOW[1] + 1].mean(1) for span in item.spans]
    expected = np.stack(means).mean(0)
    return float((np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)).max())


def block_outputs(lm: LanguageModel, ids: Sequence[int]) -> np.ndarray:
    """[L, T, H] float64: `output_hidden_states`, and a hook for the last block."""
    last: list[torch.Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        last.append(output[0] if isinstance(output, tuple) else output)

    handle = blocks_of(lm.model)[-1].register_forward_hook(keep)
    with torch.no_grad():
        told = lm.model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False).hidden_states
    handle.remove()
    first = 0 if lm.config.model_type in BEGINS_AT_A_BLOCK else 1
    inner = told[first : first + len(blocks_of(lm.model)) - 1]
    return np.stack([state[0].double().numpy() for state in (*inner, last[0])])


def compare_texts(lm: LanguageModel) -> tuple[int, int]:
    """Texts that equal the loop's, and all: three lengths, all kinds of tokens, steered and not, in one call."""
    draw, noise = random.Random(5), torch.Generator().manual_seed(3)
    rows: list[GenerationRow] = []
    for number, length in enumerate(LENGTHS):
        prompt = [draw.randrange(3, 60) for _ in range(length)]
        rows.append(GenerationRow(prompt, 0))
        for kind in KINDS:
            direction = torch.randn(lm.width, generator=noise)
            layer = (number + len(rows)) % lm.depth
            norm = float(np.linalg.norm(block_outputs(lm, prompt)[layer], axis=-1).mean())
            rows.append(GenerationRow(prompt, 0, (Edit(ADD, layer, norm, direction / direction.norm(), kind),)))
    found = generate(lm, rows, max_new_tokens=NEW, temperature=0, batch_size=5)
    expected = [alone(lm, row) for row in rows]
    return sum(text.ids == ids for text, ids in zip(found, expected, strict=True)), len(rows)


def alone(lm: LanguageModel, row: GenerationRow) -> list[int]:
    """One row, token by token, each time the whole sequence without a cache."""
    ids, ends = list(row.prompt_ids), end_ids(lm)
    with torch.no_grad(), edited(lm, row):
        for _ in range(NEW):
            token = int(lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in ends:
                break
            ids.append(token)
    return ids[len(row.prompt_ids) :]


@contextmanager
def edited(lm: LanguageModel, row: GenerationRow) -> Iterator[None]:
    """Inside, a hook adds the row's vector to the tokens that its edit names."""
    if not row.edits:
        yield
        return
    (edit,), length = row.edits, len(row.prompt_ids)
    assert edit.direction is not None
    place = {"all": slice(None), "prompt": slice(length), "generated": slice(length, None)}[edit.tokens]
    vector = edit.norm * edit.direction

    def add(module: Any, args: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, place] += vector
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = blocks_of(lm.model)[edit.layer].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def main() -> None:
    print(HEAD, end="")
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(*grow(family, Path(folder) / family)), flush=True)


if __name__ == "__main__":
    main()
