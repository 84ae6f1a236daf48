"""Steered sampling of a batch of rows, each with its own condition; finished rows leave the batch.

One prefill and a decode loop over the model's own forward: no sampling state outside the rows, so a batch's
texts depend on its rows alone. HF's `generate` gives the same greedy tokens (a test holds this) and can be
steered too, with ``with steerer(...)``; this loop adds paired noise, compaction and cheaper cache growth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from steerkit.noise import gumbel
from steerkit.steering import Edit, Steering

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.model import LanguageModel

COMPACT_AT = 0.75  # finished rows leave when at most this share of the batch is still alive
STREAM = 0x67656E  # separates sampling noise from steerers' noise


@dataclass(frozen=True)
class GenerationRow:
    """One text to generate.

    Attributes:
        prompt_ids: formatted prompt.
        key: hash of (seed, prompt): the row's noise at step t is a function of (key, t) alone.
        edit: how the row is steered; None leaves it alone.
    """

    prompt_ids: Sequence[int]
    key: int
    edit: Edit | None = None


@dataclass
class Generated:
    """One generated text.

    Attributes:
        ids: new token ids, the end-of-sequence token excluded.
        finished: whether the model ended it (not the length limit).
        margins: for each step, by how much the chosen token led the second in logits/T + noise, if asked for.
    """

    ids: list[int] = field(default_factory=list)
    finished: bool = False
    margins: list[float] = field(default_factory=list)


def generate(
    lm: LanguageModel,
    rows: Sequence[GenerationRow],
    *,
    max_new_tokens: int,
    temperature: float,
    batch_size: int | None = None,
    margins: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[Generated]:
    """Generate texts.

    Args:
        max_new_tokens: tokens a row.
        batch_size: rows at a time, all of them when left out.
        temperature: of the sampling; 0 is greedy. Nothing else is applied (no top-p, no penalties): the
            model's own generation_config is not read, but for its end-of-sequence ids.
        progress: takes the number of rows that have ended.
        margins: record every decision's margin (slower).

    Raises:
        SteerkitError: rows have edits, and no position was steered.
    """
    import torch

    if batch_size is not None and len(rows) > batch_size:
        parts = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        own: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "margins": margins}
        texts: list[Generated] = []
        for part in parts:
            texts += generate(lm, part, **own)
            if progress:
                progress(len(texts))
        return texts
    results = [Generated() for _ in rows]
    if not rows:
        return results
    ends = torch.tensor(end_ids(lm), device=lm.device)
    ids, mask = _left_pad([row.prompt_ids for row in rows], lm)
    steering = Steering(lm, [row.edit for row in rows])
    alive = list(range(len(rows)))  # which row each line of the batch is
    done: list[bool] = [False] * len(rows)
    sampler = _Sampler([row.key for row in rows], temperature, lm.device)
    with torch.inference_mode(), steering:
        cache = growing_cache(lm, ids.shape[1] + max_new_tokens)
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        for step in range(max_new_tokens):
            out = lm.model(
                input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            scores = sampler.scores(out.logits[:, -1], step)
            chosen = scores.argmax(-1)
            leads = _leads(scores) if margins else None
            ended = torch.isin(chosen, ends).tolist()
            for line, (token, end) in enumerate(zip(chosen.tolist(), ended, strict=True)):
                row = alive[line]
                if done[row]:
                    continue
                if leads is not None:
                    results[row].margins.append(leads[line])
                done[row] = results[row].finished = end
                if not end:
                    results[row].ids.append(token)
            live = [line for line, row in enumerate(alive) if not done[row]]
            if not live:
                break
            if len(live) <= COMPACT_AT * len(alive):
                keep = torch.tensor(live, device=lm.device)
                alive = [alive[line] for line in live]
                cache.batch_select_indices(keep)
                steering.select(live)
                sampler.select(keep)
                chosen, mask, position = chosen[keep], mask[keep], position[keep]
            ids = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            position = position[:, -1:] + 1
        edited = [result for row, result in zip(rows, results, strict=True) if row.edit and row.edit.norm]
        steering.excused = all(result.finished and not result.ids for result in edited)
    return results


class _Sampler:
    """logits / T + Gumbel noise of (row key, step): its argmax is a sample of softmax(logits / T)."""

    def __init__(self, keys: Sequence[int], temperature: float, device: Any) -> None:
        import torch

        self.temperature = temperature
        # Rows of one prompt and seed share their noise: it is drawn once for all conditions.
        self.unique, self.inverse = torch.tensor(keys, device=device).unique(return_inverse=True)

    def scores(self, logits: Tensor, step: int) -> Tensor:
        """[B, V] float32, in a fresh tensor."""
        logits = logits.float()
        if self.temperature == 0:
            return logits
        noise = gumbel(self.unique, self.unique.new_tensor(step), stream=STREAM, size=logits.shape[-1])
        return noise[self.inverse].add_(logits, alpha=1 / self.temperature)

    def select(self, keep: Tensor) -> None:
        self.unique, inverse = self.unique[self.inverse[keep]].unique(return_inverse=True)
        self.inverse = inverse


def _leads(scores: Tensor) -> list[float]:
    top = scores.topk(2, -1).values
    return (top[:, 0] - top[:, 1]).tolist()


def end_ids(lm: LanguageModel) -> list[int]:
    """End-of-sequence ids of the model's generation config and tokenizer."""
    config = getattr(lm.model, "generation_config", None)
    found = getattr(config, "eos_token_id", None)
    listed = found if isinstance(found, list) else [] if found is None else [found]
    own = lm.tokenizer.eos_token_id
    return sorted({*listed, *([own] if own is not None else [])}) or [-1]


def _left_pad(prompts: Sequence[Sequence[int]], lm: LanguageModel) -> tuple[Tensor, Tensor]:
    import torch

    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    return ids.to(lm.device), mask.to(lm.device)


def growing_cache(lm: LanguageModel, length: int) -> Any:
    """HF's DynamicCache for the model, its plain layers backed by buffers of the final length.

    HF concatenates keys and values anew at every step; writing into a buffer costs one token's copy.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    class BufferedLayer(DynamicLayer):
        """A DynamicLayer whose `keys` and `values` are growing views of preallocated buffers."""

        buffers: tuple[Any, Any] | None = None

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            old: tuple[Any, Any] = (self.keys, self.values)
            past = old[0].shape[-2] if old[0].numel() else 0
            total = past + key_states.shape[-2]
            if self.buffers is None or self.buffers[0].shape[0] != key_states.shape[0]:
                shapes = [(*new.shape[:2], max(length, total), new.shape[-1]) for new in (key_states, value_states)]
                self.buffers = key_states.new_empty(shapes[0]), value_states.new_empty(shapes[1])
                for buffer, part in zip(self.buffers, old, strict=True):
                    if past:
                        buffer[:, :, :past] = part
            keys, values = self.buffers
            keys[:, :, past:total] = key_states
            values[:, :, past:total] = value_states
            self.keys, self.values = keys[:, :, :total], values[:, :, :total]
            return self.keys, self.values

    cache = DynamicCache(config=lm.config)
    cache.layers = [BufferedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
