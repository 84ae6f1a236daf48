"""Interventions applied while a model runs, row by row: the core's hooks, masks, counts and checks.

Works on any engine that calls the model's forward (HF ``generate``, `steerkit.generation.stream`, a plain forward, a
training step): a pre-hook on the decoder learns which tokens this call brings (left padding, KV cache), hooks at the
sites apply the edits. Everything comes off when the block ends, also by an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from inspect import signature
from typing import TYPE_CHECKING, Any, Self

from steerkit.data.site import Site
from steerkit.errors import SteerkitError
from steerkit.interfaces import EditContext
from steerkit.interventions.edits import Edit, Edits, EditSet, Tokens, same_replacements, sets_of
from steerkit.interventions.groups import Group, grouped
from steerkit.interventions.hf_generate import followed
from steerkit.interventions.positions import Call, Phase, Positions
from steerkit.interventions.recomputed import Recomputed, in_backward
from steerkit.interventions.replacing import replaced
from steerkit.interventions.uncompiled import hooks_run
from steerkit.models.adapter_layout import adapter_state
from steerkit.models.block_output import hidden_of, with_hidden
from steerkit.models.language_model import check_stream
from steerkit.models.sites import Place, input_of, resolve

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel

__all__ = ["Edit", "Edits", "Steering", "Tokens"]


class Steering:
    """Context manager under which a model runs with edits.

    Inside, a PEFT adapter on the model is on or off as `lm` says, so that `with` the base runs the base.

    Args:
        edits: one Edit or a tuple of them for all rows, or a list with an entry for each row (an Edit, a tuple, None).
        prompt_lengths: tokens of each row's prompt, where the forwards themselves don't tell.

    Raises on leaving without another exception:
        SteerkitError: edits were asked for and no forward ran the hooks, not one position was changed, no gradient
            passed, or an edited position is not finite.
    """

    def __init__(self, lm: LanguageModel, edits: Edits, prompt_lengths: Sequence[int] | None = None) -> None:
        self.lm = lm
        self._shared = isinstance(edits, Edit | tuple)
        self.edits = sets_of(edits)
        for edit in self._all():
            lm.check_layer(edit.layer)
        self._replacing = same_replacements(self.edits)
        self.steered_at: dict[Site, int] = {}  # site → positions changed so far, over all rows and edits
        self.gradients_at: dict[Site, int] = {}  # site → positions whose gradient was changed, where one is expected
        self.excused: Collection[Site] = ()  # sites that are not checked at the end (no token to steer came)
        self.position: Tensor | None = None  # [B, T] of the next forward's tokens, from an engine that knows
        self._rows: Sequence[int | None] | None = None  # which edits the batch's rows have, after `assign`
        self._phase: Phase | None = None
        self._prompt_lengths = prompt_lengths
        self._positions = Positions(prompt_lengths)
        self._recomputed = Recomputed()
        self._copies = 1  # rows of a forward for each one that was given
        self._call: Call | None = None
        self._calls = 0
        self._open = 0  # how often the `with` was entered: gradients that come after its end are left alone
        self._inside = ExitStack()
        self._groups: dict[Site, list[Group]] = {}
        self._sound: dict[Site, Tensor] = {}  # site → whether all edited positions so far are finite

    def __enter__(self) -> Self:
        self._calls, self._sound = 0, {}
        self._rows = self._call = self._phase = None
        self._positions, self._copies, self._recomputed = Positions(self._prompt_lengths), 1, Recomputed()
        self._regroup(None)
        active = [edit for edit in self._all() if edit.norm]
        forward = {edit.site for edit in active if edit.changes_forward or edit.replaces}
        backward = {edit.site for edit in active if edit.changes_backward} - forward
        self.steered_at = dict.fromkeys(sorted(forward), 0)
        self.gradients_at = dict.fromkeys(sorted(backward), 0)
        with ExitStack() as stack:  # what is on already comes off when a site is refused
            stack.enter_context(adapter_state(self.lm))
            if active:
                inside = not all(edit.site.is_block_output and not edit.replaces for edit in active)
                stack.enter_context(hooks_run(self.lm, inside=inside))
                stack.enter_context(followed(self.lm.transformer, self._positions))
                hook = self.lm.decoder.register_forward_pre_hook(self._before, with_kwargs=True)
                stack.callback(hook.remove)
                stack.enter_context(replaced(self.lm, self._replacing, self._stand_in_ran))
            for site in sorted({edit.site for edit in active if edit.changes_forward or edit.changes_backward}):
                stack.callback(self._attach(site).remove)
            self._inside = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._open += 1
        self._groups = {}
        self._inside.close()
        if kind is None:
            self._check_end()

    def _all(self) -> list[Edit]:
        return [edit for edits in self.edits for edit in edits]

    def _check_end(self) -> None:
        """Raises: SteerkitError when edits were asked for and none was made, or one made values that aren't finite."""
        missed = [site for site, count in self.steered_at.items() if not count and site not in self.excused]
        unpassed = [site for site, count in self.gradients_at.items() if not count and site not in self.excused]
        if (missed or unpassed) and not self._calls:
            raise SteerkitError(
                f"steering changed nothing: no forward pass of {self.lm.name} ran its hooks inside the `with`. Call "
                "the model there, and uncompiled (a graph that was compiled or captured earlier has no hooks)"
            )
        if missed:
            raise SteerkitError(
                f"steering changed no position at {_listed(missed)} in {self._calls} forward passes "
                f"of {self.lm.name}: with tokens: generated nothing was generated, or the block's hook did not run"
            )
        if unpassed:
            raise SteerkitError(
                f"no gradient was changed at {_listed(unpassed)} of {self.lm.name}: call backward() inside the `with`, "
                "and train something that is computed before the site"
            )
        broken = [site for site, sound in self._sound.items() if not bool(sound) and site not in self.excused]
        if broken:
            added = max(abs(edit.norm) for edit in self._all() if edit.site in broken)
            raise SteerkitError(
                f"{self.lm.name}: the steered output of {_listed(sorted(broken))} is not finite, or "
                f"its squares overflow; up to {added:g} is added there: lower the strength, or use bf16 or float32"
            )

    @property
    def steered(self) -> int:
        """Positions changed so far, over all sites, rows and edits."""
        return sum(self.steered_at.values())

    def assign(self, rows: Sequence[int | None], phase: Phase) -> None:
        """From an engine that knows: the next forwards' rows have these edits (by number), their tokens this kind."""
        self._rows, self._phase = list(rows), phase
        self._regroup(self._rows)

    def _regroup(self, rows: Sequence[int | None] | None) -> None:
        """Sort the batch's rows into groups that one call of an intervention serves."""
        sets: list[EditSet] = self.edits if rows is None else [() if i is None else self.edits[i] for i in rows]
        sets = [own for own in sets for _ in range(self._copies)]
        self._groups = grouped(sets, shared=self._shared)

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
        if in_backward():
            self._recomputed.again(self._call)
            return
        self._calls += 1
        self._recomputed.forward(self._call)

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

    def _attach(self, site: Site) -> Any:
        """Hook the module of a site; the handle that takes the hook off."""
        if site.is_block_output:
            return self.lm.blocks[site.layer].register_forward_hook(self._block_hook(site))
        place = resolve(self.lm, site)
        if place.side == "out":
            return place.module.register_forward_hook(self._output_hook(place))
        return place.module.register_forward_pre_hook(self._input_hook(place), with_kwargs=True)

    def _block_hook(self, site: Site) -> Callable[..., Any]:
        def hook(module: Any, args: Any, output: Any) -> Any:
            groups = self._groups.get(site)
            if not groups:
                return None
            hidden = hidden_of(output)
            check_stream(hidden, self.lm.name)
            return with_hidden(output, self._apply_all(groups, site, hidden))

        return hook

    def _output_hook(self, place: Place) -> Callable[..., Any]:
        def hook(module: Any, args: Any, output: Any) -> Any:
            groups = self._groups.get(place.site)
            if not groups or self._call is None:
                return None
            found = place.read(output, len(self._call.position))
            return place.write(output, self._apply_all(groups, place.site, found))

        return hook

    def _input_hook(self, place: Place) -> Callable[..., Any]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            groups = self._groups.get(place.site)
            if not groups or self._call is None:
                return None
            given, name = input_of(module, args, kwargs)
            found = place.read(given, len(self._call.position))
            changed = place.write(given, self._apply_all(groups, place.site, found))
            return ((changed, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: changed})

        return hook

    def _apply_all(self, groups: Sequence[Group], site: Site, hidden: Tensor) -> Tensor:
        again = in_backward()
        if again:
            self._recomputed.check(self.lm.name)
        for group in groups:
            hidden = self._apply(group, site, hidden, count=not again)
        return hidden

    def _apply(self, group: Group, site: Site, hidden: Tensor, *, count: bool) -> Tensor:
        import torch

        call = self._call
        if call is None:  # a block that runs outside its decoder
            return hidden
        call = call.last(hidden.shape[1])
        state = group.tensors(hidden)
        rows: Any = slice(None) if group.whole else state.places
        part, position = hidden, call.position.to(hidden.device)
        if not group.whole:
            part, position = hidden[rows], position[rows]
        norm, direction, key = state.norm, state.direction, state.key
        if group.shared:
            size = part.shape[0]
            norm, key = norm.expand(size, 1, 1), key.expand(size)
            direction = direction.expand(size, 1, -1)
        context = EditContext(site, norm, direction, position, key)
        keep = group.mask(call, rows, hidden.device)
        edited = part
        if group.forward:
            edited, length = checked(group.intervention.forward(part, context))
            if count:
                self.steered_at[site] += position.numel() if keep is None else int(keep.sum())
                if self._phase is None:  # an engine looks itself, row by row
                    whole = (length < torch.inf)[..., 0]
                    self._note_breaks(site, whole if keep is None else whole | ~keep)
            if keep is not None:
                edited = torch.where(keep[..., None], edited, part)
        if group.backward and edited.requires_grad and torch.is_grad_enabled():
            edited = self._watched(edited, part.detach(), group, context, keep)
        return edited if group.whole else hidden.index_copy(0, state.places, edited)

    def _watched(self, edited: Tensor, given: Tensor, group: Group, at: EditContext, keep: Tensor | None) -> Tensor:
        """The same values, whose gradient the intervention changes on its way back, as long as the `with` lasts."""
        import torch

        opened = self._open
        self.gradients_at.setdefault(at.site, 0)

        def change(grad: Tensor) -> Tensor | None:
            if self._open != opened:
                return None
            with torch.no_grad():
                changed = group.intervention.backward(grad, given, at)
            self.gradients_at[at.site] += at.position.numel() if keep is None else int(keep.sum())
            return changed if keep is None else torch.where(keep[..., None], changed, grad)

        own = edited.clone()  # a node of its own: what else reads the tensor keeps its gradient
        own.register_hook(change)
        return own

    def _note_breaks(self, site: Site, whole: Tensor) -> None:
        """[R, T] False where an edited position overflowed: kept on the device until the `with` ends."""
        sound = whole.all()
        self._sound[site] = sound & self._sound[site] if site in self._sound else sound

    def _stand_in_ran(self, site: Site) -> None:
        if self._call is not None and not in_backward():
            real = self._call.real
            self.steered_at[site] += self._call.position.numel() if real is None else int(real.sum())


def checked(edited: Tensor) -> tuple[Tensor, Tensor]:
    """An edited tensor [R, T, D], NaN where its length is not finite, and the lengths [R, T, 1].

    A length whose square overflows becomes 0 in the next norm, and the text would look sound: NaN shows it. Half
    precision is measured in float32. 0 times a length adds 0, or NaN where it is infinite, in fewer steps than a mask.
    """
    import torch

    wide = torch.float32 if edited.itemsize < 4 else None
    length: Tensor = torch.linalg.vector_norm(edited.detach(), dim=-1, keepdim=True, dtype=wide)
    if wide is None:
        return edited.add(length, alpha=0), length
    return edited + (0 * length).to(edited.dtype), length


def _listed(sites: Sequence[Site]) -> str:
    """`block 1, 2` for block outputs, each by its name where there are others."""
    if all(site.is_block_output for site in sites):
        return f"block {', '.join(str(site.layer) for site in sites)}"
    return ", ".join(map(str, sites))
