"""Steps in pieces: the same bytes in whatever order results come, resumed at the pieces that are there."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pocket import SAME, SIZES

from steerkit import SteeringVector, load_recipe, registry
from steerkit.callbacks import SteeringCallback
from steerkit.context import Run
from steerkit.parts import Executor
from steerkit.run import SteeringTrainer
from steerkit.store.files import read_whole_lines
from steerkit.store.pieces import Pieces

LITTLE = (
    *SIZES,
    "prompts.extract=24",
    "prompts.choose=2",
    "max_new_tokens=60",
    "per_device_batch_size=6",
    "save_rows=6",
    "strengths=[30]",
    "experiments=[transfer]",
    "extractor.sweep=null",
    "perplexity=true",
    "batch_tokens=1000",
)
IN_PIECES = (
    "traces",
    "statistics.base",
    "statistics.reasoning",
    "generations.choose",
    "generations.test",
    "directions",
)


class Backwards(Executor):
    """Works from the last piece to the first."""

    def map(
        self,
        work: Callable[[Any, Any], Any],
        pieces: Sequence[tuple[int, Any]],
        models: Any,
        progress: Callable[[int, int], None],
    ) -> Iterator[tuple[int, Any]]:
        for number, piece in reversed(pieces):
            models.progress = lambda done, number=number: progress(number, done)
            yield number, work(models, piece)


class Counted(SteeringCallback):
    """Pieces that were made, by step; ends the run behind the piece that it is told of."""

    def __init__(self, stop: tuple[str, int] | None = None) -> None:
        self.made: dict[str, int] = {}
        self.stop = stop
        self.told: list[tuple[int, int]] = []

    def on_batch_end(self, run: Run, step: str, done: int, total: int) -> None:
        self.made[step] = self.made.get(step, 0) + 1
        self.told.append((done, total))
        if self.stop == (step, self.made[step]):
            raise KeyboardInterrupt


@pytest.fixture(scope="module", autouse=True)
def small_pieces() -> Iterator[None]:
    """Pieces of a few traces and texts, so that a little run has several; an executor that works backwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("steerkit.steps.statistics.TRACES", 5)
        patch.setattr("steerkit.steps.likelihoods.TEXTS", 7)
        patch.setattr(registry, "_local", {})
        patch.setattr("steerkit.report.write_report", lambda folder: [])
        registry.register("executors", "backwards")(Backwards)
        yield


def run_little(folder: Path, *more: str, callbacks: Sequence[SteeringCallback] = ()) -> None:
    recipe = load_recipe("backtracking", [f"output_dir={folder}", *LITTLE, *more])
    SteeringTrainer.from_recipe(recipe, callbacks=callbacks).run()


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counted]:
    """The folder of an uninterrupted little run, and what was told of its pieces."""
    folder, counted = tmp_path_factory.mktemp("single") / "run", Counted()
    run_little(folder, callbacks=[counted])
    return folder, counted


def assert_same(folder: Path, single: Path) -> None:
    names = [f"vectors/{path.name}" for path in sorted((single / "vectors").glob("*"))]
    assert len(names) == 2
    for name in (*SAME, *names):
        assert (folder / name).read_bytes() == (single / name).read_bytes(), name
    assert not (folder / "pieces").exists()


def test_every_large_step_is_in_pieces(single: tuple[Path, Counted]) -> None:
    made = single[1].made
    assert {step: made[step] for step in IN_PIECES} == {
        "traces": 4,
        "statistics.base": 5,
        "statistics.reasoning": 5,
        "generations.choose": 1,
        "generations.test": 4,
        "directions": 10,
    }
    totals = [total for done, total in single[1].told if done == total]
    assert len(totals) == len(made)  # each step's last piece ends it


def test_results_in_any_order_give_the_same_bytes(single: tuple[Path, Counted], tmp_path: Path) -> None:
    run_little(tmp_path / "run", "executor=backwards")
    assert_same(tmp_path / "run", single[0])


def test_an_executor_is_no_setting_of_the_results(single: tuple[Path, Counted], tmp_path: Path) -> None:
    """Another one goes on with what the first one made, and asks for no --update."""
    folder, counted = tmp_path / "run", Counted()
    shutil.copytree(single[0], folder, ignore=shutil.ignore_patterns(".lock"))
    run_little(folder, "executor=backwards", callbacks=[counted])
    assert counted.made == {}


def test_a_stopped_run_makes_no_piece_twice(single: tuple[Path, Counted], tmp_path: Path) -> None:
    """Stopped once in every step that has pieces, in whatever order they come."""
    folder, made = tmp_path / "run", Counted()
    executors = ("executor=backwards", "executor=local")
    for number, step in enumerate(IN_PIECES):
        counted = Counted(stop=(step, 1))
        with pytest.raises(KeyboardInterrupt):
            run_little(folder, executors[number % 2], callbacks=[counted])
        (piece,) = (folder / "pieces").glob(f"{step}.*/0*")
        assert Pieces(folder, step, piece.parent.name.rpartition(".")[2]).done() == {int(piece.name[:6]): piece}
        made.made = {name: made.made.get(name, 0) + n for name, n in (made.made | counted.made).items()} | {
            name: made.made.get(name, 0) for name in made.made if name not in counted.made
        }
    last = Counted()
    run_little(folder, callbacks=[last])
    total = {name: made.made.get(name, 0) + last.made.get(name, 0) for name in {*made.made, *last.made}}
    assert total == single[1].made
    assert_same(folder, single[0])
    kept = [row for row in read_whole_lines(folder / "log.jsonl") if "kept" in row]
    assert [(row["step"], row["kept"], row["pieces"]) for row in kept] == [
        (step, 1, single[1].made[step]) for step in IN_PIECES
    ]


