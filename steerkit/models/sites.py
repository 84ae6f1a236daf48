"""Sites resolved: which module of a model a site belongs to, and how its tensor lies in what goes in or comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

from steerkit.data.site import Part, Site
from steerkit.errors import SteerkitError
from steerkit.models.block_output import hidden_of, with_hidden
from steerkit.models.protocol import Opened
from steerkit.models.site_table import ABOVE, ATTENTION, FUSED, HEAD_SIZE, MLP, NAMES, Fused

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Place:
    """Where a site's tensor is.

    Attributes:
        site: the site.
        module: whose input or output holds it; another part's where the part is no module of its own.
        name: the module's dotted name below its block, empty for the block itself.
        side: of `module`.
        slot: the share of the last dimension; None for all of it.
    """

    site: Site
    module: nn.Module
    name: str
    side: str
    slot: Slot | None = None

    @property
    def whole_module(self) -> bool:
        """Whether the part is a module of its own, which can be replaced."""
        part = self.site.part
        return self.slot is None and (part == "block" or self.name.rpartition(".")[2] in _names(part))

    def read(self, value: Any, rows: int) -> Tensor:
        """[B, T, D] of a module's output, or of its input as `input_of` finds it.

        Args:
            rows: B. Some modules work on [B·T, D] or [B, 1, T, D].
        """
        tensor = hidden_of(value)
        flat = tensor.dim() == 2 and tensor.shape[0] % rows == 0
        if flat or (tensor.dim() == 4 and tuple(tensor.shape[:2]) == (rows, 1)):
            tensor = tensor.reshape(rows, -1, tensor.shape[-1])
        if tensor.dim() != 3:
            raise SteerkitError(f"{self.site}: {list(tensor.shape)} is not [rows, tokens, width]")
        return tensor if self.slot is None else tensor[..., self.slot.index(tensor)]

    def write(self, value: Any, changed: Tensor) -> Any:
        """The output or input with another tensor [B, T, D] at the site; the caller's is not changed."""
        tensor = hidden_of(value)
        if self.slot is not None:
            whole = tensor.clone()
            whole[..., self.slot.index(tensor)] = changed.reshape(*tensor.shape[:-1], -1)
            changed = whole
        return with_hidden(value, changed.reshape(tensor.shape))


