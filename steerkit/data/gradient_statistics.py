"""Additive statistics of a loss's gradients with respect to activations, site by site, and their file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steerkit.data.gradient_sums import GradientSums, Participation, cosine, sums_of
from steerkit.data.site import Site
from steerkit.errors import SteerkitError, nearest
from steerkit.store.strict_json import loads

if TYPE_CHECKING:
    from torch import Tensor

Reduction = Literal["token", "row"]
"""The loss of many rows: the mean over all their response tokens, or over rows of each row's mean."""

Kind = Literal["prompt", "response"]
"""Tokens by what they are; each has sums of its own."""

TokensRead = Literal["prompt", "response", "all"]


@dataclass(frozen=True)
class GradientStatistics:
    """Gradients of one model's loss over a set of rows. ``a + b`` merges disjoint sets of rows.

    What is summed are gradients g of Σ w · loss over response tokens: w is 1 (reduction `token`) or 1 / the row's
    response tokens (`row`). The loss itself is that sum over `total`: response tokens, or rows.

    Attributes:
        sums: site → sums over its prompt tokens and over its response tokens.
        reduction: how losses of tokens make one number.
        loss_sum: Σ w · loss.
        tokens: response tokens.
        rows: number of rows.
        responses: a sum of hashes of the rows' responses: the same where the responses are.
        directions: name → digest of the directions that `token_cosine` knows.
        meta: provenance: model, weights fingerprint.
    """

    sums: Mapping[Site, Mapping[Kind, GradientSums]]
    reduction: Reduction
    loss_sum: float
    tokens: int
    rows: int
    responses: int
    directions: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.sums)

    @property
    def total(self) -> int:
        """What `loss_sum` is divided by."""
        return self.tokens if self.reduction == "token" else self.rows

    @property
    def loss(self) -> float:
        """In nats for the cross-entropy; a difference of losses for differences of gradients."""
        return self.loss_sum / self.total

    def at(self, site: Site, tokens: TokensRead = "response") -> GradientSums:
        """A site's sums over the prompts' tokens, the responses', or all.

        Raises:
            SteerkitError: there are none.
        """
        if site not in self.sums:
            raise SteerkitError(f"{site} has no gradients here; there are those of {', '.join(map(str, self.sums))}")
        found = self.sums[site]
        wanted: tuple[Kind, ...] = ("prompt", "response") if tokens == "all" else (tokens,)
        if missing := [kind for kind in wanted if kind not in found]:
            raise SteerkitError(f"tokens: {tokens}: there are no gradients of {missing[0]} tokens here")
        return found[wanted[0]] if len(wanted) == 1 else found["prompt"] + found["response"]

    def mean_gradient(self, site: Site, tokens: TokensRead = "response") -> Tensor:
        """[D] float64: the derivative of the loss by a vector that is added at all of these tokens.

        With reduction `token` and the response's tokens it is the mean over tokens of the gradient of the summed loss.
        Those of prompt and response tokens add up to that of all.
        """
        return self.at(site, tokens).gradient / self.total

    def pressure(self, site: Site, v: Tensor, tokens: TokensRead = "response") -> float:
        """⟨-g, v̂⟩, v̂ = v / |v|: how fast a training step pushes activations along v; -d loss / d α for h + α v̂.

        The mean of the tokens' pressures is the pressure of the mean gradient. The derivative by the strength of a
        vector that is added at every token takes `tokens="all"`.
        """
        return float(-self.mean_gradient(site, tokens) @ _unit(v))

    def cosine(self, site: Site, v: Tensor, tokens: TokensRead = "response") -> float:
        """cos(-g, v) of the mean gradient. The mean of the tokens' own cosines is another number: `token_cosine`."""
        return -cosine(self.mean_gradient(site, tokens), v)

    def token_cosine(self, site: Site, direction: str, tokens: TokensRead = "response") -> float:
        """Mean over tokens of cos(-g, v), weighted as the loss is, for a direction named when gradients were read.

        Raises:
            SteerkitError: there is no direction of this name.
        """
        names = list(self.directions)
        if direction not in names:
            raise SteerkitError(f"directions: none is called {direction!r}; {nearest(direction, names)}")
        found = self.at(site, tokens)
        return float(found.cosines[names.index(direction)] / found.weight)

    def participation(self, site: Site, kind: Participation = "spectrum", tokens: TokensRead = "response") -> float:
        """How many dimensions the gradients spread over (see `GradientSums.participation`)."""
        return self.at(site, tokens).participation(kind)

    def __add__(self, other: GradientStatistics) -> GradientStatistics:
        for what, mine, theirs in (
            ("sites", self.sites, other.sites),
            ("reductions", self.reduction, other.reduction),
            ("directions", dict(self.directions), dict(other.directions)),
            ("weights", self.meta.get("fingerprint"), other.meta.get("fingerprint")),
        ):
            if mine != theirs:
                raise SteerkitError(f"gradients of different {what} can't be added: {mine} and {theirs}")
        sums = {
            site: {kind: own[kind] + other.sums[site][kind] for kind in own if kind in other.sums[site]}
            for site, own in self.sums.items()
        }
        return replace(
            self,
            sums=sums,
            loss_sum=self.loss_sum + other.loss_sum,
            tokens=self.tokens + other.tokens,
            rows=self.rows + other.rows,
            responses=(self.responses + other.responses) % 2**63,
        )

    def save(self, path: Path | str) -> None:
        """One safetensors file, whole or not at all."""
        from steerkit.store.files import save_tensors

        tensors = {
            f"{number}.{kind}.{name}": value.contiguous()
            for number, kinds in enumerate(self.sums.values())
            for kind, own in kinds.items()
            for name, value in own.tensors().items()
        }
        head = {name: getattr(self, name) for name in _HEAD} | {"sites": [asdict(site) for site in self.sums]}
        save_tensors(Path(path), tensors, {"gradients": json.dumps(head)})

    @classmethod
    def load(cls, path: Path | str) -> GradientStatistics:
        """Read what `save` wrote.

        Raises:
            SteerkitError: the file is missing or not such a file.
        """
        from safetensors import SafetensorError, safe_open

        sums: dict[Site, dict[Kind, GradientSums]] = {}
        try:
            with safe_open(path, "pt") as file:
                head = loads(file.metadata()["gradients"])
                parts: dict[tuple[str, Kind], dict[str, Tensor]] = {}
                for key in file.keys():  # noqa: SIM118
                    number, kind, name = key.split(".")
                    parts.setdefault((number, kind), {})[name] = file.get_tensor(key)
            for number, site in enumerate(head["sites"]):
                kinds: tuple[Kind, ...] = ("prompt", "response")
                own = {kind: parts[str(number), kind] for kind in kinds if (str(number), kind) in parts}
                sums[Site(**site)] = {kind: sums_of(of, len(head["directions"])) for kind, of in own.items()}
            return cls(sums, **{name: head[name] for name in _HEAD})
        except (OSError, SafetensorError, LookupError, TypeError, AttributeError, ValueError) as error:
            raise SteerkitError(
                f"{path}: not a file of gradient statistics ({error}); delete it and run again"
            ) from error


_HEAD = ("reduction", "loss_sum", "tokens", "rows", "responses", "directions", "meta")


def _unit(v: Tensor) -> Tensor:
    """Raises: SteerkitError when a direction is zero or not finite."""
    wide: Tensor = v.detach().cpu().double()
    length: Tensor = wide.norm()
    if not (length.isfinite() and length > 0):
        raise SteerkitError("a direction to project gradients on is zero or not finite")
    return wide.div(length)
