"""Steered generations: every condition on every prompt of a split, many conditions in one batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from steerkit import registry
from steerkit.artifacts import Condition, Placed
from steerkit.context import Run
from steerkit.data.chats import instructed
from steerkit.data.generated import Generation
from steerkit.data.placing import decode_in_place
from steerkit.data.trace import Prompt
from steerkit.errors import Problem
from steerkit.generation.stream import GenerationRow
from steerkit.identity import spec_identity
from steerkit.interfaces import Intervention
from steerkit.interventions.steering import Edit
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.settings import Chatting, Generating, Samples
from steerkit.stats.noise import key_of
from steerkit.steps.asked import asked_of, in_words
from steerkit.steps.results import seen
from steerkit.steps.texts import Job, TextPiece, by_model, check_limits, decoding, generate, pieces_of
from steerkit.steps.vectors import Vectors
from steerkit.steps.wanted import misfits
from steerkit.store.files import read_whole_lines, write_jsonl


def conditions_of(run: Run, split: str, needs: Mapping[str, Any]) -> dict[str, Condition]:
    """Condition by its id: what the experiments on a split have to have generated, once each, in their order.

    Args:
        needs: the artifacts that these experiments need, by name.
    """
    found: dict[str, Condition] = {}
    for name, experiment in run.experiments.items():
        if experiment.split == split:
            given = [seen(needs[need]) for need in experiment.needs(run.of(experiment, name))]
            for condition in asked_of(run, name, experiment, *given)[0]:
                found.setdefault(condition.id, condition)
    return found


def needs_of_split(run: Run, split: str) -> list[str]:
    """What the experiments on a split need."""
    own = [(name, e) for name, e in run.experiments.items() if e.split == split]
    return list(dict.fromkeys(need for name, e in own for need in e.needs(run.of(e, name))))


class Generations(Step):
    """``generations/SPLIT.jsonl``: the texts of all conditions that experiments ask for on the split's prompts."""

    uses = (Generating, Chatting, Samples)

    def needs(self, run: Run) -> Sequence[str]:
        return (*self.follows(run), *needs_of_split(run, self.of))

    def follows(self, run: Run) -> Sequence[str]:
        own = [(run.of(e, name), e) for name, e in run.experiments.items() if e.split == self.of]
        trained = any(e.arms(asking) for asking, e in own)
        derived = dict.fromkeys(model.step for asking, e in own for model in e.derived(asking))
        # Of the others: `depends`.
        return ("prompts", "chats", "vectors", *(["training"] if trained else []), *derived)

    def models(self, run: Run) -> Sequence[str]:
        return tuple(run.models)

    def check(self, run: Run) -> Iterator[Problem]:
        if not run.planned:  # a plan may know the models by name alone
            yield from misfits(run, self.of)

    def _conditions(self, run: Run, needs: Sequence[Any]) -> dict[str, Condition]:
        names = needs_of_split(run, self.of)
        return conditions_of(run, self.of, dict(zip(names, needs[len(needs) - len(names) :], strict=True)))

    def depends(self, run: Run, prompts: list[Prompt], chats: Any, vectors: Vectors, *needs: Any) -> Any:
        wanted = self._conditions(run, needs)
        specs = {str(p.steerer.given): p.steerer for c in wanted.values() for p in c.interventions if p.strength}
        models = dict.fromkeys(condition.model for condition in wanted.values())
        return [
            [[name, dict(condition.labels)] for name, condition in wanted.items()],
            [spec_identity("steerers", spec, f"steerer {spec.name}") for spec in specs.values()],
            decoding(run, models),
            run.chats.settings(),
        ]

    def pieces(self, run: Run, prompts: list[Prompt], chats: Any, vectors: Vectors, *needs: Any) -> Sequence[TextPiece]:
        return pieces_of(run, self._jobs(run, prompts, vectors, needs))

    def work(self, models: Models, piece: TextPiece) -> Any:
        return generate(models, piece)

    def _jobs(self, run: Run, prompts: list[Prompt], vectors: Vectors, needs: Sequence[Any]) -> list[Job]:
        """A job a prompt, sample and condition: all conditions of a prompt together, so that a batch reads it once.

        They share their sampling noise.
        """
        wanted = self._conditions(run, needs)
        own = [prompt for prompt in prompts if prompt.split == self.of]
        check_limits(run, own, dict.fromkeys(condition.model for condition in wanted.values()))
        built: dict[str, Intervention] = {}
        edits = {name: edits_of(condition.interventions, vectors, built) for name, condition in wanted.items()}
        ids: dict[tuple[str, str, str, str], list[int]] = {}
        jobs = []
        for prompt, sample in product(own, range(run.use(Samples).samples)):
            draw, noise = (key_of(run.seed, use, prompt.id, sample) for use in ("sample", "noise"))
            for name, condition in wanted.items():
                place = condition.model, condition.system, condition.prefix, prompt.id
                if place not in ids:
                    formatted = run.chats.ids(instructed(prompt.prompt, condition.system, condition.prefix))
                    ids[place] = run.models.ids_for(condition.model, formatted)
                done = tuple(replace(edit, key=noise) for edit in edits[name])
                row = GenerationRow(ids[place], draw, done)
                jobs.append(Job(condition.model, row, (name, prompt.id, sample)))
        return jobs

    def join(
        self, run: Run, results: Iterable[Any], prompts: list[Prompt], chats: Any, vectors: Vectors, *needs: Any
    ) -> list[Generation]:
        wanted = self._conditions(run, needs)
        jobs = self._jobs(run, prompts, vectors, needs)
        by_piece = [job for own in by_model(jobs) for job in own]
        tokenizer = run.models.tokenizer
        found = []
        for job, text in zip(by_piece, (row for rows in results for row in rows), strict=True):
            name, prompt_id, sample = job.name
            placed = decode_in_place(tokenizer, text["ids"])
            found.append(
                Generation(
                    split=self.of,
                    condition=name,
                    labels=wanted[name].labels,
                    added_norm=added_norm(wanted[name], vectors),
                    prompt_id=prompt_id,
                    sample=sample,
                    finished=text["finished"],
                    text=placed.text,
                    ids=tuple(text["ids"]),
                    starts=tuple(placed.starts),
                    continues=tuple(placed.continues),
                    broken=text["broken"],
                )
            )
        for line in breaks(found):
            run.log(step=run.title, broken=line)
        return found

    def save(self, run: Run, value: list[Generation]) -> Sequence[str]:
        write_jsonl(run.folder / self._file, (row.to_json() for row in value))
        return [self._file]

    def load(self, run: Run) -> list[Generation]:
        return [Generation.from_json(row) for row in read_whole_lines(run.folder / self._file)]

    @property
    def _file(self) -> str:
        return f"generations/{self.of}.jsonl"


