"""Scores: both judges' figures of each generation, and how right its answer is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from steerkit import registry
from steerkit.context import Run
from steerkit.data.generated import Generation, Score
from steerkit.data.tokens import decode, split_answer
from steerkit.data.trace import Prompt
from steerkit.data.words import split_words
from steerkit.errors import Problem, SteerkitError
from steerkit.interfaces import OTHER, Judge, PromptSource, checks_answers, label_shares
from steerkit.judging import ask as judging
from steerkit.judging.metrics import (
    ACCURACY,
    JUDGED,
    OTHERS,
    WORDS,
    MetricsError,
    RunMetric,
    run_metrics,
    same_numbers,
)
from steerkit.judging.repetition import collapsed, distinct_2, longest_repeat
from steerkit.parts import Step
from steerkit.settings import Chatting, Labelling, Scoring
from steerkit.steps.prompts import source_of
from steerkit.steps.spans import fitted_label
from steerkit.store.files import read_whole_lines, write_jsonl

T = TypeVar("T")


def metrics_of_run(run: Run) -> tuple[RunMetric, ...]:
    """The metrics of a run, in the order of its tables.

    Raises:
        MetricsError: the judges lack the fitted label, or `per` doesn't fit them.
    """
    s = run.peek(Scoring)
    spec = run.settings.own("prompts").get("source")
    name = spec["name"] if isinstance(spec, Mapping) else spec
    span_judge, score_judge = (
        registry.build("judges", judge) for judge in (run.peek(Labelling).span_judge, s.score_judge)
    )
    answers = checks_answers(registry.get("prompts", name)) if name else False
    return run_metrics(span_judge, score_judge, label=fitted_label(run), scored=s.scored, per=s.per, answers=answers)


class Scores(Step):
    """``scores/SPLIT.jsonl``: the span judge's figures of the reasoning, the score judge's of what `scored` names."""

    uses = (Labelling, Scoring, Chatting)

    def needs(self, run: Run) -> Sequence[str]:
        likelihoods = (f"likelihoods.{self.of}",) if run.use(Scoring).perplexity else ()
        return ("prompts", f"generations.{self.of}", *likelihoods)

    def models(self, run: Run) -> Sequence[str]:
        return (run.models.writer,) if (run.use(Scoring).per, run.use(Scoring).scored) != ("words", "trace") else ()

    def check(self, run: Run) -> Iterator[Problem]:
        try:
            metrics_of_run(run)
        except MetricsError as error:
            yield from error.problems
        except SteerkitError:
            return  # a judge that reads its labels from files, which need not be there before the run begins

    def depends(self, run: Run, *needs: Any) -> Any:
        return [fitted_label(run), [asdict(metric) for metric in metrics_of_run(run)]]

    def make(
        self, run: Run, prompts: list[Prompt], rows: list[Generation], likelihoods: Mapping[Any, float] | None = None
    ) -> list[Score]:
        s, marker = run.use(Scoring), run.use(Chatting).think_end
        span_judge, score_judge = run.judge(run.use(Labelling).span_judge), run.judge(s.score_judge)
        traces = [split_answer(row.text, marker)[0] for row in rows]
        shares = self._shares(run, span_judge, traces)
        if same_numbers(span_judge, score_judge, s.scored):
            numbers = judging.checked(score_judge, traces, shares)
        else:
            read = scored_texts(run, rows, traces, prompts)
            numbers = _ask(run, score_judge, judging.score, read)
            if s.per == "tokens":
                numbers = per_token(run, score_judge, read, numbers)
        names = {fitted_label(run): JUDGED, OTHER: OTHERS}
        broken = {row.condition for row in rows if row.broken}
        rights = accuracies(run, rows, prompts)
        return [
            _score(
                row,
                text,
                {**number, **{name: share[key] for key, name in names.items() if share}, **right},
                row.condition not in broken,
                None if likelihoods is None else likelihoods.get(row.name),
            )
            for row, text, number, share, right in zip(rows, traces, numbers, shares, rights, strict=True)
        ]

    def _shares(self, run: Run, judge: Judge, texts: Sequence[str]) -> list[dict[str, float]]:
        """The share of each label's sentences in texts; none by a judge that labels no texts."""
        if not judge.labels_texts:
            return [{} for _ in texts]
        labels = judge.labels()
        return [label_shares(spans, labels) for spans in _ask(run, judge, judging.annotate, texts)]

    def save(self, run: Run, value: list[Score]) -> Sequence[str]:
        write_jsonl(run.folder / self._file, (asdict(score) for score in value))
        return [self._file]

    def load(self, run: Run) -> list[Score]:
        return [Score(**row) for row in read_whole_lines(run.folder / self._file)]

    @property
    def _file(self) -> str:
        return f"scores/{self.of}.jsonl"


