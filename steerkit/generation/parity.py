"""Does an engine steer as transformers does? Log-probabilities, greedy tokens and steered positions side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerkit.data.chat_format import format_prompt
from steerkit.generation.engine import Engine, Greedy
from steerkit.generation.stream import Generated, GenerationRow, generate
from steerkit.interventions.edits import Edit, Tokens
from steerkit.interventions.steering import Steering
from steerkit.interventions.uncompiled import hooks_run
from steerkit.models.block_output import hidden_of
from steerkit.stats.noise import key_of, normal

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.interfaces import Steerer
    from steerkit.models.language_model import LanguageModel


LONGEST = 256  # tokens of a prompt that are compared

PROMPTS = (
    "What is 17 times 23?",
    "Ann has 12 apples. She gives a third of them to Bob and eats one. How many are left? Think step by step.",
    "A farmer counts his animals. "
    + "He has 14 hens and 9 cows, sells 3 hens and buys 2 cows. " * 6
    + "How many legs are there on the farm?",
)
"""Of unequal length; the last is longer than a block of any engine's prefix cache."""


@dataclass(frozen=True)
class Parity:
    """How one way of steering compares, over its rows.

    Attributes:
        name: of the way of steering.
        rows: number of texts.
        error: largest |Δ ln p| over all tokens, in nats; None for sampled texts, as are the next and the last two.
        unsteered: the same over the rows without edits: what the engines differ by anyhow.
        same: texts that are the same token for token, or first differ where transformers' own choice is a tie.
        ties: of these, the texts with such a tie.
        steered: positions that the engine steered.
        expected: positions that transformers steers on the same tokens.
        tolerance: of `error`, and of what counts as a tie.
    """

    name: str
    rows: int
    error: float | None
    unsteered: float | None
    same: int
    ties: int
    steered: int | None
    expected: int | None
    tolerance: float

    @property
    def passed(self) -> bool:
        close = self.error is None or self.error <= self.tolerance
        return close and self.same == self.rows and self.steered == self.expected


def check_rows(
    lm: LanguageModel, prompts: Sequence[str], strengths: Sequence[float], layer: int, steerers: Mapping[str, Steerer]
) -> dict[str, list[GenerationRow]]:
    """What is compared, by name: every strength and prompt mixed in one batch, for each way of steering.

    The first steerer takes a random direction, on all tokens, the prompt's and the generated ones; the others
    all tokens. The first way comes once more at the end: its rows then find their own prefixes in a cache.
    Strengths are shares of the mean length of the block's activations, so that they fit any model.
    """
    ids = [format_prompt(lm.tokenizer, prompt)[:LONGEST] for prompt in prompts]
    scale = activation_length(lm, ids, layer)
    direction = random_direction(lm.width)
    ways: list[tuple[str, Steerer, Tokens]] = []
    for place, (name, steerer) in enumerate(steerers.items()):
        kinds: tuple[Tokens, ...] = ("all", "prompt", "generated") if place == 0 else ("all",)
        ways += [(f"{name}, {tokens}", steerer, tokens) for tokens in kinds]
    found = {}
    for label, steerer, tokens in ways:
        rows = []
        for number, prompt in enumerate(ids):
            key = key_of("engine check", number)
            for strength in strengths:
                given = direction if steerer.direction != "none" else None
                edit = Edit(steerer, layer, strength * scale, given, tokens, key)
                rows.append(GenerationRow(prompt, key, (edit,) if strength else ()))
        found[label] = rows
    first = next(iter(found))
    return {**found, f"{first}, again": found[first]}


def compare(
    lm: LanguageModel,
    engine: Engine,
    role: str,
    rows: Mapping[str, Sequence[GenerationRow]],
    *,
    max_new_tokens: int,
    tolerance: float,
) -> list[Parity]:
    """Each way of steering in the engine against transformers; `role` is the engine's name of `lm`."""
    found = []
    for name, own in rows.items():
        greedy = engine.greedy(role, own, max_new_tokens=max_new_tokens)
        expected = generate(lm, own, max_new_tokens=max_new_tokens, temperature=0)
        log_probs, leads, steered = reference(lm, own, greedy.texts, max_new_tokens)
        same, ties = _same(greedy.texts, expected, leads, tolerance)
        errors = _errors(greedy, log_probs)
        unsteered = max((e for e, row in zip(errors, own, strict=True) if not row.edits), default=0.0)
        found.append(Parity(name, len(own), max(errors), unsteered, same, ties, greedy.steered, steered, tolerance))
    return found


