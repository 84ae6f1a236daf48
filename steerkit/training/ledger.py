"""What a training says of itself: a row for each logged step, and counts that outlive a restart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from steerkit.training.contract import Loss
from steerkit.training.watch import Measure


@dataclass(frozen=True, kw_only=True)
class LoggedStep:
    """Means over the optimizer steps since the row before.

    Attributes:
        step: optimizer steps done.
        loss: per learned token.
        parts: of the loss, by the objective's names.
        grad_norm: L2 norm of the last step's gradient, before it was clipped; None where nothing is clipped.
        learning_rate: of the last step.
    """

    step: int
    loss: float
    parts: Mapping[str, float] = field(default_factory=dict)
    grad_norm: float | None
    learning_rate: float


class Ledger:
    """Collects losses and counts, also over a stop and a start: its `state` is part of every checkpoint."""

    def __init__(self) -> None:
        self.rows: list[LoggedStep] = []
        self.measures: list[Measure] = []  # of a watch
        self.steered = 0  # positions at which interventions changed activations or gradients
        self._sums: dict[str, float] = {}  # since the last row; the loss itself has the empty name
        self._since = 0

    def add(self, loss: Loss) -> bool:
        """Note a micro-batch's loss; whether it is finite."""
        values = {"": float(loss.total.detach()), **{name: float(part) for name, part in loss.parts.items()}}
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        return all(map(math.isfinite, values.values()))

    def close(self, step: int, grad_norm: float | None, learning_rate: float) -> LoggedStep:
        """Write a row after so many steps, of what was added since the last one."""
        means = {name: value / max(1, step - self._since) for name, value in self._sums.items()}
        loss = means.pop("", math.nan)
        row = LoggedStep(step=step, loss=loss, parts=means, grad_norm=grad_norm, learning_rate=learning_rate)
        self.rows.append(row)
        self._sums, self._since = {}, step
        return row

    def gather(self, accelerator: Any) -> None:
        """Bring what several processes have added to the first one's."""
        import torch

        if accelerator.num_processes == 1:
            return
        values = [*self._sums.values(), float(self.steered)]
        kind = torch.float32 if accelerator.device.type == "mps" else torch.float64
        every = accelerator.reduce(torch.tensor(values, dtype=kind, device=accelerator.device), "sum").tolist()
        if not accelerator.is_main_process:
            every = [0.0] * len(every)
        self._sums = dict(zip(self._sums, every[:-1], strict=True))
        self.steered = int(every[-1])

    def state(self) -> dict[str, Any]:
        """JSON of it."""
        rows = [asdict(row) for row in self.rows]
        measures = [asdict(measure) for measure in self.measures]
        return {"rows": rows, "measures": measures, "steered": self.steered, "sums": self._sums, "since": self._since}

    def restore(self, state: Mapping[str, Any], *, first: bool) -> None:
        """Go on from `state`; what was gathered is the first process's."""
        self.rows = [LoggedStep(**row) for row in state["rows"]]
        self.measures = [Measure(**measure) for measure in state["measures"]]
        self._since = state["since"]
        self._sums = {name: value if first else 0.0 for name, value in state["sums"].items()}
        self.steered = state["steered"] if first else 0