def _score(row: Generation, text: str, values: Mapping[str, float], whole: bool, likelihood: float | None) -> Score:
    """Figures of a generation. Where a condition has broken texts, the others would be a selection: no values."""
    return Score(
        split=row.split,
        condition=row.condition,
        prompt_id=row.prompt_id,
        sample=row.sample,
        values=dict(values) if whole else {},
        collapsed=whole and collapsed(text),
        words=len(split_words(text)),
        repeat=longest_repeat(text),
        distinct=distinct_2(text),
        log_likelihood=likelihood,
        tokens=len(row.ids),
    )


def _ask(run: Run, judge: Judge, ask: Callable[[Judge, Sequence[str]], list[T]], texts: Sequence[str]) -> list[T]:
    if estimate := judge.estimate(texts):
        run.log(judge=judge.name, estimate=estimate)
    found = ask(judge, texts)
    if notes := judge.notes():
        run.log(scored_by=judge.name, **notes)
    return found


def per_token(
    run: Run, judge: Judge, texts: Sequence[str], numbers: Sequence[Mapping[str, float]]
) -> list[dict[str, float]]:
    """Rates per word as rates per token of the same text."""
    rates = [metric.name for metric in judging.metrics_of(judge) if metric.unit == WORDS]
    ids = run.models.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return [
        {k: v * len(split_words(text)) / max(len(tokens), 1) if k in rates else v for k, v in own.items()}
        for own, text, tokens in zip(numbers, texts, ids, strict=True)
    ]


def accuracies(run: Run, rows: Sequence[Generation], prompts: Sequence[Prompt]) -> list[dict[str, float]]:
    """How right each generation's answer is, by its prompt source; empty where that can't tell.

    Raises:
        SteerkitError: the source's answer is not from 0 to 1.
    """
    source: PromptSource | None = source_of(run)
    if source is None or not checks_answers(source):
        return [{} for _ in rows]
    marker = run.use(Chatting).think_end
    by_id = {prompt.id: prompt for prompt in prompts}
    answered = {prompt.id: run.chats.closes(prompt.prompt, marker) for prompt in prompts}  # enable_thinking: false
    found: list[dict[str, float]] = []
    for row in rows:
        name, text = row.prompt_id, row.text
        answer = text if answered[name] else split_answer(text, marker)[1].removeprefix(marker)
        right = source.correct(by_id[name], answer)
        if right is not None and not 0 <= right <= 1:
            raise SteerkitError(
                f"prompt source {type(source).__name__}: `correct` must return 0 (wrong) to 1 (right), or None "
                f"where it can't tell, not {right!r} (prompt {name!r})"
            )
        found.append({} if right is None else {ACCURACY: right})
    return found


def scored_texts(run: Run, rows: Sequence[Generation], traces: Sequence[str], prompts: Sequence[Prompt]) -> list[str]:
    """The text of each generation that the score judge reads."""
    scored = run.use(Scoring).scored
    if scored == "trace":
        return list(traces)
    if scored == "output":
        return [row.text for row in rows]
    before = {p.id: decode(run.models.tokenizer, run.chats.ids(p.prompt)) for p in prompts}
    return [before[row.prompt_id] + row.text for row in rows]