@dataclass(frozen=True, eq=False)
class Slot:
    """One part's share of a fused projection's output.

    Attributes:
        fused: the table's row.
        number: the part's place in `fused.parts`.
        heads: query heads; 1 for what has none.
        size: numbers of a head.
        where: the module, for errors.
    """

    fused: Fused
    number: int
    heads: int
    size: int
    where: str

    def index(self, like: Tensor) -> Any:
        """A slice or [D] indices into the last dimension of `like`."""
        width = like.shape[-1]
        layout, count = self.fused.layout, len(self.fused.parts)
        if layout == "in order" and count == 2:
            self._check(width % 2 == 0, width)
            return slice(self.number * width // 2, (self.number + 1) * width // 2)
        if layout in ("first of each head", "last of each head"):
            each = width // self.heads
            self._check(width % self.heads == 0 and each >= self.size, width)
            begin = 0 if layout == "first of each head" else each - self.size
            return self._numbers(like).view(self.heads, each)[:, begin : begin + self.size].flatten()
        whole = width // self.size  # heads of q, k and v together
        groups = (whole - self.heads) // 2
        self._check(whole * self.size == width and groups > 0 and whole == self.heads + 2 * groups, width)
        first = (0, self.heads, self.heads + groups, whole)
        if layout == "in order":
            return slice(first[self.number] * self.size, first[self.number + 1] * self.size)
        self._check(self.heads % groups == 0, width)
        members = self._numbers(like).view(groups, whole // groups, self.size)
        queries = self.heads // groups
        return (members[:, :queries], members[:, queries], members[:, queries + 1])[self.number].flatten()

    def _numbers(self, like: Tensor) -> Tensor:
        import torch

        return torch.arange(like.shape[-1], device=like.device)

    def _check(self, fits: bool, width: int) -> None:
        if not fits:
            raise SteerkitError(
                f"{self.where} puts out {width} numbers, not the {', '.join(self.fused.parts)} of {self.heads} heads "
                f"of {self.size}: its layout is unknown"
            )


def input_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, str | None]:
    """What a module is given first, and its name where it came by keyword."""
    if args:
        return args[0], None
    name = next(iter(signature(module.forward).parameters), "")
    name = name if name in kwargs else next(iter(kwargs), "")
    return kwargs.get(name), name


def resolve(lm: Opened, site: Site) -> Place:
    """Find a site in a model.

    Raises:
        SteerkitError: the layer is out of range, or the block has no such part; with what it has.
    """
    depth = len(lm.blocks)
    if site.layer >= depth:
        raise SteerkitError(f"{site}: {lm.name} has {depth} blocks, numbered 0 to {depth - 1}")
    finder = _Finder(lm, site)
    if site.part == "block":
        return Place(site, finder.block, "", site.side)
    return finder.attention_or_mlp() if site.part in ("attention", "mlp") else finder.projection(site.part, site.side)


class _Finder:
    """One block, searched by the table."""

    def __init__(self, lm: Opened, site: Site) -> None:
        self.lm, self.site = lm, site
        self.block: nn.Module = lm.blocks[site.layer]

    def attention_or_mlp(self) -> Place:
        part, side = self.site.part, self.site.side
        name, module = self._container(part)
        # Without a module of its own, and where the module is given the residual and adds it, the part is what goes
        # into its first projection and comes out of its last one.
        if module is self.block:
            return self.projection("up" if side == "in" else "down", side)
        if side == "out" and "residual" in signature(type(module).forward).parameters:
            return self.projection("o" if part == "attention" else "down", side)
        return Place(self.site, module, name, side)

    def projection(self, part: Part, side: str) -> Place:
        above, outer = self._container(ABOVE[part])
        holder = _inner(outer)
        prefix = f"{above}." if above else ""
        prefix += "base_layer." if holder is not outer else ""
        fused = next((FUSED[kind.__name__] for kind in type(holder).__mro__ if kind.__name__ in FUSED), None)
        if fused is not None and part in fused.parts:
            module = _child(holder, fused.name)
            if module is None:
                raise self._refused(f"its {type(holder).__name__} has no {fused.name}", holder)
            if side == "in":
                hint = f"; {ABOVE[part]}.in is the same input" if len(fused.parts) > 1 else ""
                raise self._refused(f"{prefix}{fused.name} makes more than {part} of its input{hint}", None)
            slot = self._slot(holder, fused, part, prefix)
            return Place(self.site, module, prefix + fused.name, side, slot)
        for name in NAMES[part]:
            module = _child(holder, name)
            if module is not None:
                self._check_width(part, holder, module)
                return Place(self.site, module, prefix + name, side)
        raise self._refused(f"its {type(holder).__name__} has none", holder)

    def _container(self, part: Part) -> tuple[str, nn.Module]:
        names = ATTENTION if part == "attention" else MLP
        found = [(name, module) for name in names if (module := _child(self.block, name)) is not None]
        found = [(name, module) for name, module in found if _is_attention(_inner(module)) == (part == "attention")]
        found = [(name, m) for name, m in found if name != "mixer" or part == "attention" or _is_mlp(_inner(m))]
        if not found and part == "mlp" and _is_mlp(self.block):
            return "", self.block
        if len(found) == 1:
            return found[0]
        if found:
            raise self._refused(f"it has {len(found)} of them side by side", self.block)
        raise self._refused(f"it has no {part} that steerkit knows", self.block)

    def _slot(self, holder: nn.Module, fused: Fused, part: Part, prefix: str) -> Slot:
        names = HEAD_SIZE.get(fused.layout, ("head_dim", "head_size"))
        size = next((int(getattr(holder, name)) for name in names if hasattr(holder, name)), 1)
        where = f"{self.lm.name}: block {self.site.layer}: {prefix}{fused.name}"
        heads = int(getattr(self.lm.config, "num_attention_heads", 1))
        return Slot(fused, fused.parts.index(part), heads, size, where)

    def _check_width(self, part: Part, holder: nn.Module, module: nn.Module) -> None:
        """A query projection may hold a gate, too; which half of it is told by `FUSED` alone."""
        last = next((_child(holder, name) for name in NAMES["o"] if _child(holder, name) is not None), None)
        put, taken = getattr(module, "out_features", None), getattr(last, "in_features", None)
        if part == "q" and put is not None and taken is not None and put == 2 * taken:
            raise self._refused(
                f"its {type(holder).__name__} makes {put} numbers for {taken}: the layout is unknown", holder
            )

    def _refused(self, why: str, holder: nn.Module | None) -> SteerkitError:
        has = "" if holder is None else "; there is " + _contents(holder)
        return SteerkitError(
            f"{self.lm.name}: block {self.site.layer} ({type(self.block).__name__}) has no {self.site.name} "
            f"to read or change: {why}{has}"
        )


def _child(module: nn.Module, name: str) -> nn.Module | None:
    """A child that is called as a whole: not a list, not an empty place."""
    from torch import nn

    child = getattr(module, name, None)
    return child if isinstance(child, nn.Module) and not isinstance(child, nn.ModuleList | nn.ModuleDict) else None


def _inner(module: nn.Module) -> nn.Module:
    """The model's own module where an adapter is wrapped around a whole MLP or attention (PEFT's `base_layer`)."""
    return _child(module, "base_layer") or module


def _is_attention(module: nn.Module) -> bool:
    """Whether it makes queries: other mixers (Mamba, convolutions) don't."""
    names = {*NAMES["q"], *(fused.name for fused in FUSED.values() if "q" in fused.parts)}
    linear = any(_child(module, name) is not None for name in ("in_proj_qkv", "in_proj_qkvz"))
    return linear or any(_child(module, name) is not None for name in names)


def _is_mlp(module: nn.Module) -> bool:
    """Whether it has an MLP's last projection, or experts."""
    first = any(_child(module, name) is not None for name in NAMES["up"])
    return first or _child(module, "experts") is not None


def _names(part: Part) -> tuple[str, ...]:
    return {"attention": ATTENTION, "mlp": MLP}.get(part) or NAMES[part]


def _contents(module: nn.Module) -> str:
    children = module.named_children()
    return ", ".join(f"{name} ({type(child).__name__})" for name, child in children) or "nothing"
