"""How near do the adapters come to the target, and where does fine-tuning sit? (arXiv 2602.20904, section 4.)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steerkit.context import Run
from steerkit.errors import Problem
from steerkit.findings import Claim, Findings
from steerkit.parts import Experiment
from steerkit.settings import Intervals
from steerkit.steps.results import Results
from steerkit.steps.trained_models import TrainedModel
from steerkit.training.arms import Arm
from steerkit.training.settings import Training
from steerkit_plugins.trained.numbers import above_zero
from steerkit_plugins.trained.recovered import most_claim
from steerkit_plugins.trained.words import few_seeds, over_seeds
from steerkit_plugins.transcoder.arms import HYBRID, Diffing, adapter_arms, adapters_called, models_of, problems
from steerkit_plugins.transcoder.faithful_figures import figures, parts_table, table
from steerkit_plugins.transcoder.faithful_options import FaithfulnessOptions
from steerkit_plugins.transcoder.faithful_read import Read

MOST = 0.5
"""Share of the hybrid's divergence from which on an adapter is said to remove most of it."""


class Faithfulness(Experiment):
    """Divergence, loss and error of blocks of every adapter on held-out rows, whole and with parts of it replaced."""

    Config = FaithfulnessOptions
    uses = (Training, Intervals, Diffing)
    rows = None
    steers = False

    def check(self, run: Run) -> Iterator[Problem]:
        yield from problems(self.name, run, self.config)
        if run.use(Training).held_out is None:
            yield Problem("held_out", f"is left out, and {self.name} reads held-out rows", "name a source of rows")

    def arms(self, run: Run) -> Sequence[Arm]:
        return adapter_arms(run, self.config)

    def needs(self, run: Run) -> Sequence[str]:
        return ("training", "faithful-losses")

    def findings(
        self, run: Run, results: Results, trained: Mapping[str, TrainedModel], losses: Mapping[str, Any]
    ) -> Findings:
        c, confidence = self.config, run.use(Intervals).confidence
        models = {arm.name: models_of(run, arm) for arm in self.arms(run)}
        read = Read(losses, models, c.average, confidence)
        names = adapters_called(run, c)
        above = f"n = {read.n} held-out rows, {over_seeds(run)}, {100 * confidence:g} % intervals"
        claims = tuple(self._claims(read, names))
        shares = {arm: trained[own[0]].trainable / trained[own[0]].parameters for arm, own in models.items()}
        told = [f"{name} {read.nats(arm)}" for arm, name in ({HYBRID: "hybrid"} | names).items() if read.has(arm)]
        return Findings(
            title="Faithfulness",
            question="How near do the adapters come to the target, and where does fine-tuning sit?",
            finding=f"KL(target ‖ model), nats a token: {', '.join(told)}.",
            claims=claims,
            figures=tuple(figures(read, names, above)),
            tables=(table(read, names, shares), *parts_table(read)),
            cautions=few_seeds(run),
            notes=tuple(self._notes()),
            value={claim.text: claim.verdict for claim in claims} | {"removed": read.removed_shares()},
        )

    def _claims(self, read: Read, names: Mapping[str, str]) -> Iterator[Claim]:
        """What was laid down beforehand."""
        for arm, name in names.items():
            text = f"The {name} removes more than {100 * MOST:g} % of the hybrid's divergence"
            yield most_claim(text, read.removed(arm), MOST, read.n)
            if (partial := read.worst_partial(arm)) is not None:
                where, difference = partial
                text = f"Any part of the {name} diverges less than all of it"
                yield above_zero(text, difference, 4, detail=f"nearest: {where}")
        ladder = sorted(names, key=lambda arm: float(arm.removeprefix("l1-")) if len(names) > 1 else 0.0)
        if len(ladder) > 1:
            yield above_zero(
                "Fewer features are active as the weight of the L1 term rises",
                read.steepness(ladder),
                2,
                detail="the smallest step of the ladder, features a token and block",
            )

    def _notes(self) -> Iterator[str]:
        which = "all tokens but the first" if self.config.tokens == "all" else "tokens of responses"
        how = "each row's mean" if self.config.average == "per_sequence" else "all tokens"
        yield f"Means over {how}; what is predicted are {which} of rows that were not trained on."
        yield (
            "First k, last k and one block: there the adapter's blocks, in all others the target's own MLPs. "
            "Divergence flatters: what the model then writes is another question (experiment behaviour)."
        )
        yield (
            "Errors of blocks are sums of squares over a row's tokens: a first token, whose states are often very "
            "long, may rule them; the mean of tokens' own ratios stands beside them."
        )
