"""Traces: what the writer writes on the extraction prompts, or what a file or the prompts themselves say it wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from steerkit.context import Run
from steerkit.data.importing import read_traces
from steerkit.data.tokens import encode_trace, given_trace, make_trace, placed_again
from steerkit.data.trace import Prompt, Trace, read_rows, write_rows
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.generation.stream import GenerationRow
from steerkit.interfaces import Config
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.settings import Chatting, Generating
from steerkit.stats.noise import key_of
from steerkit.steps.texts import Job, TextPiece, check_limits, decoding, generate, pieces_of
from steerkit.steps.wanted import known_conditions

FILE = "traces.jsonl"


class TracesConfig(Config):
    file: str | None = None
    """jsonl of traces to use in place of generated ones: steerkit's own, or rows with id, prompt (a text or messages)
    and trace, or with messages whose last one is the trace."""
    given: bool = False
    """Take each extraction prompt's last assistant message as its trace (none: an empty one), and generate nothing."""

    @model_validator(mode="after")
    def _from_one_place(self) -> Self:
        if self.file and self.given:
            raise ValueError("traces are taken from `file` or from the prompts (`given`), not from both")
        return self

    @property
    def generated(self) -> bool:
        """Whether the writer writes the traces."""
        return not (self.file or self.given)

    def reads(self) -> Mapping[str, Sequence[Path]]:
        return {"file": [Path(self.file)]} if self.file else {}


class Traces(Step):
    """The writer's texts on the extraction prompts, one each, in ``traces.jsonl``."""

    Config = TracesConfig
    uses = (Generating, Chatting)

    def needs(self, run: Run) -> Sequence[str]:
        return ("prompts", "chats")

    def models(self, run: Run) -> Sequence[str]:
        return (run.models.writer,)

    def depends(self, run: Run, prompts: list[Prompt], chats: Any) -> Any:
        return [decoding(run, [run.models.writer]), run.chats.settings()]

    def pieces(self, run: Run, prompts: list[Prompt], chats: Any) -> list[TextPiece] | None:
        generated = self.config.generated
        check_all_limits(run, prompts, {"extract": {run.models.writer: None}} if generated else {})
        if not generated:
            return None
        return pieces_of(run, self._jobs(run, prompts))

    def _jobs(self, run: Run, prompts: list[Prompt]) -> list[Job]:
        own = [prompt for prompt in prompts if prompt.split == "extract"]
        return [
            Job(run.models.writer, GenerationRow(run.chats.ids(p.prompt), key_of(run.seed, "trace", p.id)), (p.id,))
            for p in own
        ]

    def work(self, models: Models, piece: TextPiece) -> Any:
        return generate(models, piece)

    def join(self, run: Run, results: Iterable[Any], prompts: list[Prompt], chats: Any) -> list[Trace]:
        by_id = {prompt.id: prompt for prompt in prompts}
        tokenizer, marker = run.models.tokenizer, run.use(Chatting).think_end
        jobs = self._jobs(run, prompts)
        texts = [row for rows in results for row in rows]
        return self._logged(
            run,
            [
                make_trace(tokenizer, by_id[job.name[0]], job.row.prompt_ids, text["ids"], text["finished"], marker)
                for job, text in zip(jobs, texts, strict=True)
            ],
        )

    def make(self, run: Run, prompts: list[Prompt], chats: Any) -> list[Trace]:
        found = self._given(run, prompts) if self.config.given else self._imported(run, Path(self.config.file))
        if opened := run.chats.opened_twice(found):
            run.log(opened_twice=opened)
        return self._logged(run, found)

    def _logged(self, run: Run, found: list[Trace]) -> list[Trace]:
        run.log(traces=len(found), mean_tokens=sum(len(trace.ids) for trace in found) / len(found))
        return found

    def _given(self, run: Run, prompts: list[Prompt]) -> list[Trace]:
        """Traces that the extraction prompts bring along.

        Raises:
            InputError: every response that begins with its own prompt.
        """
        tokenizer, marker = run.models.tokenizer, run.use(Chatting).think_end
        found, problems = [], []
        for prompt in (prompt for prompt in prompts if prompt.split == "extract"):
            try:
                found.append(given_trace(tokenizer, prompt, marker, run.chats))
            except SteerkitError as error:
                problems.append(Problem(f"prompt {prompt.id!r}", str(error)))
        if problems:
            raise InputError("traces.given", problems)
        return found

    def _imported(self, run: Run, path: Path) -> list[Trace]:
        """Traces of a file, their tokens placed by the writer's tokenizer.

        Raises:
            InputError: traces whose ids are not those of their text: another tokenizer made them.
        """
        tokenizer, marker = run.models.tokenizer, run.use(Chatting).think_end
        read = read_traces(path, partial(encode_trace, tokenizer, marker=marker, chats=run.chats))
        found = [placed_again(tokenizer, trace) for trace in read]
        name = run.models[run.models.writer].name
        wrong = [
            Problem(
                f"{path}: trace {trace.id!r}",
                f"its 'ids' are not its text under the tokenizer of {name}",
                "leave out 'ids', 'starts' and 'continues' (or give rows of 'prompt' and 'trace') to have it encoded "
                "anew",
            )
            for trace, placed in zip(read, found, strict=True)
            if placed is None
        ]
        if wrong:
            raise InputError(str(path), wrong)
        return [trace for trace in found if trace is not None]

    def save(self, run: Run, value: list[Trace]) -> Sequence[str]:
        write_rows(run.folder / FILE, value)
        return [FILE]

    def load(self, run: Run) -> list[Trace]:
        return read_rows(run.folder / FILE, Trace)


def check_all_limits(run: Run, prompts: list[Prompt], writers: dict[str, dict[str, None]]) -> None:
    """Before the first text, whether all that are known to be wanted can be written.

    Args:
        writers: split → models that write on its prompts, besides those of the experiments' conditions.

    Raises:
        SteerkitError: a model has too few ids or positions for the prompts and what it writes on them.
    """
    for split, condition in known_conditions(run):
        writers.setdefault(split, {})[condition.model] = None
    with run.models.only(run.title, run.models.specs):  # what is refused here changes no trace
        for split, models in writers.items():
            check_limits(run, [prompt for prompt in prompts if prompt.split == split], models)
