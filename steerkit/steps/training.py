"""Models that the run trains: every arm that experiments ask for, with every training seed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.context import Run
from steerkit.data.chat_format import ChatFormat
from steerkit.data.chats import instructed
from steerkit.data.trace import Prompt
from steerkit.errors import InputError, Problem
from steerkit.identity import spec_identity
from steerkit.interventions.edits import EditSet
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.settings import Chatting
from steerkit.steps.generations import edits_of
from steerkit.steps.trained_models import Made, TrainedModel, pack, told_of, unpack
from steerkit.steps.training_rows import dealt
from steerkit.steps.validating import TextWatch, watch_of
from steerkit.store.files import write_json
from steerkit.training.arguments import check_arguments
from steerkit.training.arms import Arm, stage_of
from steerkit.training.rows import TrainingRow
from steerkit.training.settings import Training
from steerkit.training.train import train

FOLDER = "trained"
FILE = f"{FOLDER}/models.json"


@dataclass(frozen=True)
class TrainingPiece:
    """An arm and a seed.

    Attributes:
        start: folder of the weights that it goes on from; None for the model as it is.
        checkpoints: folder that outlives a kill.
        watch: what ends it early, if anything does.
    """

    name: str
    arm: Arm
    seed: int
    rows: tuple[TrainingRow, ...]
    held_out: tuple[TrainingRow, ...]
    edits: EditSet
    adapter: PluginSpec
    objective: PluginSpec
    arguments: Mapping[str, Any]
    encoding: Mapping[str, Any]
    chat: tuple[Any, ...]
    start: Path | None
    checkpoints: Path
    watch: TextWatch | None = None

    def __len__(self) -> int:
        return len(self.rows)


class TrainModels(Step):
    """``trained/NAME.SEED/``: weights of each arm and training seed, and ``training.json`` on how it went.

    Arms that go on from others are trained after these, in a part of the step each: ``training.0``, ``training.1``.
    """

    uses = (Training, Chatting)

    def needs(self, run: Run) -> Sequence[str]:
        if not self.of:
            stages = {stage_of(arm, run.arms) for arm in run.arms.values()}
            return tuple(f"training.{stage}" for stage in sorted(stages))
        before = [f"training.{int(self.of) - 1}"] if self.of != "0" else []
        vectors = ["vectors"] if any(arm.interventions for arm in self._arms(run)) else []
        validation = ["validation-texts"] if run.use(Training).validation else []
        return ("rows", *validation, *before, *vectors)

    def models(self, run: Run) -> Sequence[str]:
        return tuple(dict.fromkeys(arm.model for arm in self._arms(run)))

    def check(self, run: Run) -> Iterator[Problem]:
        if self.of:
            return
        shared = run.use(Training).training_arguments
        for where, given in {"training_arguments": shared, **{a.name: a.arguments for a in run.arms.values()}}.items():
            try:
                check_arguments(given)
            except InputError as error:
                for problem in error.problems:
                    key, what = f"{where}.{problem.where}", f"{problem.where} {problem.message}"
                    yield Problem(key, what, problem.fix)
        for arm in run.arms.values():
            run.models.check_name(arm.model)
            for kind, spec in (("adapters", arm.adapter), ("objectives", arm.objective)):
                if spec:
                    registry.build(kind, spec)
            if run.models.specs[arm.model].adapter:
                yield Problem(
                    f"models.{arm.model}.adapter", "a model with an adapter can't be trained", "merge it first"
                )

    def _arms(self, run: Run) -> list[Arm]:
        """Those of its stage; all of them for the step that brings the stages together."""
        return [arm for arm in run.arms.values() if not self.of or stage_of(arm, run.arms) == int(self.of)]

    def _names(self, run: Run) -> list[str]:
        """The models that it makes, in the pieces' order."""
        return [arm.trained(seed) for arm in self._arms(run) for seed in run.use(Training).training_seeds]

    def depends(self, run: Run, *needs: Any) -> Any:
        arms = self._arms(run)
        specs = {str(p.steerer.given): p.steerer for arm in arms for p in arm.interventions if p.strength}
        return [
            [[arm.name, arm.to_json()] for arm in arms],
            [spec_identity("steerers", spec, f"steerer {spec.name}") for spec in specs.values()],
            [spec_identity("adapters", a.adapter, f"adapter of arm {a.name}") for a in arms if a.adapter],
            [spec_identity("objectives", a.objective, f"objective of arm {a.name}") for a in arms if a.objective],
        ]

    def pieces(self, run: Run, *needs: Any) -> list[TrainingPiece] | None:
        if not self.of:
            return None
        prompts: list[Prompt] = needs[0]
        s, c, rows = run.use(Training), run.use(Chatting), dealt(prompts)
        vectors = needs[-1] if "vectors" in self.needs(run) else {}
        found, built = [], dict[str, Any]()
        for arm in self._arms(run):
            own = tuple(
                TrainingRow(row.id, instructed(row.prompt, arm.system, arm.prefix), row.response) for row in rows.train
            )
            edits = tuple(edits_of(arm.interventions, vectors, built))
            for seed in s.training_seeds:
                name = arm.trained(seed)
                found.append(
                    TrainingPiece(
                        name=name,
                        arm=arm,
                        seed=seed,
                        rows=own,
                        held_out=tuple(rows.held_out),
                        edits=edits,
                        adapter=arm.adapter or s.adapter,
                        objective=arm.objective or s.objective,
                        arguments={**s.training_arguments, **arm.arguments},
                        encoding=s.encoding,
                        chat=(c.chat, c.chat_template_kwargs, c.chat_date),
                        start=_folder(run, f"{arm.after}.{seed}") if arm.after else None,
                        checkpoints=Path(run.scratch or run.folder.path) / "checkpoints" / name,
                        watch=watch_of(run, needs[1], arm.model) if s.validation else None,
                    )
                )
        return found

    def work(self, models: Models, piece: TrainingPiece) -> Made:
        lm = models[piece.arm.model]
        trained = train(
            lm,
            piece.rows,
            chats=ChatFormat(lm.tokenizer, *piece.chat),
            adapter=registry.build("adapters", piece.adapter),
            objective=registry.build("objectives", piece.objective),
            folder=piece.checkpoints,
            edits=piece.edits,
            arguments=piece.arguments,
            start=piece.start,
            held_out=piece.held_out,
            seed=piece.seed,
            **piece.encoding,
            watch=piece.watch,
            progress=lambda done, total: models.progress(len(piece) * done // total),
        )
        try:
            with tempfile.TemporaryDirectory() as folder:
                trained.save(Path(folder))
                files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
        finally:
            trained.detach()
        told = TrainedModel(
            arm=piece.arm.name,
            seed=piece.seed,
            log=[asdict(row) for row in trained.log],
            held_out=trained.held_out,
            steps=trained.steps,
            steered=trained.steered,
            trainable=trained.trainable,
            parameters=trained.parameters,
            measures=[asdict(measure) for measure in trained.measures],
        )
        return Made(told, files)

    def keep(self, path: Path, result: Made) -> None:
        pack(path, result)

    def kept(self, path: Path) -> Path:
        return path

    def join(self, run: Run, results: Iterable[Path], *needs: Any) -> dict[str, TrainedModel]:
        found = {}
        for name, archive in zip(self._names(run), results, strict=True):
            found[name] = unpack(archive, _folder(run, name))
            told = found[name]
            run.log(trained=name, steps=told.steps, held_out=told.held_out, measures=list(told.measures))
        return found

    def make(self, run: Run, *stages: dict[str, TrainedModel]) -> dict[str, TrainedModel]:
        return {name: told for stage in stages for name, told in stage.items()}

    def save(self, run: Run, value: dict[str, TrainedModel]) -> Sequence[str]:
        if not self.of:
            write_json(run.folder / FILE, list(value))
            return [FILE]
        folders = [_folder(run, name) for name in value]
        return [str(path.relative_to(run.folder.path)) for folder in folders for path in sorted(folder.iterdir())]

    def load(self, run: Run) -> dict[str, TrainedModel]:
        return {name: told_of(_folder(run, name)) for name in self._names(run)}


def _folder(run: Run, name: str) -> Path:
    path: Path = run.folder / f"{FOLDER}/{name}"
    return path
