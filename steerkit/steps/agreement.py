"""Do two judges see the same? Table C.1: another judge against the span judge, by steering strength."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from steerkit.conditions import VectorKey
from steerkit.data.tokens import split_answer
from steerkit.judging import ask as judging
from steerkit.judging.agreement_tables import COLUMNS, agreement_rows
from steerkit.judging.units import labels_by
from steerkit.methods import told_apart
from steerkit.stats.agreement import agreement as agree
from steerkit.steps.generations import FILE as GENERATIONS
from steerkit.steps.generations import planner_for
from steerkit.store.files import read_whole_lines
from steerkit.tables import write_csv
from steerkit.vectors.steering_vector import SteeringVector

if TYPE_CHECKING:
    from steerkit.run import SteeringTrainer

FILE = "agreement.csv"


def agreement(trainer: SteeringTrainer, vectors: Mapping[VectorKey, SteeringVector]) -> None:
    """``agreement.csv``: precision, recall, F1, kappa and alpha on the span judge's sentences, by strength."""
    args = trainer.args
    if args.agreement is None:
        return
    reference, name = told_apart([spec.settings("judges") for spec in (args.span_judge, args.agreement)])
    judge = trainer.judge(args.agreement)
    conditions = {c.id: c.strength for c in planner_for(trainer, vectors).strengths()}

    def make(key: str) -> tuple[None, list[str]]:
        by_strength: dict[float, list[tuple[str, str]]] = {strength: [] for strength in conditions.values()}
        texts_there = read_whole_lines(trainer.folder / GENERATIONS)
        broken = {row["condition"] for row in texts_there if row.get("broken")}
        for row in texts_there:
            if row["split"] == "test" and row["condition"] in conditions.keys() - broken:
                text = split_answer(row["text"], args.think_end)[0]
                by_strength[conditions[row["condition"]]].append((row["prompt_id"], text))
        shared = [label for label in trainer.span_judge.labels() if label in judge.labels()]
        rows = []
        for strength, texts in sorted((strength, texts) for strength, texts in by_strength.items() if texts):
            spans = judging.annotate(trainer.span_judge, [text for _, text in texts])
            units = [
                (prompt, text[a:b], label)
                for (prompt, text), own in zip(texts, spans, strict=True)
                for a, b, label in own
            ]
            if units:
                clusters, pieces, labels = (list(column) for column in zip(*units, strict=True))
                found = agree(
                    {reference: labels, f"{name} (scored)" if name == reference else name: labels_by(judge, pieces)},
                    clusters,
                    labels=shared,
                    confidence=args.confidence,
                    resamples=args.resamples,
                    seed=args.seed,
                )
                rows += list(agreement_rows(found, f"{strength:g}"))
        write_csv(trainer.folder / FILE, COLUMNS, rows)
        return None, [FILE]

    inputs = [
        trainer.keys["test"],
        trainer.identities["span_judge"],
        trainer.identities["agreement"],
        args.think_end,
        args.confidence,
        args.resamples,
        args.seed,
        sorted(conditions),
    ]
    trainer.stage("agreement", inputs, make, lambda: None)
