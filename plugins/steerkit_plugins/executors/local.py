"""Pieces of work one after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from steerkit.models.models import Models
from steerkit.parts import Executor


class LocalExecutor(Executor):
    """Does all work in this process."""

    def map(
        self,
        work: Callable[[Any, Any], Any],
        pieces: Sequence[tuple[int, Any]],
        models: Models,
        progress: Callable[[int, int], None],
    ) -> Iterator[tuple[int, Any]]:
        for number, piece in pieces:
            models.progress = partial(progress, number)
            yield number, work(models, piece)
