"""Are the parts inside a block read and changed where they are? Each against plain hooks on the module, by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_args

from steerkit.checks.forward import distance, logits, running
from steerkit.checks.outcome import Check, Measured, Skip
from steerkit.checks.probe import ADD, Probe
from steerkit.data.site import Part, Side, Site
from steerkit.errors import SteerkitError
from steerkit.extraction.extract import read_sites
from steerkit.interventions.edits import Edit
from steerkit.interventions.uncompiled import hooks_run
from steerkit.models.sites import Place, resolve

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel

PROMPTS = 2  # of the probe's; they are of unequal length where rows are padded


def check_of(part: Part) -> Check:
    """The check of a kind of site."""

    def measure(probe: Probe) -> Measured:
        return _measure(probe, part)

    measure.__doc__ = f"""The {part}'s input and output: read, against plain hooks on the module of that name.
    Edited in the first half of each prompt: logits against those under plain hooks that add the same. Afterwards:
    logits against unsteered ones. In one block that has the part; only its output where several parts are made of one
    input.
    Failure: {part} sites of this model are other tensors than they say. Do not read, edit or replace them.
    """
    return Check(f"site: {part}", measure)


CHECKS = tuple(check_of(part) for part in get_args(Part) if part != "block")


def _measure(probe: Probe, part: Part) -> Measured:
    lm, prompts, items = probe.lm, probe.prompts[:PROMPTS], probe.items[:PROMPTS]
    places = _places(probe, part)
    before = probe.plain[:PROMPTS]
    states: dict[Site, dict[str, Tensor]] = {place.site: {} for place in places}
    for batch, tensors in read_sites(lm, items, [place.site for place in places]):
        for site, tensor in tensors.items():
            states[site] |= {item.trace.id: row[: len(item.ids)] for item, row in zip(batch, tensor, strict=True)}
    read, told = [], []
    for item in items:
        with _watched(lm, places) as seen:
            logits(lm, [item.ids], [None])
        for place in places:
            read.append(states[place.site][item.trace.id])
            told.append(seen[place.site])
    error = distance(read, told)

    edits = tuple(_edit(probe, place.site, states[place.site][items[0].trace.id]) for place in places)
    halves = [len(prompt) // 2 for prompt in prompts]
    found, expected = [], []
    for prompt, half in zip(prompts, halves, strict=True):
        found += logits(lm, [prompt], [edits], prompt_lengths=[half])
        with _adding(lm, places, edits, half):
            expected += logits(lm, [prompt], [None])
    effect = distance(expected, before)
    if effect <= probe.tolerance:
        raise SteerkitError(f"an edit there changes the logits by {effect:.2g} only: nothing can be told from it")
    error = max(error, distance(found, expected))
    if distance(logits(lm, prompts, [None] * len(prompts)), before) > probe.tolerance:
        raise SteerkitError("afterwards the logits are not what they were: something stayed on")
    names = ", ".join(dict.fromkeys(f"{place.name}.{place.side}" for place in places))
    return Measured(
        error, probe.tolerance, f"block {places[0].site.layer}: {names}; edits change logits by {effect:.2g}"
    )


def _places(probe: Probe, part: Part) -> list[Place]:
    """The part's sites in one block, of those that are steered if one has them. Raises: Skip when there is none."""
    reasons = []
    for layer in (*probe.layers, *range(probe.lm.depth)):
        found = []
        for side in get_args(Side):
            try:
                found.append(resolve(probe.lm, Site(layer, part, side)))
            except SteerkitError as error:
                reasons.append(str(error))
        if found:
            return found
    raise Skip(reasons[-1])


def _edit(probe: Probe, site: Site, state: Tensor) -> Edit:
    """A random direction, as long as the first prompt's median token there."""
    import torch

    draw = torch.randn(state.shape[-1], generator=torch.Generator().manual_seed(probe.seed + 1))
    return Edit(ADD, site, float(state.float().norm(dim=-1).median()), draw / draw.norm(), "prompt")


def _module(lm: LanguageModel, place: Place) -> Any:
    """By its dotted name in the whole model."""
    above = next(name for name, module in lm.transformer.named_modules() if _holds(module, lm.blocks[0]))
    return lm.transformer.get_submodule(f"{above}.{place.site.layer}.{place.name}")


def _holds(module: Any, block: Any) -> bool:
    return any(child is block for child in module.children())


def _share(place: Place, value: Any) -> tuple[Tensor, Any]:
    """[T, D] whole tensor of a lone row, and the part's indices in its last dimension."""
    tensor = value[0] if isinstance(value, tuple | list) else value
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows, slice(None) if place.slot is None else place.slot.index(rows)


@contextmanager
def _watched(lm: LanguageModel, places: Sequence[Place]) -> Iterator[dict[Site, Tensor]]:
    """Inside, what plain hooks see of a forward of one row, [T, D] each."""
    seen: dict[Site, Tensor] = {}

    def keep(place: Place) -> Callable[[Any], None]:
        def look(value: Any) -> None:
            rows, share = _share(place, value)
            seen[place.site] = rows[:, share].clone()

        return look

    with _hooked(lm, places, [keep(place) for place in places]):
        yield seen


@contextmanager
def _adding(lm: LanguageModel, places: Sequence[Place], edits: Sequence[Edit], half: int) -> Iterator[None]:
    """Inside, plain hooks add the edits' vectors to the first tokens of a lone row."""

    def add(place: Place, edit: Edit) -> Callable[[Any], Any]:
        def change(value: Any) -> Any:
            rows, share = _share(place, value)
            whole = rows.clone()
            assert edit.direction is not None
            whole[:half, share] += edit.norm * edit.direction.to(rows)
            changed = whole.reshape((value[0] if isinstance(value, tuple | list) else value).shape)
            return type(value)([changed, *value[1:]]) if isinstance(value, tuple | list) else changed

        return change

    with _hooked(lm, places, [add(place, edit) for place, edit in zip(places, edits, strict=True)]):
        yield


@contextmanager
def _hooked(lm: LanguageModel, places: Sequence[Place], does: Sequence[Callable[[Any], Any]]) -> Iterator[None]:
    def before(do: Callable[[Any], Any]) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            name = next(iter(kwargs)) if not args else ""
            changed = do(args[0] if args else kwargs[name])
            if changed is None:
                return None
            return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, name: changed})

        return hook

    handles = []
    for place, do in zip(places, does, strict=True):
        module = _module(lm, place)
        if place.side == "in":
            handles.append(module.register_forward_pre_hook(before(do), with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(lambda module, args, output, do=do: do(output)))
    try:
        with running(lm), hooks_run(lm, inside=True):
            yield
    finally:
        for handle in handles:
            handle.remove()
