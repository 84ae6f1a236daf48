"""Both judges' figures of a run's generations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from steerkit.data.tokens import decode, split_answer
from steerkit.data.trace import Prompt
from steerkit.data.words import split_words
from steerkit.errors import SteerkitError
from steerkit.interfaces import OTHER, Judge, label_shares
from steerkit.judging import ask as judging
from steerkit.judging.metrics import ACCURACY, JUDGED, OTHERS, WORDS, same_numbers
from steerkit.judging.scores import Scores

if TYPE_CHECKING:
    from steerkit.run import SteeringTrainer

T = TypeVar("T")


def score(
    trainer: SteeringTrainer,
    rows: Sequence[dict[str, Any]],
    prompts: Sequence[Prompt],
    likelihoods: Mapping[tuple[str, ...], float] | None = None,
) -> Scores:
    """Figures of generations: the span judge's on the reasoning, the score judge's on what `scored` names.

    What judging will take, and what was lost and paid, is logged.
    """
    args, label = trainer.args, trainer.fitter.config.label
    traces = [split_answer(row["text"], args.think_end)[0] for row in rows]
    labels = trainer.span_judge.labels()
    shares = [label_shares(spans, labels) for spans in _ask(trainer, trainer.span_judge, judging.annotate, traces)]
    if same_numbers(args, trainer.span_judge, trainer.score_judge):
        numbers = judging.checked(trainer.score_judge, traces, shares)
    else:
        read = scored_texts(trainer, rows, traces, prompts)
        numbers = _ask(trainer, trainer.score_judge, judging.score, read)
        if args.per == "tokens":
            numbers = per_token(trainer, read, numbers)
    names = {label: JUDGED, OTHER: OTHERS}
    values = [
        {**number, **{name: share[key] for key, name in names.items() if share}, **right}
        for number, share, right in zip(numbers, shares, accuracies(trainer, rows, prompts), strict=True)
    ]
    return Scores.of(rows, traces, values, trainer.metrics, likelihoods or {})


def _ask(
    trainer: SteeringTrainer, judge: Judge, ask: Callable[[Judge, Sequence[str]], list[T]], texts: Sequence[str]
) -> list[T]:
    trainer.log_estimate(judge, texts)
    found = ask(judge, texts)
    if notes := judge.notes():
        trainer.log(scored_by=judge.name, **notes)
    return found


def per_token(
    trainer: SteeringTrainer, texts: Sequence[str], numbers: Sequence[Mapping[str, float]]
) -> list[dict[str, float]]:
    """Rates per word as rates per token of the same text."""
    rates = [metric.name for metric in judging.metrics_of(trainer.score_judge) if metric.unit == WORDS]
    ids = trainer.pair.reasoning.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return [
        {k: v * len(split_words(text)) / max(len(tokens), 1) if k in rates else v for k, v in own.items()}
        for own, text, tokens in zip(numbers, texts, ids, strict=True)
    ]


def accuracies(
    trainer: SteeringTrainer, rows: Sequence[dict[str, Any]], prompts: Sequence[Prompt]
) -> list[dict[str, float]]:
    """How right each generation's answer is, by its prompt source; empty where that can't tell.

    Raises:
        SteerkitError: the source's answer is not from 0 to 1.
    """
    marker, source = trainer.args.think_end, trainer.source
    if source is None:
        return [{} for _ in rows]
    by_id = {prompt.id: prompt for prompt in prompts}
    answered = {prompt.id: trainer.chats.closes(prompt.prompt, marker) for prompt in prompts}  # enable_thinking: false
    found: list[dict[str, float]] = []
    for row in rows:
        name, text = row["prompt_id"], row["text"]
        answer = text if answered[name] else split_answer(text, marker)[1].removeprefix(marker)
        right = source.correct(by_id[name], answer)
        if right is not None and not 0 <= right <= 1:
            raise SteerkitError(
                f"prompt source {type(source).__name__}: `correct` must return 0 (wrong) to 1 (right), or None "
                f"where it can't tell, not {right!r} (prompt {name!r})"
            )
        found.append({} if right is None else {ACCURACY: right})
    return found


def scored_texts(
    trainer: SteeringTrainer, rows: Sequence[dict[str, Any]], traces: Sequence[str], prompts: Sequence[Prompt]
) -> list[str]:
    """The text of each generation that the score judge reads."""
    scored, tokenizer = trainer.args.scored, trainer.pair.reasoning.tokenizer
    if scored == "trace":
        return list(traces)
    if scored == "output":
        return [row["text"] for row in rows]
    before = {p.id: decode(tokenizer, trainer.chats.ids(p.prompt)) for p in prompts}
    return [before[row["prompt_id"]] + row["text"] for row in rows]


def scoring_inputs(trainer: SteeringTrainer) -> list[Any]:
    """What scores depend on, beside the texts."""
    args = trainer.args
    judges = (trainer.identities["span_judge"], trainer.identities["score_judge"])
    return [*judges, args.think_end, args.scored, args.per]
