"""Steered sampling of a stream of rows, each with its own condition; a row that ends makes room for another.

One decode loop over the model's own forward: no sampling state outside the rows, so a text depends on its row
alone, to rounding. Rows of models that can't be padded enter in groups of one prompt length
(`steerkit.generation.group_cache`). HF's `generate` gives the same greedy tokens (a test holds this) and can be steered
too, with ``with steer(...)``; this loop adds paired noise, shared prompts (`steerkit.generation.prefill`) and lines
that are taken over by waiting rows (`steerkit.generation.line_cache`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError
from steerkit.generation.breaks import first_break
from steerkit.generation.group_cache import GroupCache, next_logits
from steerkit.generation.line_cache import LineCache
from steerkit.generation.prefill import prefill
from steerkit.generation.sampling import NOT_FINITE, Sampler, Sampling, leads
from steerkit.interventions.edits import EditSet, replacement_key
from steerkit.interventions.steering import Steering
from steerkit.models.limits import check_ids, check_lengths
from steerkit.models.memory import NO_ROOM, out_of_memory, release
from steerkit.models.supported import refuse

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel

log = logging.getLogger("steerkit")
REFILL_AT = 1 / 8  # of the lines are free: waiting rows enter
COMPACT_AT = 3 / 4  # of the lines are in use and nothing waits: the others leave


@dataclass(frozen=True)
class GenerationRow:
    """One text to generate.

    Attributes:
        prompt_ids: formatted prompt.
        key: hash of (seed, prompt): the row's noise at step t is a function of (key, t) alone.
        edits: how the row is steered, those at one site in this order; empty leaves it alone.
    """

    prompt_ids: Sequence[int]
    key: int
    edits: EditSet = ()


@dataclass
class Generated:
    """One generated text.

    Attributes:
        ids: new token ids, the end-of-sequence token excluded.
        finished: whether the model ended it (not the length limit).
        margins: for each step, by how much the chosen token led the second in logits/T + noise, if asked for.
        broken: where the row's values stopped being finite, in words; empty for a whole text. `ids` are those before.
    """

    ids: list[int] = field(default_factory=list)
    finished: bool = False
    margins: list[float] = field(default_factory=list)
    broken: str = ""


def generate(
    lm: LanguageModel,
    rows: Sequence[GenerationRow],
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    batch_size: int | None = None,
    margins: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[Generated]:
    """Generate texts.

    Args:
        max_new_tokens: tokens a row.
        temperature, top_k, top_p, min_p: of the sampling, see `Sampling`; temperature 0 is greedy. Nothing else is
            applied (no penalties): of the model's own generation_config only the end-of-sequence ids are read.
        batch_size: rows at a time, all of them when left out.
        margins: record every decision's margin (slower).
        progress: takes the number of rows that have ended.

    When memory runs out, half as many rows go on; what had ended is kept. A steered row whose logits are not finite
    ends there, and its `broken` says where it began; the others go on. Rows that replace different modules are run
    apart, one group after the other.

    Raises:
        SteerkitError: a sampling setting is out of its bounds, an unsteered row's logits are not finite, no position
            was changed at a steered site, an edit changes gradients alone, the model has no such site, not even one
            row fits the memory, a text has ids or positions that the model hasn't, or the model is of a kind that
            steerkit doesn't generate with.
    """
    sampling = Sampling.of(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    if not rows:
        return []
    refuse(lm)
    prompts = [row.prompt_ids for row in rows]
    check_ids(lm, prompts)
    check_lengths(lm, max(map(len, prompts)) + max_new_tokens - 1, "a prompt with its new tokens")
    _check_edits(rows)
    apart: dict[Any, list[int]] = {}
    for number, row in enumerate(rows):
        apart.setdefault(replacement_key(row.edits), []).append(number)
    texts: dict[int, Generated] = {}
    for numbers in apart.values():
        done = len(texts)
        tell = None if progress is None else lambda more, done=done, tell=progress: tell(done + more)
        found = _generate(lm, [rows[i] for i in numbers], max_new_tokens, sampling, batch_size, margins, tell)
        texts |= zip(numbers, found, strict=True)
    _explain_breaks(lm, rows, texts)
    return [texts[i] for i in range(len(rows))]


def _check_edits(rows: Sequence[GenerationRow]) -> None:
    """Raises: SteerkitError when an edit can't change a text."""
    idle = {type(e.intervention).__name__ for r in rows for e in r.edits if not (e.changes_forward or e.replaces)}
    if idle:
        raise SteerkitError(f"{', '.join(sorted(idle))}: changes gradients alone, and generating computes none")


