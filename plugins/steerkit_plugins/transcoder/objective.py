"""Objective `bridging`: an adapter in the student learns to do what the target's own MLPs do (arXiv 2602.20904)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from pydantic import Field

from steerkit.interfaces import Config
from steerkit.models.language_model import LanguageModel
from steerkit.training.contract import Batch, Loss, Objective
from steerkit.training.masks import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit_plugins.transcoder.bridging_pair import Pair
    from steerkit_plugins.transcoder.bridging_passes import Halves, Outputs

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"kl": 1.0, "bridge": 1.0, "nmse": 1.0, "nmse_layers": "blocks", "cutoffs": "1..L"},
    "author-code": {"kl": 1.0, "bridge": 2.0, "nmse": 1.0, "nmse_layers": "blocks_and_embeddings", "cutoffs": "0..L"},
}

DEAD_AFTER = (100, 1000)
"""Rows without activity."""


class BridgingOptions(Config):
    preset: Literal["paper", "author-code"] = "paper"
    """What options that are left out are: the paper's (`kl`, `bridge` and `nmse` 1, `nmse_layers` blocks, `cutoffs`
    1..L), or those of the authors' code (`bridge` 2, blocks_and_embeddings, 0..L)."""
    kl: float | None = Field(None, ge=0)
    """Weight of KL(target ‖ student)."""
    bridge: float | None = Field(None, ge=0)
    """Weight of each of the two KLs between the target and a model that is the student up to a block and the target
    from it on, or the other way round. 0 runs none of them."""
    nmse: float | None = Field(None, ge=0)
    """Weight of the normalised squared error of blocks' outputs."""
    l1: float = Field(1e-3, ge=0)
    """Weight of Σ_blocks mean_tokens Σ_i f_i ‖W_dec[:, i]‖₂."""
    average: Literal["tokens", "sequences"] = "tokens"
    """Whether means are over all tokens of a micro-batch, or over sequences of each one's mean over its tokens."""
    nmse_form: Literal["ratio_of_sums", "per_token"] = "ratio_of_sums"
    """Summed squared error over the target's summed squares, or the mean of each token's ratio. Sums are ruled by the
    few tokens, mostly a row's first, whose states are very long."""
    nmse_layers: Literal["blocks", "blocks_and_embeddings"] | None = None
    """Whether the mean is over the L blocks, or over the embeddings, too, whose error is 0: L / (L + 1) of it."""
    cutoffs: Literal["1..L", "0..L"] | None = None
    """Blocks below the cut of a mixed model, drawn for every micro-batch. With all or none of them, a mixed model is
    the student, whose KL then counts again, or the target, which has none."""
    tokens: Literal["all", "response"] = "all"
    """Which positions count: those whose next token is any of the row, or one that is learned."""


