"""Which features make the model turn back, and are they necessary, do they suffice? (arXiv 2602.20904, section 6.)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.errors import Problem
from steerkit.findings import Figure, Findings
from steerkit.judging.metrics import ACCURACY, OTHERS
from steerkit.parts import Experiment
from steerkit.report import words
from steerkit.settings import Intervals
from steerkit.steps.results import Results
from steerkit.training.arms import Arm
from steerkit.training.derived import Derived
from steerkit.training.settings import Training
from steerkit_plugins.experiments.measured import three
from steerkit_plugins.trained.checks import unknown_label, unknown_metric
from steerkit_plugins.trained.measured import ARM, Measured, labels, table_of, with_beside
from steerkit_plugins.trained.recovered import lengths
from steerkit_plugins.trained.words import few_seeds, heading, told
from steerkit_plugins.transcoder.arms import HYBRID, TARGET, Diffing, one_arm, problems
from steerkit_plugins.transcoder.feature_config import config_of as features_of
from steerkit_plugins.transcoder.hesitation_claims import ADAPTER, BY, claims_of, names_of
from steerkit_plugins.transcoder.hesitation_config import (
    CONTEXTS,
    LOGITS,
    HesitationConfig,
    models_looked_at,
)
from steerkit_plugins.transcoder.hesitation_tables import block_table, chosen_table, shares
from steerkit_plugins.transcoder.hesitation_variants import derived_of, variants_of

FEW_TURNS = 200
"""Turns in the traces below which a caution stands: ten contexts are then a large part of them."""


class Hesitation(Experiment):
    """The adapter without the features that stand before turns, and the hybrid with these alone."""

    Config = HesitationConfig
    uses = (Training, Intervals, Diffing)
    steers = False

    def check(self, run: Run) -> Iterator[Problem]:
        c = self.config
        yield from problems(self.name, run, c)
        yield from unknown_metric(f"{self.name}.metric", c.metric, run)
        yield from unknown_label(f"{self.name}.label", c.label, run)
        if c.least > c.contexts:
            yield Problem(f"{self.name}.least", f"{c.least} of {c.contexts} contexts can't be", "take fewer")
        if c.contexts > (kept := features_of(run).contexts):
            yield Problem(f"{self.name}.contexts", f"is {c.contexts}, and {kept} are kept", "raise features.contexts")

    def arms(self, run: Run) -> Sequence[Arm]:
        return [one_arm(run, self.config)]

    def derived(self, run: Run) -> Sequence[Derived]:
        return derived_of(run)

    def afterwards(self, run: Run) -> Sequence[str]:
        return ("hesitation-features",)

    def conditions(self, run: Run) -> Sequence[Condition]:
        c = self.config
        found = [
            Condition(model=c.target, labels=labels(TARGET, "")),
            Condition(model=c.hybrid, labels=labels(HYBRID, "")),
        ]
        pairs = zip(models_looked_at(run), run.use(Training).training_seeds, strict=True)
        found += [Condition(model=model, labels=labels(ADAPTER, seed)) for model, seed in pairs]
        for v in variants_of(run):
            draw = "" if v.draw is None else v.draw
            found.append(Condition(model=v.name, labels=labels(v.arm, v.seed, draw=draw)))
        return found

    def findings(self, run: Run, results: Results, chosen: Mapping[str, Any]) -> Findings:
        confidence = run.use(Intervals).confidence
        found = with_beside(results, self.config.metric)
        main = next(iter(found.values()))
        names = {arm: called for arm, called in names_of(self.config).items() if main.has(arm)}
        short = {arm: called.replace(" (", "\n(") for arm, called in names.items()}
        more = {"words": lengths(results, list(names), confidence), "draws": [_draws(results, main, a) for a in names]}
        table = table_of(found, names, more)
        directed = [each for each in found.values() if each.metric.name not in (OTHERS, ACCURACY)]
        claims = tuple(claims_of(main, directed[1:], self.config.chosen_by))
        return Findings(
            title="Hesitation",
            question=f"Which features make the model begin {self.config.label} sentences: are they necessary, and do "
            "they suffice?",
            finding=told(main, names),
            claims=claims,
            figures=(
                Figure(
                    name=self.name,
                    title="Hesitation",
                    caption="Texts of the adapter without the chosen features and without others of like contribution, "
                    "of the hybrid with the chosen features alone, and of the target with them negated.",
                    heading=heading(run, results),
                    panels=tuple(measured.bars(short) for measured in found.values()),
                    columns=2,
                ),
            ),
            tables=(table, chosen_table(chosen, BY), block_table(chosen, BY)),
            cautions=(*few_seeds(run), *self._cautions(chosen)),
            notes=tuple(self._notes()),
            value={**{claim.text: claim.verdict for claim in claims}, "share": shares(chosen)},
        )

    def _cautions(self, chosen: Mapping[str, Any]) -> Iterator[str]:
        turns = min(own["turns"] for own in chosen.values())
        if turns < FEW_TURNS:
            yield (
                f"Few turns: {turns} {self.config.label} sentences in the traces. A feature's strongest contexts are a "
                "large part of them; take more traces (prompts.extract)."
            )
        for model, own in chosen.items():
            for way, which in own["ways"].items():
                many = sum(map(len, which["chosen"]))
                if not many:
                    yield f"{model}: no feature was chosen {BY[way]}, so that nothing is taken out or added there."
                elif (fewest := min(sum(map(len, draw)) for draw in which["matched"])) < many:
                    yield f"{model}: {many} features were chosen {BY[way]}, and only {fewest} others are left to match."

    def _notes(self) -> Iterator[str]:
        c = self.config
        if CONTEXTS in c.chosen_by:
            yield (
                f"By contexts: {c.least} or more of a feature's {c.contexts} strongest contexts, in traces that were "
                f"not trained on, are tokens that the first token of a {c.label} sentence follows."
            )
        if LOGITS in c.chosen_by:
            yield (
                "By logits: mean of f × (W_dec · u) over the tokens right before such sentences, u the mean "
                "unembedding of the sentences' first tokens less that of all tokens (direct contribution, without the "
                "final norm); as many features as by contexts."
            )
        yield (
            f"Others of like contribution: for each chosen feature one of the {c.near} others of its block whose mean "
            f"f · ‖W_dec‖ is nearest; {c.draws} sets a training, whose texts are averaged."
        )
        yield (
            "Features are taken out of encoder and decoder. Decoder biases are added at every token: the adapter "
            "without all of its features is the hybrid with these biases, not the hybrid."
        )
        yield (
            "Keywords in broken text are no hesitation: read a rate of keywords beside judged sentences and the share "
            "of sentences that fit no label."
        )


def _draws(results: Results, main: Measured, arm: str) -> str:
    """Least, median and most of the draws of matched or random features, over trainings."""
    own = [c for c in results.conditions if c.labels[ARM] == arm and c.labels["draw"] != ""]
    means = [results.row(condition, main.metric.name)["mean"] for condition in own]
    return three(means, lambda value: words.value(value, main.metric))
