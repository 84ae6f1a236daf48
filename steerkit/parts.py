"""What a recipe runs: steps, which make artifacts, and experiments, which ask; and where their work is done."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from steerkit.artifacts import Condition, Pair
from steerkit.errors import Problem, SteerkitError
from steerkit.findings import Findings
from steerkit.interfaces import Config, Plugin
from steerkit.store.files import write_json


class RunPart(Plugin):
    """What a step and an experiment have in common: what it may ask for, and what its result depends on."""

    uses: ClassVar[tuple[type[Config], ...]] = ()
    """Groups of shared settings that it may ask for with ``run.use(Group)``: part of its key."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        for name, value in vars(cls).items():
            if callable(getattr(RunPart, name, None)) and not isinstance(value, str) and not callable(value):
                raise SteerkitError(f"{cls.__name__}: {name} must be a method: def {name}(self, run): return ...")
        for group in cls.uses:
            if not (isinstance(group, type) and issubclass(group, Config)):
                raise SteerkitError(
                    f"{cls.__name__}: `uses` names {group!r}, which is no group of settings; steerkit.settings has them"
                )

    def needs(self, run: Any) -> Sequence[str]:
        """Names of the steps and experiments whose artifacts it is given, in this order."""
        return ()

    def models(self, run: Any) -> Sequence[str]:
        """Names of the models whose weights its result depends on. What generates an experiment's texts is known."""
        return ()

    def check(self, run: Any) -> Iterator[Problem]:
        """Problems with the settings that can be found before anything runs; `where` is a key of the recipe."""
        return iter(())


class Step(RunPart):
    """Makes one artifact of a run out of others. The core decides when, keys it, seals its files and resumes.

    A run is the experiments of its recipe and the steps that they need, found by name through `needs`. A name may have
    a part behind a dot, ``statistics.base``: the step `statistics`, with `of` set to ``base``.

    What a step's result depends on is found by the core: the plugin's code and options, the settings in `uses`, the
    artifacts in `needs`, the weights of `models`, and what `depends` adds. A step is done again when one changes.

    Small steps define `make`. Large ones define `pieces`, `work` and `join` instead: they resume at pieces, and
    an executor may spread them over many machines.
    """

    of: str = ""
    """The part of the name behind the dot; set by the core."""
    named: tuple[str, ...] = ()
    """The models that `models` names; set by the core."""
    sealed: ClassVar[bool] = True
    """Whether its files must stay as they are; those that are not may be made again at any time."""

    def follows(self, run: Any) -> Sequence[str]:
        """Those of `needs` whose every change makes it again; of the others only what `depends` takes from them counts.

        So texts are kept where another judge leaves the chosen strength as it was.
        """
        return self.needs(run)

    def depends(self, run: Any, *needs: Any, **_: Any) -> Any:
        """JSON of anything else that the result depends on; `Identity` objects may stand in it."""
        return None

    def make(self, run: Any, *needs: Any, **_: Any) -> Any:
        """The artifact.

        Args:
            run: a `steerkit.context.Run`: models, settings, the folder, the log.
            needs: the artifacts that `needs` names.
        """
        raise SteerkitError(f"step {self.name!r} defines neither make() nor pieces(), work() and join()")

    def pieces(self, run: Any, *needs: Any, **_: Any) -> Sequence[Any] | None:
        """The work in pieces, fixed by the recipe and the data alone; None for a step without. Pieces are picklable."""
        return None

    def work(self, models: Any, piece: Any) -> Any:
        """The result of a piece: pure and picklable, in this process or on another machine.

        Args:
            models: a `steerkit.models.models.Models`.
        """
        raise SteerkitError(f"step {self.name!r} has pieces() and no work()")

    def do(self, models: Any, piece: Any) -> Any:
        """`work`, which may touch the models that the step has named and no others."""
        with models.only(self.title, self.named):
            return self.work(models, piece)

    def join(self, run: Any, results: Iterable[Any], *needs: Any, **_: Any) -> Any:
        """The artifact, from the results of all pieces in their order."""
        return list(results)

    def size(self, piece: Any) -> int:
        """How much work a piece is, in the units of the progress bar."""
        return len(piece) if hasattr(piece, "__len__") else 1

    def keep(self, path: Path, result: Any) -> None:
        """Write a piece's result to a file, whole or not at all. JSON, unless a subclass knows better."""
        write_json(path, result)

    def kept(self, path: Path) -> Any:
        """What `keep` wrote."""
        return json.loads(path.read_text(encoding="utf-8"))

    def save(self, run: Any, value: Any) -> Sequence[str]:
        """Write the artifact; returns its files, relative to the run folder. JSON, unless a subclass knows better."""
        write_json(run.folder / self._file, value)
        return [self._file]

    def load(self, run: Any) -> Any:
        """The artifact that `save` wrote."""
        return json.loads((run.folder / self._file).read_text(encoding="utf-8"))

    @property
    def title(self) -> str:
        """Its name in the run: ``statistics.base``."""
        return f"{self.name}.{self.of}" if self.of else self.name

    @property
    def _file(self) -> str:
        return f"steps/{self.title}.json"