def test_a_trainer_shows_what_it_does_and_is_quiet_where_that_is_asked(
    single: tuple[Path, Counted], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(single[0], folder, ignore=shutil.ignore_patterns(".lock"))
    run_little(folder, "disable_tqdm=true")
    assert capsys.readouterr() == ("", "")
    (folder / "scores/test.jsonl").unlink()
    run_little(folder)
    out, err = capsys.readouterr()
    lines = {line.split()[0]: line for line in err.splitlines()}
    assert out == "" and lines["traces"].endswith("done before") and lines["scores.test"].endswith(" s")
    assert err.splitlines()[-1].startswith("all steps ") and err.rstrip().endswith(str(folder))


def test_damaged_pieces_are_done_again(tmp_path: Path) -> None:
    """Cut, changed, or of a write that a kill ended; pieces of other inputs go when the step is done."""
    store = Pieces(tmp_path, "traces", "k1")
    store.path.mkdir(parents=True)
    files = [store.keep(n, lambda path, n=n: path.write_text(f"[{n}]")) for n in range(4)]  # type: ignore[misc]
    assert store.done() == dict(enumerate(files))
    files[0].write_text("[")
    files[1].write_text("[7]")
    (store.path / "000004").write_text("[4]")  # written, and not yet given its name
    assert store.done() == {2: files[2], 3: files[3]}
    assert not files[0].exists() and not files[1].exists()
    other, longer = Pieces(tmp_path, "traces", "k2"), Pieces(tmp_path, "traces.more", "k1")
    for each in (other, longer):
        each.path.mkdir()
        each.keep(0, lambda path: path.write_text("[0]"))  # type: ignore[arg-type,return-value]
    assert other.done().keys() == {0}
    other.remove()
    assert not store.path.exists() and not other.path.exists()
    assert longer.done().keys() == {0}
    longer.remove()
    assert list(tmp_path.iterdir()) == []


RAW = """
import steerkit

@steerkit.register("fitters", "middle")
class Middle(steerkit.VectorFitter):
    needs = frozenset({"means", "raw"})

    def fit(self, statistics):
        found = {}
        for index, layer in enumerate(statistics.layers):
            windows, labels, _ = statistics.raw.read(index)
            own = windows[[label == self.config.label for label in labels]]
            found[layer] = own.double().median(0).values - windows.double().median(0).values
        return found
"""


def test_single_windows_outlive_a_kill_while_they_are_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "middle.py").write_text(RAW)
    (tmp_path / "mine.yaml").write_text("extends: backtracking\nname: mine\nplugins: [./middle.py]\n")
    monkeypatch.setattr("steerkit.steps.statistics.RAW_TRACES", 8)

    def go(folder: Path, experiments: str = "[lens]") -> Path:
        fitter = "fitter={name: middle, label: backtracking, window: [-13, -8]}"
        settings = [fitter, f"experiments={experiments}", "draws=3", "folds=4"]
        recipe = load_recipe(str(tmp_path / "mine.yaml"), [*LITTLE, *settings, f"output_dir={folder}"])
        return SteeringTrainer.from_recipe(recipe).run()

    from steerkit.steps import statistics

    whole = go(tmp_path / "whole")
    linked, seen = statistics._linked, []

    def stop(file: Path, to: Path) -> None:
        linked(file, to)
        seen.append(to)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(statistics, "_linked", stop)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "cut")
    cut = go(tmp_path / "cut")
    for name in ("base", "reasoning"):
        file = f"vectors/{name}.backtracking.-13..-8.safetensors"
        one, other = (SteeringVector.load(folder / file) for folder in (whole, cut))
        assert all(torch.equal(one.direction(layer), other.direction(layer)) for layer in one.layers)
        assert list((cut / f"stats/{name}").iterdir())
    assert (whole / "directions.csv").read_bytes() == (cut / "directions.csv").read_bytes()


def test_a_fitter_of_single_windows_has_controls_and_facts(tmp_path: Path) -> None:
    (tmp_path / "middle.py").write_text(RAW.replace('"middle"', '"halfway"'))
    (tmp_path / "mine.yaml").write_text("extends: backtracking\nname: mine\nplugins: [./middle.py]\n")
    settings = [
        "fitter={name: halfway, label: backtracking, window: [-13, -8]}",
        "prompts.extract=48",
        "experiments=[controls]",
        "controls={draws: 2, kinds: [within, elsewhere, over, covariance, isotropic]}",
        "draws=3",
        "folds=4",
        f"output_dir={tmp_path / 'run'}",
    ]
    run = SteeringTrainer.from_recipe(load_recipe(str(tmp_path / "mine.yaml"), [*LITTLE, *settings])).run()
    with (run / "directions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4
    for row in rows:
        assert -1 < float(row["reliability_least"]) < float(row["reliability_most"]) < 1
        assert -1 < float(row["cos_within_least"]) < float(row["cos_within_most"]) < 1
        assert 0 < float(row["auroc"]) < 1
    with (run / "controls.csv").open(newline="") as file:
        cosines = {(row["control"], row["draw"]): float(row["cosine"]) for row in csv.DictReader(file)}
    assert len(cosines) == 5 * 2 and all(abs(value) < 1 for value in cosines.values())
    assert cosines["within", "0"] > cosines["isotropic", "0"]
    found = json.loads((run / "findings/controls.json").read_text())["findings"]
    assert found["cautions"][0].startswith("Few draws") and len(found["claims"]) > 3
