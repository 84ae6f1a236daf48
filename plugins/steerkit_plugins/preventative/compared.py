"""What the experiments on trained models have in common: training seeds, pairs, figures and notes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from steerkit.artifacts import Condition, Pair
from steerkit.context import Run
from steerkit.errors import Problem
from steerkit.findings import Claim, Figure, Findings
from steerkit.interfaces import Config
from steerkit.parts import Experiment
from steerkit.steps.results import Results
from steerkit.training.settings import Training
from steerkit_plugins.preventative.arms import NONE, unknown_models
from steerkit_plugins.preventative.texts import against, conditions_of, untrained
from steerkit_plugins.trained.measured import by_metric, table_of
from steerkit_plugins.trained.words import few_seeds, heading, told


class TrainedExperiment(Experiment):
    """An experiment on models that were trained in several ways, with several seeds each."""

    uses: ClassVar[tuple[type[Config], ...]] = (Training,)

    def check(self, run: Run) -> Iterator[Problem]:
        yield from unknown_models(self.name, run, self.config)

    def needs(self, run: Run) -> Sequence[str]:
        return ("training",)

    def remarks(self, *more: str) -> tuple[str, ...]:
        return (
            "All models were trained on the same rows from the same first weights in the same order, seed by seed; "
            "prompts and sampling noise are the same for all. Differences are paired by prompt and training seed, and "
            "intervals cover both.",
            f"A claim does not hold where its effect is shown to be below {self.config.margin:.0%} of what training "
            "without a defence changes, and is unclear where neither is shown.",
            *more,
        )


class TrainedTexts(TrainedExperiment):
    """One on texts that such models write."""

    reference: ClassVar[str] = NONE
    """The arm that all others are compared with, seed by seed."""

    def conditions(self, run: Run, *needs: Any, **_: Any) -> Sequence[Condition]:
        arms = self.arms(run)
        return [untrained(arms), *conditions_of(run, arms)]

    def pairs(self, run: Run, conditions: Sequence[Condition]) -> Sequence[Pair]:
        return against(conditions, self.reference)

    def answer(
        self,
        run: Run,
        results: Results,
        names: Mapping[str, str],
        claims: Iterable[Claim],
        *,
        title: str,
        question: str,
        caption: str,
        columns: Mapping[str, Sequence[str]],
        in_sentence: Mapping[str, str] | None = None,
        notes: Iterable[str] = (),
    ) -> Findings:
        """Findings with a bar an arm in a panel a metric, and a row an arm in a table.

        Args:
            names: arm → what it is called.
            columns: heading → a cell an arm, behind the metrics.
            in_sentence: the arms that the finding names; all when left out.
        """
        found, claims = by_metric(results), tuple(claims)
        figure = Figure(
            name=self.name,
            title=title,
            caption=caption,
            heading=heading(run, results),
            panels=tuple(measured.bars(names) for measured in found.values()),
        )
        return Findings(
            title=title,
            question=question,
            finding=told(found[results.score.name], in_sentence or names),
            claims=claims,
            figures=(figure,),
            tables=(table_of(found, names, columns),),
            cautions=few_seeds(run),
            notes=self.remarks(*notes),
            value={claim.text: claim.verdict for claim in claims},
        )
