"""How much of what full fine-tuning does is brought back by the adapter, and by its output matrix alone?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from steerkit.artifacts import Condition, PluginSpec
from steerkit.context import Run
from steerkit.errors import Problem
from steerkit.findings import Claim, Figure, Findings
from steerkit.parts import Experiment
from steerkit.report import words
from steerkit.settings import Intervals
from steerkit.steps.results import Results
from steerkit.steps.trained_models import TrainedModel
from steerkit.training.arms import Arm
from steerkit.training.settings import Training
from steerkit_plugins.experiments.measured import capital
from steerkit_plugins.rank1_lora.arms import ADAPTER, PairConfig, adapter_arm, unknown_models
from steerkit_plugins.rank1_lora.curves import training_curves
from steerkit_plugins.rank1_lora.recovered import BASE, ENDS, FULL, Losses
from steerkit_plugins.trained.checks import unknown_metric
from steerkit_plugins.trained.measured import Measured, labels, table_of, with_beside
from steerkit_plugins.trained.numbers import shown
from steerkit_plugins.trained.recovered import lengths, recovery_table, share_text
from steerkit_plugins.trained.words import few_seeds, heading, told

HEAD = "head"


class RecoveryConfig(PairConfig):
    head: str = ""
    r"""Regular expression for the weights that the control trains alone, without the adapter (`^lm_head`); empty for no
    such control. Give it where the adapter trains the output matrix, too (`modules_to_save`)."""
    train_full: dict[str, Any] = Field(default_factory=dict)
    """TrainingArguments of a full fine-tuning on the same rows, in place of a model that `full` names; none when
    empty."""
    metric: str = ""
    """Metric that claims are about; the score judge's first one when left out."""


class Recovery(Experiment):
    """Base, adapter, output matrix alone, full fine-tuning: losses, texts, and how much of the last one's is there."""

    Config = RecoveryConfig
    uses = (Training, Intervals)
    steers = False

    def check(self, run: Run) -> Iterator[Problem]:
        yield from unknown_models(self.name, run, self.config)
        if run.use(Training).held_out is None:
            yield Problem("held_out", f"is left out, and {self.name} reads held-out rows", "name a source of rows")
        yield from unknown_metric(f"{self.name}.metric", self.config.metric, run)

    def arms(self, run: Run) -> Sequence[Arm]:
        c = self.config
        arms = [adapter_arm(c)]
        if c.head:
            arms.append(Arm(name=HEAD, model=c.base, adapter=PluginSpec(name="full", parts=c.head)))
        if c.train_full and not c.full:
            arms.append(Arm(name=FULL, model=c.base, adapter=PluginSpec(name="full"), arguments=c.train_full))
        return arms

    def by_arm(self, run: Run) -> dict[str, list[tuple[str, int | str]]]:
        """Arm → (model, training seed) of each of its models; base and a given full model have no seed."""
        c, seeds = self.config, run.use(Training).training_seeds
        found: dict[str, list[tuple[str, int | str]]] = {BASE: [(c.base, "")]}
        for arm in self.arms(run):
            found[arm.name] = [(arm.trained(seed), seed) for seed in seeds]
        return found | ({FULL: [(c.full, "")]} if c.full else {})

    def compared(self, run: Run) -> list[str]:
        """Names of all models."""
        return [model for models in self.by_arm(run).values() for model, _ in models]

    def needs(self, run: Run) -> Sequence[str]:
        return ("training", "held-out-losses")

    def conditions(self, run: Run, *needs: Any, **_: Any) -> Sequence[Condition]:
        return [
            Condition(model=model, labels=labels(arm, seed))
            for arm, models in self.by_arm(run).items()
            for model, seed in models
        ]

    def findings(
        self, run: Run, results: Results, trained: Mapping[str, TrainedModel], rows: Mapping[str, Any]
    ) -> Findings:
        arms, confidence = self.by_arm(run), run.use(Intervals).confidence
        losses = Losses(rows, {arm: [model for model, _ in own] for arm, own in arms.items()}, confidence)
        found = with_beside(results, self.config.metric)
        main = next(iter(found.values()))
        head = f"{self.config.head.strip('^')} alone"
        called = {BASE: "base", ADAPTER: "adapter", HEAD: head, FULL: "full fine-tuning"}
        names = {arm: called[arm] for arm in (BASE, ADAPTER, HEAD, FULL) if main.has(arm)}
        columns = {
            "words": lengths(results, list(names), confidence),
            "loss on held-out rows": [shown(losses.mean(arm), 3) for arm in names],
            "trained numbers": [_share(trained, arm) for arm in names],
        }
        own = {told.arm for told in trained.values()} - {FULL}
        compared = {arm: name for arm, name in names.items() if arm in own}
        loss = {"held-out loss: gain": [share_text(losses.recovered(arm)) for arm in compared]}
        note = "gain = (it − base) / (full − base); ratio = it / full; a dash where full fine-tuning changes nothing."
        recovered = recovery_table(list(found.values()), compared, ENDS, loss, note)
        claims = tuple(self._claims(main))
        bars = tuple(measured.bars(names) for measured in found.values())
        curves = training_curves(trained, losses, called)
        return Findings(
            title="Recovery",
            question="How much of what full fine-tuning changes does the adapter bring back?",
            finding=told(main, names),
            claims=claims,
            figures=(
                Figure(
                    name=self.name,
                    title="Recovery",
                    caption="Texts of the base, of its trained adapters, and of the fully fine-tuned model on the same "
                    "prompts with the same noise.",
                    heading=heading(run, results),
                    panels=bars,
                ),
                *curves,
            ),
            tables=(table_of(found, names, columns), recovered),
            cautions=few_seeds(run),
            notes=(
                "Loss flatters: where most of what is learned is format, a model gets most of the loss back without "
                "doing what it was trained to do. Read losses beside judged and off-grammar shares and the control.",
                *_head_note(run),
            ),
            value={claim.text: claim.verdict for claim in claims},
        )

    def _claims(self, main: Measured) -> Iterator[Claim]:
        name = words.named(main.metric)
        yield main.claim(f"The adapter raises {name} above the base's", BASE, ADAPTER, 0.0)
        if main.has(HEAD):
            alone = self.config.head.strip("^")
            yield main.claim(f"The adapter raises {name} more than {alone} alone does", HEAD, ADAPTER, 0.0)
        if main.has(FULL):
            yield from main.beside({f"{capital(name)}: full fine-tuning minus adapter": (FULL, ADAPTER)})


def _share(trained: Mapping[str, TrainedModel], arm: str) -> str:
    """How many numbers an arm trains, and which share of the model's that is."""
    own = next((told for told in trained.values() if told.arm == arm), None)
    if own is None:
        return words.NOTHING
    return f"{own.trainable:,} ({own.trainable / own.parameters:.3%})"


def _head_note(run: Run) -> tuple[str, ...]:
    saved = run.use(Training).adapter.options.get("modules_to_save")
    if not saved:
        return ()
    return (
        f"The adapter trains {', '.join(saved)} whole beside its low-rank parts, which the paper does not: the control "
        "says what that does alone.",
    )
