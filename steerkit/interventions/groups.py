"""Rows of a batch that one intervention edits at one site, and which of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from steerkit.data.site import Site
from steerkit.errors import SteerkitError
from steerkit.interfaces import Intervention
from steerkit.interventions.edits import Edit, EditSet
from steerkit.interventions.positions import Call, Phase

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class GroupTensors:
    """A group's edits as tensors of the edited tensor's dtype, on its device: [R] places and keys, [R, 1, 1] norms,
    [R, 1, D] directions."""

    places: Tensor
    norm: Tensor
    direction: Tensor
    key: Tensor


@dataclass(eq=False)
class Group:
    """Rows that one intervention edits at one site.

    Attributes:
        places: the rows' places in the batch.
        whole: whether these are all rows.
        shared: whether the only edit is every row's, however many rows there are.
        kinds: which tokens are edited, of all the rows.
        forward, backward: which methods the intervention has.
    """

    intervention: Intervention
    forward: bool
    backward: bool
    shared: bool
    places: list[int] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    kinds: set[Phase | Literal["all"]] = field(default_factory=set)
    whole: bool = False
    _ready: GroupTensors | None = None

    def tensors(self, like: Tensor) -> GroupTensors:
        """Raises: SteerkitError when a direction is not as wide as `like` [B, T, D]."""
        import torch

        ready = self._ready
        if ready is not None and ready.norm.device == like.device and ready.norm.dtype == like.dtype:
            return ready
        vectors = [edit.direction for edit in self.edits if edit.direction is not None]
        for vector in vectors:
            if vector.shape != like.shape[-1:]:
                raise SteerkitError(f"a direction of width {tuple(vector.shape)} on hidden states of {like.shape[-1]}")
        vectors = [vector.detach().to(like.dtype).to(like.device) for vector in vectors]
        norm = like.new_tensor([edit.norm for edit in self.edits])[:, None, None]
        self._ready = GroupTensors(
            torch.tensor(self.places, device=like.device),
            norm,
            torch.stack(vectors)[:, None] if vectors else norm * 0,
            torch.tensor([edit.key for edit in self.edits], device=like.device),
        )
        return self._ready

    def mask(self, call: Call, rows: Any, device: torch.device) -> Tensor | None:
        """[R, T] True where the rows' tokens are edited; None when all of them are."""
        import torch

        keep = None if call.real is None else call.real.to(device)[rows]
        if self.kinds <= {"all", call.phase}:
            return keep
        wants = torch.tensor([[e.tokens != "generated", e.tokens != "prompt"] for e in self.edits], device=device)
        if call.phase is not None:
            column = 0 if call.phase == "prompt" else 1
            chosen = wants[:, column : column + 1].expand(call.position[rows].shape)
        elif call.prompt is None:
            raise SteerkitError("tokens: prompt or generated needs the prompt's forward inside the same `with`")
        else:
            chosen = torch.where(call.prompt.to(device)[rows], wants[:, :1], wants[:, 1:])
        return chosen if keep is None else keep & chosen


def grouped(rows: Sequence[EditSet], *, shared: bool) -> dict[Site, list[Group]]:
    """Each site's groups, in the order in which they are applied.

    A row that has several edits at a site is in as many groups there: the first edits of all rows come first.

    Args:
        rows: the edits of each row of the batch.
        shared: a single set, which every row has.
    """
    found: dict[Site, dict[tuple[int, int, bool], Group]] = {}
    for place, edits in enumerate(rows):
        turns: dict[Site, int] = {}
        for edit in edits:
            if edit.norm == 0 or not (edit.changes_forward or edit.changes_backward):
                continue
            turn = turns[edit.site] = turns.get(edit.site, -1) + 1
            key = turn, id(edit.intervention), edit.direction is None
            new = Group(edit.intervention, edit.changes_forward, edit.changes_backward, shared)
            group = found.setdefault(edit.site, {}).setdefault(key, new)
            group.places.append(place)
            group.edits.append(edit)
            group.kinds.add(edit.tokens)
    for groups in found.values():
        for group in groups.values():
            group.whole = shared or len(group.places) == len(rows)
    return {site: [groups[key] for key in sorted(groups, key=lambda key: key[0])] for site, groups in found.items()}