def _generate(
    lm: LanguageModel,
    rows: Sequence[GenerationRow],
    max_new_tokens: int,
    sampling: Sampling,
    batch_size: int | None,
    margins: bool,
    progress: Callable[[int], None] | None,
) -> list[Generated]:
    """`generate` for rows that replace the same modules."""
    import torch

    # Rows of a prompt enter together, to share it; the longest first, so that later prompts fit before the column
    # that the batch has come to.
    order = sorted(range(len(rows)), key=lambda row: (-len(rows[row].prompt_ids), tuple(rows[row].prompt_ids)))
    results: dict[int, Generated] = {}
    size = min(batch_size or len(rows), len(rows))
    with torch.inference_mode(), Steering(lm, [row.edits for row in rows]) as steering:
        while len(results) < len(rows):
            left = [row for row in order if row not in results]
            lines = min(size, len(left))
            batch = RowBatch(lm, rows, steering, lines, max_new_tokens, sampling, margins, taken_over=len(left) > lines)
            try:
                _run(batch, left, len(results), progress)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if size == 1:
                    raise SteerkitError(f"{lm.name}: out of memory with a single row: {NO_ROOM}") from error
                size //= 2
            results |= {row: batch.results[row] for row in batch.ended}
            del batch  # and its memory
            if len(results) < len(rows):
                release()
                log.warning("%s: out of memory; %d rows go on, %d at a time", lm.name, len(rows) - len(results), size)
        with_tokens = {edit.site for i, row in enumerate(rows) if results[i].ids for edit in row.edits}
        steering.excused = steering.steered_at.keys() - with_tokens
    return [results[i] for i in range(len(rows))]


def _explain_breaks(lm: LanguageModel, rows: Sequence[GenerationRow], results: Mapping[int, Generated]) -> None:
    """Say where broken rows broke, one row for each edit. Raises: SteerkitError when one of them is not steered."""
    told: dict[Any, str] = {}
    for number, result in sorted(results.items()):
        if not result.broken:
            continue
        row = rows[number]
        edits = tuple(edit for edit in row.edits if edit.norm)
        kind = tuple((edit.site, edit.norm, edit.tokens) for edit in edits)
        if kind not in told:
            told[kind] = first_break(lm, row.prompt_ids, result.ids, edits)
        result.broken = f"not finite {told[kind]}, at generated token {len(result.ids)}"
        if not edits:
            raise SteerkitError(
                f"{lm.name}: row {number} (unsteered): {result.broken}. Its weights hold NaN or infinity "
                "(`steerkit check` looks), or half precision overflows: load the model in float32 or bfloat16"
            )


def _run(batch: RowBatch, rows: Sequence[int], before: int, progress: Callable[[int], None] | None) -> None:
    """All of these rows through the batch's lines."""
    waiting = deque(rows)
    while waiting or batch.occupied:
        if waiting and batch.takes():
            batch.admit([waiting.popleft() for _ in range(batch.fits(waiting))])
        elif not (waiting and batch.refills) and batch.occupied <= COMPACT_AT * len(batch.lines):
            batch.compact()
        else:
            batch.step()
            if progress and batch.changed:
                progress(before + len(batch.ended))


