"""SteeringTrainer: the object behind a recipe. It sorts the steps, keys them, runs them, seals and resumes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from steerkit import __version__, registry
from steerkit.callbacks import Events, SteeringCallback
from steerkit.code.failures import explained
from steerkit.context import Run, Settings
from steerkit.data.rows import as_prompts
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.graph import FINDINGS, followed_by, needs_of, problems_of, steps_of, with_experiments
from steerkit.models.model_spec import Loading
from steerkit.models.models import Models
from steerkit.parts import Executor, Step
from steerkit.provenance import recipe_text, settings_of, write_recipe
from steerkit.recipe.inputs import inputs_of
from steerkit.report.progress import RichProgress
from steerkit.report.trackers import JsonlLog, Trackers
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
        if not isinstance(args, SteeringArguments):
            fix = "give SteeringArguments, such as load_arguments(RECIPE) makes"
            raise InputError("arguments", [Problem("args", f"can't be {type(args).__name__}", fix)])
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
            if not (counts or third):
                fix = "give three or more: the splits extract, choose and test share none"
                raise InputError("prompts", [Problem("prompts", f"{len(given)} are too few", fix)])
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
        self._forget()

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
        self._forget()
        with ExitStack() as stack:
            stack.callback(run.events.close)
            stack.callback(run.models.close)
            stack.callback(self.executor.close)
            self.executor.check(run.models)
            stack.enter_context(run.folder)
            known = self._inputs()
            everything = [each for inputs in known.values() for each in within(inputs)]
            run.folder.claim(settings_of(run, self.steps), self.update, made_of=everything)
            write_recipe(run, self.steps)
            run.events.tell("run_begin", run)
            for title, step in self.steps.items():
                self._do(title, step, known[title])
            run.events.tell("run_end", run)
        return run.folder.path

    def pending(self) -> dict[str, str]:
        """What `run` would do with each step, nothing being done: `kept`, `done again`, `not done yet`, or `perhaps`
        again, where what another one will give decides. Models are loaded for it, as their weights count.

        Raises:
            SteerkitError: a model can't be loaded, or a file of the run was changed.
        """
        self._forget()
        run, folder, found = self.context, self.folder, dict[str, str]()
        folder.look()
        written = folder / "recipe.yaml"
        same = written.is_file() and written.read_text(encoding="utf-8") == recipe_text(run, self.steps)
        for title, inputs in self._inputs().items():
            step, fates = self.steps[title], {found[name] for name in needs_of(run, self.steps[title])}
            self._artifacts[title] = cache(partial(step.load, run.of(step, title)))
            self._keys[title] = ""  # no step has it: those that follow are not kept
            with suppress(Exception):  # what it needs is not there, or was made for something else
                self._key(title, step, inputs)
            if title not in folder.finished():
                found[title] = "not done yet"
            elif not folder.is_done(title, self._keys[title]) or not (same or step.sealed):
                found[title] = "done again"
            elif "perhaps" in fates or (fates - {"kept"} and type(step).depends is not Step.depends):
                found[title] = "perhaps"
            else:
                found[title] = "kept"
        run.models.close()
        return found

    def _forget(self) -> None:
        """Files may have changed since an earlier run."""
        self._keys: dict[str, str] = {}
        self._artifacts: dict[str, Callable[[], Any]] = {}
        self._identities: dict[str, tuple[Identity, Identity]] = {}
        self._files: dict[str, str] = {}

    def _inputs(self) -> dict[str, list[Any]]:
        """Title → what a step's result depends on, but for other steps."""
        release = Identity("steerkit", None, {"": RELEASE}, {}, "steerkit-hf")
        return {
            title: [release, *inputs_of(self.context, title, step, self._model)] for title, step in self.steps.items()
        }

    def _model(self, name: str) -> tuple[Identity, Identity]:
        if name not in self._identities:
            self._identities[name] = self.context.models.identities(name)
        return self._identities[name]

    def _key(self, title: str, step: Step, inputs: list[Any]) -> tuple[str, list[Identity]]:
        """A step's key, and what is in it. The steps that it needs must have theirs."""
        run, depends = self.context.of(step, title), None
        if type(step).depends is not Step.depends:
            depends = step.depends(run, *(self._artifacts[name]() for name in needs_of(self.context, step)))
        inputs = [*inputs, [self._keys[name] for name in followed_by(self.context, step)], depends]
        self._keys[title] = digest(keyed(inputs))
        return self._keys[title], list(within(inputs))

    def _do(self, title: str, step: Step, inputs: list[Any]) -> None:
        """Do a step, or find what it left when it was done before for the same inputs."""
        run, folder = self.context.of(step, title), self.context.folder
        key, used = self._key(title, step, inputs)
        pieces = Pieces(folder.path, title, key)
        if folder.is_done(title, key):
            pieces.remove()
            self._own(title, folder.finished().get(title, {}).get("files", ()))
            self._artifacts[title] = cache(lambda: step.load(run))
            run.events.tell("step_end", run, title, True)
            return
        if changed := folder.changed(title, used):
            run.log(step=title, again=f"{', '.join(changed)} since this run")
        run.events.tell("step_begin", run, title)
        began = time.monotonic()
        needs = [self._artifacts[name]() for name in needs_of(self.context, step)]
        step.named = tuple(step.models(run))
        parts: list[Any] = [step, *([run.experiments[step.of]] if step.name == FINDINGS else [])]
        with explained(title, [type(part).__module__ for part in parts]):
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