def reference(
    lm: LanguageModel, rows: Sequence[GenerationRow], texts: Sequence[Generated], max_new_tokens: int
) -> tuple[list[list[float]], list[list[float]], int]:
    """transformers' reading of given texts, steered, a row at a time in one forward each.

    Returns:
        For each text, ln p of its ids; by how much the likeliest token leads each of them (the end token too), in
        nats; and the number of positions steered.
    """
    import torch

    log_probs, leads, steered = [], [], 0
    for row, text in zip(rows, texts, strict=True):
        logits, edited = reading(lm, row, text, max_new_tokens)
        scores = logits.log_softmax(-1)
        steered += edited
        own = scores[: len(text.ids)].gather(1, torch.tensor(text.ids, device=scores.device)[:, None])[:, 0]
        log_probs.append(own.tolist())
        leads.append((scores[: len(text.ids)].amax(-1) - own).tolist())
    return log_probs, leads, steered


def reading(lm: LanguageModel, row: GenerationRow, text: Generated, max_new_tokens: int) -> tuple[Tensor, int]:
    """[n, V] float32 logits before each token of a text (its end token too), steered, and the positions steered."""
    import torch

    read = [*row.prompt_ids, *text.ids]
    if not text.finished:
        read = read[:-1]  # the last token was never fed back
    with torch.inference_mode(), Steering(lm, [row.edits], [len(row.prompt_ids)]) as steering:
        if not text.ids or len(text.ids) == max_new_tokens == 1:
            steering.excused = steering.steered_at.keys()
        out = lm.model(input_ids=torch.tensor([read], device=lm.device), use_cache=False).logits[0]
        return out[len(row.prompt_ids) - 1 :].float(), steering.steered


def activation_length(lm: LanguageModel, prompts: Sequence[Sequence[int]], layer: int) -> float:
    """Mean L2 norm of the block's output over the prompts' tokens but the first."""
    import torch

    found: list[Tensor] = []

    def keep(module: object, args: object, output: object) -> None:
        found.append(hidden_of(output)[0, 1:].float().norm(dim=-1).mean())

    handle = lm.blocks[layer].register_forward_hook(keep)
    try:
        with torch.inference_mode(), hooks_run(lm):
            for prompt in prompts:
                lm.model(input_ids=torch.tensor([list(prompt)], device=lm.device), use_cache=False)
    finally:
        handle.remove()
    return float(torch.stack(found).mean())


def random_direction(width: int) -> Tensor:
    """[H] a unit vector, always the same."""
    import torch

    drawn = normal(torch.tensor(key_of("engine check")), torch.tensor(0), stream=0, size=width)
    unit: Tensor = drawn / drawn.norm()
    return unit


def _errors(greedy: Greedy, expected: Sequence[Sequence[float]]) -> list[float]:
    """For each text, the largest |Δ ln p| of its tokens; infinite where one is missing."""
    found = []
    for ours, theirs in zip(greedy.log_probs, expected, strict=True):
        whole = len(ours) == len(theirs)
        found.append(max((abs(a - b) for a, b in zip(ours, theirs, strict=True)), default=0.0) if whole else math.inf)
    return found


def _same(
    texts: Sequence[Generated], expected: Sequence[Generated], leads: Sequence[Sequence[float]], tolerance: float
) -> tuple[int, int]:
    same = ties = 0
    for ours, theirs, lead in zip(texts, expected, leads, strict=True):
        if ours == theirs:
            same += 1
        else:
            pairs = enumerate(zip(ours.ids, theirs.ids, strict=False))
            first = next((i for i, (a, b) in pairs if a != b), None)
            if first is not None and lead[first] <= tolerance:
                same, ties = same + 1, ties + 1
    return same, ties
