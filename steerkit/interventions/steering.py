"""The hook: applies Steerers' pure edits to block outputs, row by row, while a model runs.

Works on any engine that calls the model's forward (HF ``generate``, `steerkit.generation.stream`, a plain forward):
a pre-hook on the decoder learns which tokens this call brings (left padding, KV cache), hooks on the blocks
apply the edits. Everything comes off when the block ends, also by an exception.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, Self

from steerkit.errors import SteerkitError
from steerkit.interfaces import EditContext, Steerer
from steerkit.interventions.hf_generate import followed
from steerkit.interventions.positions import Call, Phase, Positions
from steerkit.interventions.uncompiled import hooks_run
from steerkit.models.adapter_layout import adapter_state
from steerkit.models.block_output import hidden_of, with_hidden
from steerkit.models.language_model import check_stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel

Tokens = Literal["all", "prompt", "generated"]


@dataclass(frozen=True, eq=False)
class Edit:
    """What is done to one row (or to every row) at one block.

    Attributes:
        steerer: the edit.
        layer: 0-based block whose output is edited.
        norm: L2 norm that is added, signed; 0 leaves the row untouched, bit for bit.
        direction: [H] unit vector, or None for steerers that take none.
        tokens: which of the row's tokens are edited. The last prompt token is `prompt`.
        key: 64-bit hash of (seed, prompt) for steerers that draw noise.
    """

    steerer: Steerer
    layer: int
    norm: float
    direction: Tensor | None = None
    tokens: Tokens = "all"
    key: int = 0


class Steering:
    """Context manager that steers a model with one Edit for all rows, or one (or None) a row.

    Inside, a PEFT adapter on the model is on or off as `lm` says, so that `with` the base runs the base.

    Raises on leaving without another exception:
        SteerkitError: edits were asked for and no forward ran the hooks, not one position was changed, or an edited
            position is not finite.
    """

    def __init__(
        self,
        lm: LanguageModel,
        edits: Edit | Sequence[Edit | None],
        prompt_lengths: Sequence[int] | None = None,
    ) -> None:
        self.lm = lm
        self._shared = isinstance(edits, Edit)
        self.edits: list[Edit | None] = [edits] if isinstance(edits, Edit) else list(edits)
        for edit in self.edits:
            if edit is not None:
                lm.check_layer(edit.layer)
        self.steered_at: dict[int, int] = {}  # layer → positions changed so far, over all rows and edits
        self.excused: Collection[int] = ()  # layers that are not checked at the end (no token to steer came)
        self.position: Tensor | None = None  # [B, T] of the next forward's tokens, from an engine that knows
        self._rows: Sequence[int | None] | None = None  # which edits the batch's rows have, after `assign`
        self._phase: Phase | None = None
        self._prompt_lengths = prompt_lengths
        self._positions = Positions(prompt_lengths)
        self._copies = 1  # rows of a forward for each one that was given
        self._call: Call | None = None
        self._calls = 0
        self._handles: list[Any] = []
        self._inside = ExitStack()
        self._groups: dict[int, list[_Group]] = {}
        self._sound: dict[int, Tensor] = {}  # layer → whether all edited positions so far are finite

    def __enter__(self) -> Self:
        self._calls = 0
        self._sound = {}
        self._rows = self._call = self._phase = None
        self._positions, self._copies = Positions(self._prompt_lengths), 1
        self._regroup(None)
        self._inside.enter_context(adapter_state(self.lm))
        layers = {edit.layer for edit in self.edits if edit is not None and edit.norm != 0}
        self.steered_at = dict.fromkeys(sorted(layers), 0)
        if layers:
            self._inside.enter_context(hooks_run(self.lm))
            self._inside.enter_context(followed(self.lm.transformer, self._positions))
            self._handles.append(self.lm.decoder.register_forward_pre_hook(self._before, with_kwargs=True))
        for layer in sorted(layers):
            hook = self._block_hook(layer)
            self._handles.append(self.lm.blocks[layer].register_forward_hook(hook))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._groups.clear()
        self._inside.close()
        if kind is None:
            self._check_end()

    def _check_end(self) -> None:
        """Raises: SteerkitError when edits were asked for and none was made, or one made values that aren't finite."""
        missed = [layer for layer, count in self.steered_at.items() if not count and layer not in self.excused]
        if missed and not self._calls:
            raise SteerkitError(
                f"steering changed nothing: no forward pass of {self.lm.name} ran its hooks inside the `with`. Call "
                "the model there, and uncompiled (a graph that was compiled or captured earlier has no hooks)"
            )
        if missed:
            raise SteerkitError(
                f"steering changed no position at block {', '.join(map(str, missed))} in {self._calls} forward passes "
                f"of {self.lm.name}: with tokens: generated nothing was generated, or the block's hook did not run"
            )
        broken = [layer for layer, sound in self._sound.items() if not bool(sound) and layer not in self.excused]
        if broken:
            added = max(abs(edit.norm) for edit in self.edits if edit is not None and edit.layer in broken)
            raise SteerkitError(
                f"{self.lm.name}: the steered output of block {', '.join(map(str, sorted(broken)))} is not finite, or "
                f"its squares overflow; up to {added:g} is added there: lower the strength, or use bf16 or float32"
            )

    @property
    def steered(self) -> int:
        """Positions changed so far, over all layers, rows and edits."""
        return sum(self.steered_at.values())

    def assign(self, rows: Sequence[int | None], phase: Phase) -> None:
        """From an engine that knows: the next forwards' rows have these edits (by number), their tokens this kind."""
        self._rows, self._phase = list(rows), phase
        self._regroup(self._rows)

    def _regroup(self, rows: Sequence[int | None] | None) -> None:
        """Sort the batch's rows into groups that one call of a steerer's `edit` serves."""
        order = rows if rows is not None else list(range(len(self.edits)))
        order = [row for row in order for _ in range(self._copies)]
        found: dict[tuple[int, int, bool], _Group] = {}
        for place, index in enumerate(order):
            edit = None if index is None else self.edits[index]
            if edit is None or edit.norm == 0:
                continue
            key = (edit.layer, id(edit.steerer), edit.direction is None)
            group = found.setdefault(key, _Group(edit.steerer, [], []))
            group.places.append(place)
            group.edits.append(edit)
        self._groups = {}
        for (layer, _, _), group in found.items():
            group.whole = self._shared or len(group.places) == len(order)
            self._groups.setdefault(layer, []).append(group)

    def _before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read from the decoder's arguments which tokens this forward brings."""
        names = signature(module.forward).parameters if args else ()  # GPT-2 and others pass ids by position
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        tokens = given.get("input_ids")
        if tokens is None:
            tokens = given.get("inputs_embeds")
        if tokens is None:
            return  # the decoder itself refuses a call without tokens
        self._check_rows(len(tokens))
        self._call = self._positions.call(tokens, given, self._phase, self.position)
        self._calls += 1

    def _check_rows(self, rows: int) -> None:
        """Rows of this forward are those that edits were given for, or `generate`'s copies of each (beams)."""
        if self._shared:
            return
        expected = len(self.edits if self._rows is None else self._rows)
        copies = rows // expected if expected and self._positions.started else 1
        if rows != expected * copies:
            raise SteerkitError(f"{rows} rows came, edits were given for {expected}")
        if copies != self._copies:
            self._copies = copies
            self._regroup(self._rows)

    def _block_hook(self, layer: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            groups = self._groups.get(layer)
            if not groups:
                return None
            hidden = hidden_of(output)
            check_stream(hidden, self.lm.name)
            changed = hidden
            for group in groups:
                changed = self._apply(group, layer, changed)
            return with_hidden(output, changed)

        return hook

    def _apply(self, group: _Group, layer: int, hidden: Tensor) -> Tensor:
        import torch

        call = self._call
        if call is None:  # a block that runs outside its decoder
            return hidden
        call = call.last(hidden.shape[1])
        state = group.tensors(hidden)
        rows = slice(None) if group.whole else state.places
        position = call.position.to(hidden.device)[rows]
        part = hidden[rows]
        norm, direction, key = state.norm, state.direction, state.key
        if self._shared:
            count = part.shape[0]
            norm, key = norm.expand(count, 1, 1), key.expand(count)
            direction = direction.expand(count, 1, -1)
        edited = group.steerer.edit(part, EditContext(layer, norm, direction, position, key))
        # A length whose square overflows becomes 0 in the next norm, and the text would look sound: NaN shows it.
        whole = torch.linalg.vector_norm(edited, dim=-1, keepdim=True, dtype=torch.float32) < torch.inf
        edited = edited.where(whole, torch.nan)
        keep = self._mask(group, call, rows, hidden.device)
        if self._phase is None:  # an engine looks itself, row by row
            self._note_breaks(layer, whole[..., 0] if keep is None else whole[..., 0] | ~keep)
        if keep is None:
            self.steered_at[layer] += position.numel()
        else:
            self.steered_at[layer] += int(keep.sum())
            edited = torch.where(keep[..., None], edited, part)
        return edited if group.whole else hidden.index_copy(0, state.places, edited)

    def _note_breaks(self, layer: int, whole: Tensor) -> None:
        """[R, T] False where an edited position overflowed: kept on the device until the `with` ends."""
        sound = whole.all()
        self._sound[layer] = sound & self._sound[layer] if layer in self._sound else sound

    def _mask(self, group: _Group, call: Call, rows: Any, device: torch.device) -> Tensor | None:
        """[R, T] True where the rows' tokens are edited; None when all of them are."""
        import torch

        keep = None if call.real is None else call.real.to(device)[rows]
        kinds = {edit.tokens for edit in group.edits}
        if kinds <= {"all", call.phase}:
            return keep
        wants = torch.tensor([[e.tokens != "generated", e.tokens != "prompt"] for e in group.edits], device=device)
        if call.phase is not None:
            column = 0 if call.phase == "prompt" else 1
            chosen = wants[:, column : column + 1].expand(call.position[rows].shape)
        elif call.prompt is None:
            raise SteerkitError("tokens: prompt or generated needs the prompt's forward inside the same `with`")
        else:
            chosen = torch.where(call.prompt.to(device)[rows], wants[:, :1], wants[:, 1:])
        return chosen if keep is None else keep & chosen


@dataclass
class _Tensors:
    places: Tensor
    norm: Tensor
    direction: Tensor
    key: Tensor


@dataclass(eq=False)
class _Group:
    """Rows of a batch that one steerer edits at one block, with their tensors on that block's device."""

    steerer: Steerer
    places: list[int]
    edits: list[Edit]
    whole: bool = False
    _ready: _Tensors | None = None

    def tensors(self, hidden: Tensor) -> _Tensors:
        import torch

        ready = self._ready
        if ready is None or ready.norm.device != hidden.device or ready.norm.dtype != hidden.dtype:
            vectors = [edit.direction for edit in self.edits if edit.direction is not None]
            for vector in vectors:
                if vector.shape != hidden.shape[-1:]:
                    raise SteerkitError(
                        f"a direction of width {tuple(vector.shape)} on hidden states of {hidden.shape[-1]}"
                    )
            vectors = [vector.detach().to(hidden.dtype).to(hidden.device) for vector in vectors]
            norm = hidden.new_tensor([edit.norm for edit in self.edits])[:, None, None]
            ready = self._ready = _Tensors(
                torch.tensor(self.places, device=hidden.device),
                norm,
                torch.stack(vectors)[:, None] if vectors else norm * 0,
                torch.tensor([edit.key for edit in self.edits], device=hidden.device),
            )
        return ready