class Experiment(RunPart):
    """A question, and what was found. In one file: settings, conditions, comparisons, tables, figures, words.

    The core generates each distinct condition of all experiments once, scores the texts, compares the pairs, and puts
    the findings on the page.
    """

    split: ClassVar[str] = "test"
    """Prompts that its texts are written on."""
    rows: ClassVar[str | None] = ""
    """What its rows are called in the tables' column `experiment`: the plugin's name when empty. None: it has none
    there, as it reads texts that other experiments ask for."""
    steers: ClassVar[bool] = True
    """Whether it is about models' vectors. Where no experiment of a run is, none are fitted, and no trace needs a span
    with the fitter's label."""

    def afterwards(self, run: Any) -> Sequence[str]:
        """Names of what `findings` is given besides, behind `needs`: it may read the same texts."""
        return ()

    def vectors(self, run: Any) -> Sequence[Any]:
        """Keys (`VectorKey`) of vectors that must have been fitted, beside those of its conditions."""
        return ()

    def arms(self, run: Any) -> Sequence[Any]:
        """Models (`steerkit.training.arms.Arm`) that must have been trained: conditions name them by `Arm.trained`."""
        return ()

    def derived(self, run: Any) -> Sequence[Any]:
        """Models (`steerkit.training.derived.Derived`) that steps make of trained ones: conditions name them."""
        return ()

    def conditions(self, run: Any, *needs: Any, **_: Any) -> Sequence[Condition]:
        """The conditions whose texts it reads. Loads no weights: a plan asks too."""
        return ()

    def pairs(self, run: Any, conditions: Sequence[Condition]) -> Sequence[Pair]:
        """The comparisons: paired by prompt, corrected over all of the experiment's (Holm, metric by metric)."""
        return ()

    def findings(self, run: Any, results: Any, *needs: Any, **_: Any) -> Findings:
        """What was found.

        Args:
            results: a `steerkit.steps.results.Results`: the experiment's conditions, texts, scores and comparisons.
            needs: the artifacts that `needs` and `afterwards` name.
        """
        raise SteerkitError(f"experiment {self.name!r} defines no findings()")

    def chosen(self, condition: Condition, findings: Findings, *needs: Any) -> bool:
        """Whether a condition is the one that claims are about: a column of the tables."""
        return False

    def planned(self, run: Any) -> Any:
        """What stands for its findings where a run is only planned."""
        return None


class Executor(Plugin):
    """Where pieces of work are done. It never changes a result."""

    def check(self, models: Any) -> None:
        """Called before a run begins. Raises: SteerkitError when these models can't be used there."""

    @abstractmethod
    def map(
        self,
        work: Callable[[Any, Any], Any],
        pieces: Sequence[tuple[int, Any]],
        models: Any,
        progress: Callable[[int, int], None],
    ) -> Iterator[tuple[int, Any]]:
        """(number, result) of each numbered piece, as they come.

        Args:
            progress: takes (number of a piece, units of it that are done), where that can be seen.

        Raises:
            SteerkitError: a piece fails, or is lost too often; it is named.
        """

    def close(self) -> None:
        """Called when a run ends, also by an exception."""