class RowBatch:
    """Lines of a running batch. A line whose row ended goes on with its last token until another row takes it."""

    def __init__(
        self,
        lm: LanguageModel,
        rows: Sequence[GenerationRow],
        steering: Steering,
        lines: int,
        new: int,
        sampling: Sampling,
        margins: bool,
        *,
        taken_over: bool = True,
    ) -> None:
        self.lm, self.rows, self.steering, self.new, self.margins = lm, rows, steering, new, margins
        self.results = [Generated() for _ in rows]
        self.ended: list[int] = []
        self.ends = frozenset(end_ids(lm))
        self.now = 0  # steps done
        self.changed = False  # whether the last step ended a row
        self.sampler, self.first = Sampler(sampling, lm.device), Sampler(sampling, lm.device)
        self._clear(lines)
        longest = max(len(row.prompt_ids) for row in rows) + new
        self.most = lines
        self.refills = lm.batches == "padded"
        self.cache: LineCache | GroupCache = (
            LineCache(lines, longest, taken_over=taken_over) if self.refills else GroupCache(longest)
        )

    def _clear(self, lines: int) -> None:
        """So many lines, all free."""
        import torch

        self.lines: list[int | None] = [None] * lines  # each line's row
        self.edits: list[int | None] = [None] * lines  # which row's edits a line has; stays when its row ends
        self.keys, self.born = [0] * lines, [0] * lines
        self.ids, self.position, self.live = torch.zeros(3, lines, 1, dtype=torch.long, device=self.lm.device)

    @property
    def occupied(self) -> int:
        return sum(row is not None for row in self.lines)

    @property
    def free(self) -> int:
        return len(self.lines) - self.occupied

    def takes(self) -> bool:
        """Whether waiting rows may enter now."""
        return not self.occupied or (self.refills and self.free >= max(1, REFILL_AT * len(self.lines)))

    def fits(self, waiting: Sequence[int]) -> int:
        """How many of the first waiting rows may enter: as many as lines are free, or a group of one prompt length."""
        if self.refills:
            return min(len(waiting), self.free)
        lengths = (len(self.rows[row].prompt_ids) for row in waiting)
        return min(len(list(next(groupby(lengths))[1])), self.most if self.lm.batches == "equal lengths" else 1)

    def admit(self, new: Sequence[int]) -> None:
        """Rows take free lines: their prompts are read, and their first tokens drawn."""
        import torch

        if not self.refills:
            self._clear(len(new))
        places = [line for line, row in enumerate(self.lines) if row is None][: len(new)]
        rows = [self.rows[row] for row in new]
        read = prefill(self.lm, [row.prompt_ids for row in rows], [row.edits for row in rows], new, self.steering)
        self.cache.put(places, [len(row.prompt_ids) for row in rows], read)
        slots = torch.tensor(places, device=self.lm.device)
        for line, row in zip(places, new, strict=True):
            self.lines[line] = self.edits[line] = row
            self.keys[line], self.born[line] = self.rows[row].key, self.now
        self.first.assign([row.key for row in rows], [self.now] * len(rows))
        self.ids[slots] = self._draw(self.first, read.logits, places)[:, None]
        self.position[slots] = read.mask.sum(-1, keepdim=True) - 1
        self._arrange()

    def step(self) -> None:
        """One token a line."""
        self.now += 1
        self.position += self.live
        if self.cache.full:
            self.cache.trim([line for line, row in enumerate(self.lines) if row is not None])
        mask = self.cache.step()
        logits = next_logits(self.lm, self.ids, self.position, mask, self.cache.hf, self.steering)
        self.ids = self._draw(self.sampler, logits, range(len(self.lines)))[:, None]

    def compact(self) -> None:
        """Lines without a row leave."""
        self._select([line for line, row in enumerate(self.lines) if row is not None])

    def _draw(self, sampler: Sampler, logits: Tensor, lines: Sequence[int]) -> Tensor:
        """[n] the lines' next tokens, taken down for their rows; rows that end leave their lines."""
        chosen, tokens, scores = sampler.draw(logits, self.now)
        by = leads(scores) if self.margins else None
        ended = []
        for place, (line, token) in enumerate(zip(lines, tokens, strict=True)):
            row = self.lines[line]
            if row is None:
                continue
            result = self.results[row]
            if by is not None:
                result.margins.append(by[place])
            if token == NOT_FINITE:
                result.broken = "not finite"
                self.cache.spoil(line)
            elif token in self.ends:
                result.finished = True
            else:
                result.ids.append(token)
            if result.broken or result.finished or len(result.ids) == self.new:
                self.lines[line] = None
                self.ended.append(row)
                ended.append(line)
        self.changed = bool(ended)
        if ended:
            self.live[ended] = 0
        return chosen

    def _arrange(self) -> None:
        """Steering, sampler and cache follow the lines."""
        import torch

        occupied = [line for line, row in enumerate(self.lines) if row is not None]
        self.live = torch.tensor([[row is not None] for row in self.lines], device=self.lm.device).long()
        self.steering.assign(self.edits, "generated")
        self.sampler.assign(self.keys, self.born)
        if occupied:
            self.cache.trim(occupied)

    def _select(self, lines: Sequence[int]) -> None:
        import torch

        keep = torch.tensor(list(lines), device=self.lm.device)
        self.cache.keep(keep)
        for name in ("lines", "edits", "keys", "born"):
            own = getattr(self, name)
            setattr(self, name, [own[line] for line in lines])
        self.ids, self.position = self.ids[keep], self.position[keep]
        self._arrange()


def end_ids(lm: LanguageModel) -> list[int]:
    """End-of-sequence ids of the model's generation config and tokenizer."""
    config = getattr(lm.model, "generation_config", None)
    found = getattr(config, "eos_token_id", None)
    listed = found if isinstance(found, list) else [] if found is None else [found]
    own = lm.tokenizer.eos_token_id
    return sorted({*listed, *([own] if own is not None else [])}) or [-1]
