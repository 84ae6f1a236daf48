"""Texts of a model that is trained: how often a label stands in them, and whether that still comes nearer to a goal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any

from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.context import Run
from steerkit.data.tokens import decode, split_answer
from steerkit.data.trace import Prompt
from steerkit.errors import Problem, nearest
from steerkit.generation.sampling import Sampling
from steerkit.generation.stream import GenerationRow, generate
from steerkit.interfaces import label_shares
from steerkit.judging import ask as judging
from steerkit.parts import Step
from steerkit.settings import Chatting, Generating, Labelling
from steerkit.stats.noise import key_of
from steerkit.steps.texts import sampling_of
from steerkit.store.identity import plain
from steerkit.training.settings import Training
from steerkit.training.validation import Validation
from steerkit.training.watch import Measure, Watch, stalled

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel


@dataclass(frozen=True)
class Texts:
    """Texts that are written and judged again and again.

    Attributes:
        rows: a prompt each, as the model reads it.
        judge: its spans.
        marker: what ends the reasoning.
    """

    rows: tuple[GenerationRow, ...]
    judge: PluginSpec
    label: str
    sampling: Sampling
    max_new_tokens: int
    marker: str

    def share(self, lm: LanguageModel) -> float:
        """Share of sentences with the label, the mean over texts that have sentences; 0 where none has."""
        found = generate(lm, self.rows, max_new_tokens=self.max_new_tokens, **self.sampling.model_dump())
        texts = [split_answer(decode(lm.tokenizer, text.ids), self.marker)[0] for text in found]
        judge = registry.build("judges", self.judge)
        shares = [label_shares(spans, judge.labels()) for spans in judging.annotate(judge, texts)]
        own = [share[self.label] for share in shares if share]
        return mean(own) if own else 0.0


class TextWatch(Watch):
    """Ends a training whose texts have come no nearer to a goal for a while.

    Args:
        goal: share of sentences with the label.
    """

    def __init__(self, texts: Texts, how: Validation, goal: float) -> None:
        self.texts, self.how, self.goal, self.every = texts, how, goal, how.every

    def measure(self, lm: LanguageModel) -> Mapping[str, float]:
        return {self.how.label: self.texts.share(lm)}

    def enough(self, measures: Sequence[Measure]) -> bool:
        return stalled([each.values[self.how.label] for each in measures], self.goal, self.how.patience)

    def settings(self) -> Any:
        return plain([self.how.model_dump(), self.goal, [[row.prompt_ids, row.key] for row in self.texts.rows]])


class ValidationTexts(Step):
    """``steps/validation-texts.json``: the prompts that are answered, as ``rows`` of ids and noise keys; ``sampling``;
    ``goal``, the share that is to be reached."""

    uses = (Training, Chatting, Generating, Labelling)

    def needs(self, run: Run) -> Sequence[str]:
        return ("prompts", "chats")

    def models(self, run: Run) -> Sequence[str]:
        return tuple(dict.fromkeys((run.models.writer, *_goal(run))))

    def check(self, run: Run) -> Iterator[Problem]:
        how = run.use(Training).validation
        if how is None:
            return
        if how.goal not in run.models.specs:
            fix = nearest(how.goal, list(run.models.specs))
            yield Problem("validation.goal", f"no model is called {how.goal!r}", fix)
        judge = registry.build("judges", run.use(Labelling).span_judge)
        if how.label not in judge.labels():
            fix = nearest(how.label, list(judge.labels()))
            yield Problem("validation.label", f"the span judge has no label {how.label!r}", fix)
        if judge.estimate([""]):
            yield Problem(
                "validation", f"the span judge {judge.name!r} is paid for each text", "take rules or keywords"
            )
        if how.prompts > (there := int(run.settings.own("prompts").get("choose", how.prompts))):
            yield Problem("validation.prompts", f"is {how.prompts}, and there are {there}", "raise prompts.choose")

    def depends(self, run: Run, *needs: Any) -> Any:
        return [sampling_of(run).model_dump(), run.chats.settings()]

    def make(self, run: Run, prompts: list[Prompt], chats: Any) -> dict[str, Any]:
        how = _how(run)
        own = [prompt for prompt in prompts if prompt.split == "choose"][: how.prompts]
        rows = [[run.chats.ids(prompt.prompt), key_of(run.seed, "validation", prompt.id)] for prompt in own]
        made = {"rows": rows, "sampling": sampling_of(run).model_dump()}
        goal = _texts(run, made, how.goal).share(run.models[how.goal])
        run.log(validation=how.label, goal=goal)
        return {**made, "goal": goal}


def watch_of(run: Run, made: Mapping[str, Any], model: str) -> TextWatch:
    """What ends the trainings of a model; `made` is the artifact of that step."""
    return TextWatch(_texts(run, made, model), _how(run), made["goal"])


def _how(run: Run) -> Validation:
    how = run.peek(Training).validation
    assert how is not None  # the step is needed where it is set
    return how


def _goal(run: Run) -> list[str]:
    how = run.use(Training).validation
    return [how.goal] if how else []


def _texts(run: Run, made: Mapping[str, Any], model: str) -> Texts:
    own = tuple(GenerationRow(run.models.ids_for(model, ids), key) for ids, key in made["rows"])
    judge, new = run.peek(Labelling).span_judge, run.peek(Generating).max_new_tokens
    return Texts(own, judge, _how(run).label, Sampling(**made["sampling"]), new, run.peek(Chatting).think_end)
