"""Keys and values of a batch whose lines are taken over by new rows while it runs.

All lines end at the same column: a new row's prompt is written right before the column that comes next, over
what the line's last row left, so that nothing else is copied. Columns that no row needs any more are cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from steerkit.generation.prefilled import Prefix

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from steerkit.generation.prefilled import Prefilled

SLACK = 0.25  # of the longest row: columns to go before the rest is moved back to the first one, where rows wait


class LineCache:
    """Buffers of a fixed number of lines, as an HF cache.

    Attributes:
        hf: what the model is given as `past_key_values`.
        mask: [B, columns] int64, 1 where a line has a token.
        start, end: the columns in use; the next token goes to column `end`.
    """

    def __init__(self, lines: int, longest: int, *, taken_over: bool) -> None:
        """Args:
        longest: tokens that a row may have, prompt and generated.
        taken_over: more rows than lines will come.
        """
        from transformers import DynamicCache

        self.lines, self.capacity = lines, longest + taken_over * max(16, int(SLACK * longest))
        self.hf: Any = DynamicCache()
        self.start = self.end = 0
        self.mask: Any = None
        self._begin = [0] * lines  # each line's first column
        self._spoilt: set[int] = set()  # lines that hold numbers which are not finite

    def put(self, lines: Sequence[int], prompts: Sequence[int], read: Prefilled) -> None:
        """Rows whose prompts (of these lengths) were read take these lines."""
        import torch

        mask, layers = read.mask, read.layers
        width = mask.shape[1]
        if self.mask is None:
            self.mask = mask.new_zeros(self.lines, self.capacity)
            self.hf.layers = [_layer(self, layer) for layer in layers]
        self.end = max(self.end, self.start + width)
        slots = torch.tensor(list(lines), device=mask.device)
        columns = slice(self.end - width, self.end)
        self._clean(lines)
        self.mask[slots] = 0
        self.mask[slots, columns] = mask
        for buffers, new in zip(self.hf.layers, layers, strict=True):
            for buffer, fresh in ((buffers.room[0], new.keys), (buffers.room[1], new.values)):
                own = slots.to(buffer.device)
                buffer[own, :, columns] = fresh[new.index.to(buffer.device)]
        for line, length in zip(lines, prompts, strict=True):
            self._begin[line] = self.end - length
        self._show()

    def spoil(self, line: int) -> None:
        """The line's row broke: its columns are cleared before another row takes it (0 times NaN is NaN)."""
        self._spoilt.add(line)

    def _clean(self, lines: Sequence[int]) -> None:
        for line in self._spoilt.intersection(lines):
            for layer in self.hf.layers:
                for buffer in layer.room:
                    buffer[line] = 0
            self._spoilt.discard(line)

    @property
    def full(self) -> bool:
        """Whether the last column is in use: `trim` before the next step, so that ended rows keep no room."""
        return self.end == self.capacity

    def step(self) -> Tensor:
        """Make room for one more token a line; the mask [B, T + 1] with it.

        When the last column is reached, what is in use moves to the first.
        """
        if self.end == self.capacity:
            self._move()
        self.mask[:, self.end] = 1
        self.end += 1
        shown: Tensor = self.mask[:, self.start : self.end]
        return shown

    def trim(self, occupied: Sequence[int]) -> None:
        """Cut off the columns that only lines outside `occupied` have."""
        self.start = min(self._begin[line] for line in occupied)
        self._show()

    def keep(self, lines: Tensor) -> None:
        """Only these lines stay."""
        self.lines, self.mask = len(lines), self.mask[lines]
        kept = lines.tolist()
        self._begin = [self._begin[line] for line in kept]
        self._spoilt = {place for place, line in enumerate(kept) if line in self._spoilt}
        for layer in self.hf.layers:
            layer.room = tuple(buffer[lines.to(buffer.device)] for buffer in layer.room)
        self._show()

    def sizes(self) -> Iterator[tuple[torch.device, int]]:
        """Device and bytes of each buffer."""
        for layer in self.hf.layers:
            yield from ((buffer.device, buffer.nbytes) for buffer in layer.room)

    def _move(self) -> None:
        begin, used = self.start, self.end - self.start
        self.mask[:, :used] = self.mask[:, begin : self.end].clone()
        self.mask[:, used:] = 0
        for layer in self.hf.layers:
            for buffer in layer.room:
                buffer[:, :, :used] = buffer[:, :, begin : self.end].clone()
        self._begin = [max(0, column - begin) for column in self._begin]
        self.start, self.end = 0, used
        self._show()

    def _show(self) -> None:
        for layer in self.hf.layers:
            layer.show(self.start, self.end)


def _layer(cache: LineCache, like: Prefix) -> Any:
    from transformers.cache_utils import DynamicLayer

    class BufferedLayer(DynamicLayer):
        """A DynamicLayer whose `keys` and `values` are views of buffers [B, heads, columns, D]."""

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.is_initialized = True
            shapes = [(cache.lines, x.shape[1], cache.capacity, x.shape[3]) for x in (like.keys, like.values)]
            # Zeros: a masked column counts 0 times what it holds, and that must be a number.
            self.room = like.keys.new_zeros(shapes[0]), like.values.new_zeros(shapes[1])

        def show(self, start: int, end: int) -> None:
            self.keys, self.values = (buffer[:, :, start:end] for buffer in self.room)

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            # `cache.end` is past the column that this token was given.
            for buffer, new in zip(self.room, (key_states, value_states), strict=True):
                buffer[:, :, cache.end - 1 : cache.end] = new
            self.show(cache.start, cache.end)
            return self.keys, self.values

    return BufferedLayer()