class Bridging(Objective):
    """kl · KL(target ‖ student) + bridge · [KL(target ‖ student below block k, target from it on) + KL(target ‖ target
    below, student from it on)] + nmse · mean_l ‖ĥ_l − h_l‖² / ‖h_l‖² + l1 · Σ_l mean_t Σ_i f_i ‖W_dec[:, i]‖₂

    in nats over the whole vocabulary (arXiv 2602.20904, section 3.2). The student is the hybrid with its transcoders;
    the target is the same weights with its own MLPs. A mixed model begins at block k with what the blocks below it gave
    in the pass of the student, or of the target, so that a step costs about half of what whole passes do. Gradients
    pass through the target's blocks above a cut.

    k is drawn from torch's global generator, which a training seeds and its checkpoints keep: arms that differ in their
    weights alone share its values. Without gradients, batch after batch has the next k.

    Reduction: each term is a mean over the micro-batch, times the micro-batch's share of `Batch.tokens`. With `tokens:
    response`, `average: tokens`, KL is the mean over the learned tokens of the whole accumulated batch. Other means
    are the same for four micro-batches of one row and one of four only where rows have the same numbers of tokens, and
    ratios of sums are those of each micro-batch.

    The log has, each without its weight: `kl`, `student_then_target`, `target_then_student`, `nmse` and `nmse.LAYER`,
    `l1`; `l0`, the active features a token and block; and `dead.100` and `dead.1000`, the share of features that were
    active at no counted token of the last 100 and 1,000 rows (of those that this process has trained on).
    """

    Config = BridgingOptions
    cost = 7 / 3
    """A pass of the target without gradients, the student's with, and on average two halves of passes with."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._idle: WeakKeyDictionary[Any, Tensor] = WeakKeyDictionary()  # rows since a feature was active, [blocks, F]

    @property
    def weights(self) -> Mapping[str, Any]:
        """Options with the preset's where they are left out."""
        own = {name: value for name, value in self.config.model_dump().items() if value is not None}
        return {**PRESETS[self.config.preset], **own}

    def loss(self, lm: LanguageModel, batch: Batch) -> Loss:
        """Raises: SteerkitError: the model is no hybrid with a transcoder adapter, or interventions are on."""
        import torch

        from steerkit_plugins.transcoder.bridging_pair import Pair
        from steerkit_plugins.transcoder.bridging_passes import halves_of
        from steerkit_plugins.transcoder.bridging_terms import counted, divergences, nmse, weights_of

        o, pair, halves = self.weights, Pair.of(lm), halves_of(lm, batch.ids, batch.mask)
        counts = counted(batch.mask, batch.labels, IGNORED, response=o["tokens"] == "response").to(lm.device)
        weights = weights_of(counts, o["average"])
        kept: Outputs = {}
        own: Outputs = {}
        seen: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        with torch.no_grad(), pair.playing(pair.whole):
            target = halves.states(kept)
        with pair.playing((), weights, seen):
            student = halves.states(own)
        cut = self._cut(lm, batch)
        passes = [student, *(self._mixed(pair, halves, cut, own, kept) if o["bridge"] else ())]
        each = divergences(halves, target, passes, counts, weights)
        kl, nothing = each[0], torch.zeros_like(each[0])
        parts = {"kl": kl}
        if o["bridge"]:
            at_end = {0: (nothing, kl), lm.depth: (kl, nothing)}
            parts["student_then_target"], parts["target_then_student"] = at_end.get(cut) or (each[1], each[2])
        errors = [nmse(own[n], kept[n], weights, o["nmse_form"], o["average"]) for n in range(lm.depth)]
        entries = lm.depth + (o["nmse_layers"] == "blocks_and_embeddings")
        parts["nmse"] = torch.stack(errors).sum() / entries
        parts["l1"] = torch.stack([one for one, _, _ in seen.values()]).sum()
        total = o["kl"] * kl + o["nmse"] * parts["nmse"] + o["l1"] * parts["l1"]
        if o["bridge"]:
            total = total + o["bridge"] * (parts["student_then_target"] + parts["target_then_student"])
        parts["l0"] = torch.stack([one for _, one, _ in seen.values()]).mean()
        parts |= {f"nmse.{n}": error for n, error in enumerate(errors)}
        if torch.is_grad_enabled():
            active = torch.stack([one for _, _, one in seen.values()])
            idle = self._idle.get(lm.model, torch.zeros_like(active, dtype=torch.int32))
            self._idle[lm.model] = (idle + len(batch.rows)).masked_fill(active, 0)
            parts |= {f"dead.{rows}": (self._idle[lm.model] >= rows).float().mean() for rows in DEAD_AFTER}
        share = (batch.labels != IGNORED).sum().to(total.device) / batch.tokens
        return Loss(total * share, {name: part.detach() * share for name, part in parts.items()})

    def state(self, lm: LanguageModel) -> Mapping[str, Tensor]:
        return {"idle": self._idle[lm.model]} if lm.model in self._idle else {}

    def restore(self, lm: LanguageModel, state: Mapping[str, Tensor]) -> None:
        self._idle[lm.model] = state["idle"].to(lm.device)

    def _cut(self, lm: LanguageModel, batch: Batch) -> int:
        """k of a micro-batch."""
        import torch

        choices = range(self.weights["cutoffs"] == "1..L", lm.depth + 1)
        if torch.is_grad_enabled():
            return choices[int(torch.randint(len(choices), ()))]
        return choices[batch.rows[0] // len(batch.rows) % len(choices)]

    def _mixed(self, pair: Pair, halves: Halves, cut: int, own: Outputs, kept: Outputs) -> Sequence[Tensor]:
        """States of the student below block `cut` and the target from it on, and of the target and the student; none
        where one of them would be whole."""
        from steerkit_plugins.transcoder.bridging_passes import can_begin

        if cut in (0, pair.lm.depth):
            return ()
        first = cut if can_begin(pair.lm, cut) else 0
        below = frozenset(range(cut))
        found = []
        for target, outputs in ((pair.whole - below, own), (below, kept)):
            with pair.playing(target):
                found.append(halves.states(first=first, below=outputs))
        return found
