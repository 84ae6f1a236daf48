"""SteeringTrainer: the object behind a recipe. It sorts the steps, keys them, runs them, seals and resumes."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from steerkit import __version__, registry
from steerkit.callbacks import Events, JsonlLog, SteeringCallback, Trackers
from steerkit.code.local_modules import is_local, local_files
from steerkit.context import Run, Settings
from steerkit.data.rows import as_prompts
from steerkit.errors import InputError, SteerkitError
from steerkit.graph import FINDINGS, followed_by, needs_of, problems_of, steps_of, with_experiments
from steerkit.identity import code_identity, config_inputs
from steerkit.models.models import Loading, Models
from steerkit.parts import Executor, Step
from steerkit.provenance import settings_of, write_recipe
from steerkit.report.progress import RichProgress
from steerkit.settings import Recipe, SteeringArguments
from steerkit.store.files import digest
from steerkit.store.folder import RunFolder
from steerkit.store.identity import Identity, keyed, made_of, within
from steerkit.store.pieces import Pieces

RELEASE = ".".join(__version__.split(".")[:2])
"""Part of every key: a release that changes results has another first or second number; the third changes none."""


class SteeringTrainer:
    """Runs experiments and the steps that they need: prompts → traces → spans → vectors → steered texts → findings.

    Every step writes its artifact to the run folder the moment it exists; `run` again resumes where it stopped.

    Args:
        models: name → a name to load, a LanguageModel, or a mapping of weights, adapter and id_map (`Models`).
        args: how it is done; `steerkit.load_arguments("backtracking")` is a start.
        prompts: texts, chats (lists of messages), mappings, Prompts or a data set, dealt to the splits by the seed;
            those of the settings (`prompts.source`) when left out.
        counts: prompts a split (extract, choose, test); a third of `prompts` each when left out.
        callbacks: SteeringCallbacks.
        name: of the run; names the default folder.
        about: the question, in a sentence; opens the report.
        update: let changed settings take over a folder; steps whose inputs are the same are kept.

    Raises:
        InputError: settings that are wrong, all of them.
        SteerkitError: a plugin is unknown, or models don't fit.
    """

    def __init__(
        self,
        models: Mapping[str, Any],
        *,
        args: SteeringArguments,
        prompts: Any = None,
        counts: Mapping[str, int] | None = None,
        callbacks: Sequence[SteeringCallback] = (),
        name: str = "steering",
        about: str = "",
        update: bool = False,
    ) -> None:
        loading = Loading(**{field: getattr(args, field) for field in Loading.__dataclass_fields__})
        listeners: list[SteeringCallback] = [JsonlLog()]
        if not args.disable_tqdm:
            listeners.append(RichProgress())
        if args.report_to:
            listeners.append(Trackers(args.report_to))
        given, shared = None, args.shared
        if prompts is not None:
            given = as_prompts(prompts)
            third = len(given) // 3
            dealt = {"extract": len(given) - 2 * third, "choose": third, "test": third}
            own = {name: n for name, n in (shared.get("prompts") or {}).items() if name != "source"} if counts else {}
            shared = {**shared, "prompts": {**own, **(counts or dealt), "source": None}}
        run = Run(
            name=name,
            about=about,
            args=args,
            settings=Settings(shared),
            models=Models(models, args.writer, loading),
            folder=RunFolder(Path(args.output_dir or f"runs/{name}")),
            given=given,
            events=Events([*listeners, *callbacks]),
        )
        self.executor: Executor = registry.build("executors", args.executor)
        self.context = with_experiments(replace(run, executor=self.executor))
        self.steps = steps_of(self.context)
        if problems := list(problems_of(self.context, self.steps)):
            raise InputError("arguments", problems)
        self.update = update
        self._keys: dict[str, str] = {}
        self._artifacts: dict[str, Callable[[], Any]] = {}
        self._identities: dict[str, tuple[Identity, Identity]] = {}
        self._files: dict[str, str] = {}

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, *, callbacks: Sequence[SteeringCallback] = (), update: bool = False
    ) -> SteeringTrainer:
        """The trainer that a recipe describes."""
        return cls(recipe.models, args=recipe, callbacks=callbacks, name=recipe.name, about=recipe.about, update=update)

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return self.context.folder

    def run(self) -> Path:
        """Do what is not done yet.

        Returns:
            The run folder.

        Raises:
            SteerkitError: something is wrong with the input, in words; what is done stays on disk.
        """
        run = self.context
        self._keys, self._artifacts, self._identities, self._files = (
            {},
            {},
            {},
            {},
        )  # files may have changed since an earlier run
        with ExitStack() as stack:
            stack.callback(run.events.close)
            stack.callback(run.models.close)
            stack.callback(self.executor.close)
            self.executor.check(run.models)
            stack.enter_context(run.folder)
            known = {title: list(self._inputs(title, step)) for title, step in self.steps.items()}
            everything = [each for inputs in known.values() for each in within(inputs)]
            run.folder.claim(settings_of(run, self.steps), self.update, made_of=everything)
            write_recipe(run, self.steps)
            run.events.tell("run_begin", run)
            for title, step in self.steps.items():
                self._do(title, step, known[title])
            run.events.tell("run_end", run)
        return run.folder.path

    def _inputs(self, title: str, step: Step) -> Iterator[Any]:
        """What a step's result depends on, but for other steps: JSON and `Identity`."""
        run = self.context
        yield Identity("steerkit", None, {"": RELEASE}, {}, "steerkit-hf")
        parts: list[tuple[str, str, Any]] = [("steps", title, step)]
        if step.name == FINDINGS:  # of other steps the part behind the dot may be called like an experiment
            parts.append(("experiments", step.of, run.experiments[step.of]))
        for kind, name, part in parts:
            yield code_identity(kind, part, name)
            yield config_inputs(part.config, name.partition(".")[0])
            for group in part.uses:
                yield {group.__name__: config_inputs(run.settings.group(group))}
            for model in part.models(run.of(part, name)):
                yield list(self._model(model))
        yield run.seed

    def _model(self, name: str) -> tuple[Identity, Identity]:
        if name not in self._identities:
            self._identities[name] = self.context.models.identities(name)
        return self._identities[name]

    def _do(self, title: str, step: Step, inputs: list[Any]) -> None:
        """Do a step, or find what it left when it was done before for the same inputs."""
        run, folder = self.context.of(step, title), self.context.folder
        names = needs_of(self.context, step)
        depends = None
        if type(step).depends is not Step.depends:
            depends = step.depends(run, *(self._artifacts[name]() for name in names))
        inputs = [*inputs, [self._keys[name] for name in followed_by(self.context, step)], depends]
        key = self._keys[title] = digest(keyed(inputs))
        used = list(within(inputs))
        pieces = Pieces(folder.path, title, key)
        if folder.is_done(title, key):
            pieces.remove()
            self._own(title, folder.finished().get(title, {}).get("files", ()))
            self._artifacts[title] = _once(lambda: step.load(run))
            run.events.tell("step_end", run, title, True)
            return
        if changed := folder.changed(title, used):
            run.log(step=title, again=f"{', '.join(changed)} since this run")
        run.events.tell("step_begin", run, title)
        began = time.monotonic()
        needs = [self._artifacts[name]() for name in names]
        step.named = tuple(step.models(run))
        with explained(run, step):
            value = self._made(run, step, pieces, needs)
            files = step.save(run, value)
        self._own(title, files)
        folder.finish(title, key, files, time.monotonic() - began, sealed=step.sealed, made_of=made_of(used))
        pieces.remove()
        self._artifacts[title] = lambda: value
        run.events.tell("step_end", run, title, False)

    def _own(self, title: str, files: Iterable[str]) -> None:
        """Raises: SteerkitError when a step's files are outside of the folder, or another step's."""
        for name in files:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise SteerkitError(f"step {title}: its file {name!r} is not in the run folder")
            if self._files.setdefault(name, title) != title:
                raise SteerkitError(f"step {title}: its file {name!r} is that of step {self._files[name]}; rename one")

    def _made(self, run: Run, step: Step, store: Pieces, needs: list[Any]) -> Any:
        """A step's artifact: whole, or joined of its pieces, of which those that are there are not made again."""
        with run.models.only(step.title, step.named):
            pieces = step.pieces(replace(run, scratch=store.path), *needs)
            if pieces is None:
                return step.make(run, *needs)
        store.path.mkdir(parents=True, exist_ok=True)
        sizes = [step.size(piece) for piece in pieces]
        files, under_way, total = store.done(), dict.fromkeys(range(len(pieces)), 0), sum(sizes)
        todo = [(number, piece) for number, piece in enumerate(pieces) if number not in files]
        saved = total - sum(sizes[number] for number, _ in todo)

        def progress(number: int, count: int) -> None:
            under_way[number] = count
            run.events.tell("progress", run, run.title, saved + sum(under_way.values()), total)

        if files:
            run.log(step=run.title, kept=len(files), pieces=len(pieces))
            progress(0, 0)
        for number, result in self.executor.map(step.do, todo, run.models, progress):
            files[number] = store.keep(number, partial(step.keep, result=result))
            under_way[number], saved = 0, saved + sizes[number]
            run.events.tell("batch_end", run, run.title, saved, total)
        with run.models.only(step.title, step.named):
            return step.join(run, (step.kept(files[number]) for number in range(len(pieces))), *needs)


@contextmanager
def explained(run: Run, step: Step) -> Iterator[None]:
    """Say where a local plugin's own code failed: its author needs the line, and not the core's frames above it."""
    parts: list[Any] = [step, *([run.experiments[step.of]] if step.name == FINDINGS else [])]
    modules = [type(part).__module__ for part in parts]
    files = {str(path) for name in modules if is_local(name) for path in local_files(name).values()}
    try:
        yield
    except SteerkitError:
        raise
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
        if not frames and files and "serializ" in str(error):
            raise SteerkitError(
                f"{run.title}: what it gave is not JSON ({error}); give plain numbers, texts, lists and mappings, or "
                "define how it is saved and loaded"
            ) from error
        if not frames:
            raise
        line = frames[-1]
        raise SteerkitError(
            f"{line.filename}:{line.lineno}: {run.title} failed in {line.name}(): {type(error).__name__}: {error}\n"
            f"    {line.line}\n  What was done before is kept; mend it and give the same command again"
        ) from error


def _once(load: Callable[[], Any]) -> Callable[[], Any]:
    """A function that loads when first called."""
    found: list[Any] = []

    def value() -> Any:
        if not found:
            found.append(load())
        return found[0]

    return value
