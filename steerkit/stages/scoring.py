"""Both judges' figures of a run's generations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steerkit.scores import Scores
from steerkit.tokens import decode, format_prompt, split_answer
from steerkit.trace import Prompt
from steerkit.words import split_words

if TYPE_CHECKING:
    from steerkit.trainer import SteeringTrainer


def score(
    trainer: SteeringTrainer,
    rows: Sequence[dict[str, Any]],
    prompts: Sequence[Prompt],
    label: str,
    likelihoods: Mapping[tuple[str, ...], float] | None = None,
) -> Scores:
    """Figures of generations: the span judge's on the reasoning, the score judge's on what `scored` names.

    What judging will take, and what was lost and paid, is logged.
    """
    args = trainer.args
    traces = [split_answer(row["text"], args.think_end)[0] for row in rows]
    read = scored_texts(trainer, rows, traces, prompts)
    trainer.log_estimate(trainer.span_judge, traces)
    judged = trainer.span_judge.score(traces)
    trainer.log_estimate(trainer.score_judge, read)
    numbers = trainer.score_judge.score(read)
    for judge in (trainer.span_judge, trainer.score_judge):
        if notes := judge.notes():
            trainer.log(scored_by=judge.name, **notes)
    rates = [number.get("keyword", float("nan")) for number in numbers]
    if args.per == "tokens":
        tokens = trainer.pair.reasoning.tokenizer(read, add_special_tokens=False)["input_ids"] if read else []
        rates = [
            rate * len(split_words(text)) / max(len(ids), 1)
            for rate, text, ids in zip(rates, read, tokens, strict=True)
        ]
    right = accuracies(trainer, rows, prompts)
    return Scores.of(rows, traces, judged, rates, right, label, likelihoods or {})


def accuracies(trainer: SteeringTrainer, rows: Sequence[dict[str, Any]], prompts: Sequence[Prompt]) -> list[float]:
    """How right each generation's answer is, by its prompt source; NaN where that can't tell."""
    by_id = {prompt.id: prompt for prompt in prompts}
    found = []
    for row in rows:
        answer = split_answer(row["text"], trainer.args.think_end)[1].removeprefix(trainer.args.think_end)
        right = trainer.source.correct(by_id[row["prompt_id"]], answer) if trainer.source else None
        found.append(float("nan") if right is None else right)
    return found


def scored_texts(
    trainer: SteeringTrainer, rows: Sequence[dict[str, Any]], traces: Sequence[str], prompts: Sequence[Prompt]
) -> list[str]:
    """The text of each generation that b is counted in."""
    scored, tokenizer = trainer.args.scored, trainer.pair.reasoning.tokenizer
    if scored == "trace":
        return list(traces)
    if scored == "output":
        return [row["text"] for row in rows]
    before = {p.id: decode(tokenizer, format_prompt(tokenizer, p.prompt, trainer.args.chat)) for p in prompts}
    return [before[row["prompt_id"]] + row["text"] for row in rows]


def scoring_inputs(trainer: SteeringTrainer) -> list[Any]:
    """What scores depend on, beside the texts."""
    args = trainer.args
    judges = (args.span_judge.settings("judges"), args.score_judge.settings("judges"))
    return [*judges, args.think_end, args.scored, args.per]
