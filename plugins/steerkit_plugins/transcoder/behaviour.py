"""How much of the target's behaviour do the adapters bring back to the hybrid? (arXiv 2602.20904, section 4.)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.errors import Problem
from steerkit.findings import Claim, Figure, Findings, Lines, Series
from steerkit.parts import Experiment
from steerkit.report import words
from steerkit.settings import Intervals
from steerkit.steps.results import Results
from steerkit.training.arms import Arm
from steerkit.training.settings import Training
from steerkit_plugins.trained.checks import unknown_metric
from steerkit_plugins.trained.measured import Measured, labels, table_of, with_beside
from steerkit_plugins.trained.recovered import gain, lengths, most_claim, recovery_table, sign_of
from steerkit_plugins.trained.words import few_seeds, heading, told
from steerkit_plugins.transcoder.arms import (
    BASE,
    HYBRID,
    TARGET,
    DiffConfig,
    Diffing,
    adapter_arms,
    adapters_called,
    arm_name,
    models_of,
    problems,
)

ENDS = HYBRID, TARGET


class BehaviourConfig(DiffConfig):
    base_texts: bool = True
    """Whether the base writes texts, too."""
    metric: str = ""
    """Metric that claims are about; the score judge's first one when left out."""
    most: float = Field(default=0.5, gt=0, lt=1)
    """Share of what separates target and hybrid from which on an adapter is said to bring most of it back."""


class Behaviour(Experiment):
    """Texts of target, hybrid, base and every adapter: how much of the target's behaviour is there?"""

    Config = BehaviourConfig
    uses = (Training, Intervals, Diffing)
    steers = False

    def check(self, run: Run) -> Iterator[Problem]:
        yield from problems(self.name, run, self.config)
        yield from unknown_metric(f"{self.name}.metric", self.config.metric, run)

    def arms(self, run: Run) -> Sequence[Arm]:
        return adapter_arms(run, self.config)

    def conditions(self, run: Run) -> Sequence[Condition]:
        c, seeds = self.config, run.use(Training).training_seeds
        fixed = {TARGET: c.target, HYBRID: c.hybrid} | ({BASE: c.base} if c.base_texts else {})
        found = [Condition(model=model, labels=labels(arm, "")) for arm, model in fixed.items()]
        for arm in self.arms(run):
            pairs = zip(models_of(run, arm), seeds, strict=True)
            found += [Condition(model=model, labels=labels(arm.name, seed)) for model, seed in pairs]
        return found

    def findings(self, run: Run, results: Results) -> Findings:
        confidence = run.use(Intervals).confidence
        found = with_beside(results, self.config.metric)
        main = next(iter(found.values()))
        adapters = {name: called for name, called in adapters_called(run, self.config).items() if main.has(name)}
        fixed = {TARGET: "target", HYBRID: "hybrid", BASE: "base"}
        names = {arm: called for arm, called in fixed.items() if main.has(arm)} | adapters
        note = (
            "gain = (it − hybrid) / (target − hybrid); ratio = it / target; a dash where target and hybrid are not "
            "shown to differ."
        )
        claims = tuple(self._claims(main, adapters))
        return Findings(
            title="Behaviour",
            question="How much of the target's behaviour do the adapters bring back to the hybrid?",
            finding=told(main, names),
            claims=claims,
            figures=(
                Figure(
                    name=self.name,
                    title="Behaviour",
                    caption="Texts of the target, of the hybrid (the target with the base's MLPs), of the base, and of "
                    "the hybrid with its adapters, on the same prompts with the same noise.",
                    heading=heading(run, results),
                    panels=tuple(measured.bars(names) for measured in found.values()),
                ),
                *self._ladder(run, list(found.values()), heading(run, results)),
            ),
            tables=(
                table_of(found, names, {"words": lengths(results, list(names), confidence)}),
                recovery_table(list(found.values()), adapters, ENDS, {}, note),
            ),
            cautions=few_seeds(run),
            notes=(
                "Divergence flatters: an adapter can bring predictions near to the target's on the target's own texts "
                "and still write otherwise. Read gains beside what experiment faithfulness says, and a rate of "
                "keywords beside the share of sentences that fit no label: broken text has keywords, too.",
            ),
            value={claim.text: claim.verdict for claim in claims},
        )

    def _claims(self, main: Measured, adapters: Mapping[str, str]) -> Iterator[Claim]:
        """What was laid down beforehand, for each adapter."""
        name = words.named(main.metric)
        if not main.has(*ENDS):
            return
        lower, higher = ENDS if sign_of(main, ENDS) > 0 else ENDS[::-1]
        yield main.claim(f"The hybrid lacks the target's {name}", lower, higher, 0.0)
        for arm, called in adapters.items():
            pair = (HYBRID, arm) if lower == HYBRID else (arm, HYBRID)
            yield main.claim(f"The {called} brings {name} nearer to the target's than the hybrid is", *pair, 0.0)
            yield self._most(main, arm, called)

    def _most(self, main: Measured, arm: str, called: str) -> Claim:
        """That an adapter has more than a given share of what separates target and hybrid."""
        text = (
            f"The {called} brings back more than {100 * self.config.most:g} % of what separates target and hybrid in "
            f"{words.named(main.metric)}"
        )
        share = gain(main.values, arm, ENDS, sign_of(main, ENDS), main.confidence)
        return most_claim(text, share, self.config.most, main.difference(arm, HYBRID).n)

    def _ladder(self, run: Run, found: Sequence[Measured], above: str) -> Iterator[Figure]:
        """Each metric against the weight of the L1 term."""
        weights = sorted(run.use(Diffing).l1_weights)
        if len(weights) < 2:
            return
        yield Figure(
            name=f"{self.name}-ladder",
            title="Behaviour by sparsity",
            caption="The adapters by the weight λ₁ of the L1 term they were trained with; target and hybrid have none.",
            heading=above,
            panels=tuple(_ladder(measured, weights) for measured in found),
        )


def _ladder(measured: Measured, weights: Sequence[float]) -> Lines:
    """A line for the adapters, level ones for target and hybrid."""
    scale, places = words.factor(measured.metric), tuple(map(float, range(len(weights))))
    lines = []
    for look, (called, arms) in enumerate(
        {
            "adapter": [arm_name(weight) for weight in weights],
            "target": [TARGET] * len(weights),
            "hybrid": [HYBRID] * len(weights),
        }.items()
    ):
        means = [measured.mean(arm) if measured.has(arm) else None for arm in arms]
        y, low, high = (
            tuple(None if e is None or words.missing(v := getattr(e, end)) else scale * v for e in means)
            for end in ("mean", "low", "high")
        )
        own = called == "adapter"
        ends = (low, high) if own else ((), ())
        lines.append(Series(name=called, x=places, y=y, low=ends[0], high=ends[1], look=look, hollow=not own))
    return Lines(
        title=words.heading(measured.metric),
        xlabel="weight of the L1 term",
        ylabel=words.cut(words.unit(measured.metric)),
        series=tuple(lines),
        ticks=tuple((place, f"{weight:g}") for place, weight in zip(places, weights, strict=True)),
    )