def added_norm(condition: Condition, vectors: Vectors) -> float:
    """L2 norm that a condition adds at every steered token; of several interventions the first one's."""
    return next((norm_of(placed, vectors) for placed in condition.interventions), 0.0)


def norm_of(placed: Placed, vectors: Vectors) -> float:
    """L2 norm that an intervention adds."""
    return placed.strength * vectors[placed.norm_of].norm(placed.layer)


def edits_of(interventions: Iterable[Placed], vectors: Vectors, built: dict[str, Intervention]) -> list[Edit]:
    """What is done to a row, but for its key. Equal steerers are one object, which edits their rows together."""
    found = []
    for placed in interventions:
        if placed.strength:
            name = str(placed.steerer.given)
            steerer = built.setdefault(name, registry.build("steerers", placed.steerer))
            vector = vectors[placed.vector] if placed.vector else None
            direction = None
            if vector and steerer.direction != "none":
                direction = (vector.mean_unit if steerer.direction == "mean" else vector.unit)(placed.layer)
            found.append(Edit(steerer, placed.site, norm_of(placed, vectors), direction, placed.tokens))
    return found


def breaks(rows: Iterable[Generation]) -> list[str]:
    """For each condition with texts that broke off: its labels, how many, and the first one."""
    lost: dict[str, list[Generation]] = {}
    for row in rows:
        if row.broken:
            lost.setdefault(row.condition, []).append(row)
    return [
        f"{in_words(own[0].labels)} ({own[0].split} prompts): {len(own)} texts broke off; prompt {own[0].prompt_id!r}, "
        f"sample {own[0].sample}: {own[0].broken}"
        for own in lost.values()
    ]
