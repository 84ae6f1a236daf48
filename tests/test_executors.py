"""The executors' contract: the same files wherever pieces are done, whatever dies meanwhile, and errors in words."""

from __future__ import annotations

import logging
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pocket import SAME
from steerkit_plugins.executors.ray.cluster import ENVIRONMENT
from tiny import tiny

from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.callbacks import SteeringCallback
from steerkit.code.sent_modules import packages
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.models.model_spec import Loading
from steerkit.models.models import Models
from steerkit.parts import Executor
from steerkit.recipe.load import load_recipe
from steerkit.run import SteeringTrainer

os.environ |= ENVIRONMENT  # some are read when Ray is imported
pytest.importorskip("ray")

LITTLE = (
    "prompts.extract=12",
    "prompts.choose=2",
    "prompts.test=4",
    "max_new_tokens=40",
    "per_device_batch_size=4",
    "save_rows=4",
    "resamples=100",
    "threads=1",
    "strengths=[30]",
    "experiments=[transfer]",
    "perplexity=true",
    "batch_tokens=1000",
)
"""A run in seconds, with twelve pieces of texts."""

NUDGE = """
import torch
import steerkit
from steerkit.interfaces import Steerer

@steerkit.register("steerers", "nudge")
class Nudge(Steerer):
    def edit(self, hidden, at):
        from by_how_much import FACTOR
        return hidden + FACTOR * at.norm * at.direction
"""

KILLED = """
import os, signal, sys
from steerkit.callbacks import SteeringCallback
from steerkit.recipe.load import load_recipe
from steerkit.run import SteeringTrainer

class Kill(SteeringCallback):
    def on_batch_end(self, run, step, done, total):
        if step == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    recipe = load_recipe(sys.argv[1], [*sys.argv[3:], "disable_tqdm=true"])
    SteeringTrainer.from_recipe(recipe, callbacks=[Kill()]).run()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray in this process, once for all tests: executors use it and leave it alone."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_AUTH_TOKEN", "0" * 64)  # Ray keeps to the first token that a process had
    level = logging.root.level
    made = Cluster()
    made.add_node(num_cpus=1, include_dashboard=False)
    second = made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False, configure_logging=False)
    yield made, second
    ray.shutdown()
    made.shutdown()
    assert logging.root.level == level  # what later tests hear


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose steerer is a local file with a helper that it imports when it is used."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "nudge.py").write_text(NUDGE)
    (folder / "by_how_much.py").write_text("FACTOR = 2.0\n")
    path = folder / "nudge.yaml"
    path.write_text("extends: backtracking\nname: nudge\nplugins: [./nudge.py]\nsteerer: nudge\n")
    return path


def run(recipe: Path, folder: Path, executor: str, *callbacks: SteeringCallback) -> None:
    made = load_recipe(str(recipe), [*LITTLE, f"output_dir={folder}", f"executor={executor}"])
    SteeringTrainer.from_recipe(made, callbacks=callbacks).run()


@pytest.fixture(scope="module")
def local(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in this process."""
    folder = tmp_path_factory.mktemp("local") / "run"
    run(recipe, folder, "local")
    return folder


def assert_same(folder: Path, local: Path) -> None:
    vectors = [f"vectors/{path.name}" for path in (local / "vectors").iterdir()]
    assert len(vectors) == 2
    for name in (*SAME, *vectors):
        assert (folder / name).read_bytes() == (local / name).read_bytes(), name
    assert not (folder / "pieces").exists()


def workers() -> list[psutil.Process]:
    """The workers' processes, of this process's Ray alone."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if process.name().startswith("ray::Worker")]


class Killer(SteeringCallback):
    """Kills a worker at work at the first piece of a step, and takes a machine away at the third."""

    def __init__(self, cluster: Any) -> None:
        self.cluster, self.pieces = cluster, []

    def on_batch_end(self, run: Any, step: str, done: int, total: int) -> None:
        self.pieces.append(step)
        if step == "traces":
            while len(workers()) < 2:  # the second one is on its way
                time.sleep(0.1)
        if step == "generations.test" and self.pieces.count(step) == 1:
            busy = [member for member in run.executor._pool._members if member.pieces]
            os.kill(int(busy[0].place.split()[1]), signal.SIGKILL)
        if step == "generations.test" and self.pieces.count(step) == 3:
            made, second = self.cluster
            made.remove_node(second, allow_graceful=False)


def test_two_workers_one_killed_and_one_with_its_machine(
    cluster: Any, recipe: Path, local: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killer = Killer(cluster)
    run(recipe, tmp_path / "run", "{name: ray, workers: 2}", killer)
    assert killer.pieces.count("generations.test") == 6
    assert re.search(r"generations\.test, piece \d: its worker was lost \(process \d+ on ", caplog.text)
    assert_same(tmp_path / "run", local)


def child(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def test_ray_is_killed_and_the_run_finished_without(recipe: Path, local: Path, tmp_path: Path) -> None:
    """Ray starts on this machine here, and ends with the process that started it."""
    folder, home = tmp_path / "run", tmp_path / "home"
    home.mkdir()
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    settings = (*LITTLE, f"output_dir={folder}", "executor={name: ray, workers: 1}")
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    started = subprocess.Popen(
        [sys.executable, str(script), str(recipe), "generations.test", *settings],
        env={**own, "HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = started.communicate()[0]
    assert started.returncode == -signal.SIGKILL, said
    assert said == ""  # Ray is quiet
    assert not (home / ".ray").exists()
    assert len(list((folder / "pieces").glob("generations.test.*/0*"))) == 1
    run(recipe, folder, "local")
    assert_same(folder, local)


def test_a_local_run_is_killed_and_finished_with_ray(cluster: Any, recipe: Path, local: Path, tmp_path: Path) -> None:
    folder, script = tmp_path / "run", tmp_path / "killed.py"
    script.write_text(KILLED)
    killed = child(str(script), str(recipe), "traces", *LITTLE, f"output_dir={folder}")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list((folder / "pieces").glob("traces.*/0*"))) == 1
    run(recipe, folder, "{name: ray, workers: 1}")
    assert_same(folder, local)


def test_plugin_files_where_their_folder_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    (folder / "nudge_there.py").write_text(NUDGE.replace('"nudge"', '"nudge-there"').replace("by_how", "by_what"))
    (folder / "by_what_much.py").write_text("FACTOR = 3.0\n")
    registry.load_file(folder / "nudge_there.py")
    cls = registry.get("steerers", "nudge-there")
    (name,) = (name for name, package in packages([cls]).items() if package.folder == str(folder))
    (tmp_path / "sent").write_bytes(pickle.dumps((packages([cls])[name], name)))
    (tmp_path / "plugin").write_bytes(pickle.dumps(cls()))
    shutil.rmtree(folder)
    code = f"""
import pickle
from pathlib import Path
from types import SimpleNamespace
from steerkit.code.sent_modules import add_package
here = Path({str(tmp_path)!r})
package, name = pickle.loads((here / "sent").read_bytes())
add_package(name, package, lambda: here / "spare")
plugin = pickle.loads((here / "plugin").read_bytes())
print(plugin.name, plugin.edit(1, SimpleNamespace(norm=2, direction=5)), plugin.code.name)
"""
    done = child("-c", code)
    assert done.stdout == "nudge-there 31.0 nudge_there.py\n", done.stderr


# --- map, by itself -------------------------------------------------------------------------------------------------


def ray_executor(**options: Any) -> Executor:
    made: Executor = registry.build("executors", PluginSpec(name="ray", **options))
    return made


@pytest.fixture(scope="module")
def one(cluster: Any) -> Iterator[Executor]:
    """An executor with one worker."""
    made = ray_executor(workers=1, retries=1)
    yield made
    made.close()


MODELS = Models({"m": "pocket:base"})


def mapped(executor: Executor, work: Any, pieces: list[Any], models: Models = MODELS) -> dict[int, Any]:
    return dict(executor.map(work, list(enumerate(pieces)), models, lambda number, done: None))


class Sized(InputError):
    """An error whose constructor pickle could not call."""

    def __init__(self, size: int, *, unit: str) -> None:
        super().__init__("sizes", [Problem("here", f"{size} {unit}")])
        self.size = size


def fails(models: Any, piece: Any) -> Any:
    if piece == "steerkit":
        raise Sized(3, unit="rows")
    if piece == "python":
        raise ValueError("not a mistake of the user's")
    if piece == "unsendable":
        error = SteerkitError("held on to a lock")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error
    if piece == "result":
        return lambda: threading.Lock(), threading.Lock()
    if piece == "logs":
        logging.getLogger("steerkit").warning("look out")
    return piece


def test_an_error_of_the_work_comes_out_as_it_was_raised(one: Executor) -> None:
    with pytest.raises(Sized, match="3 rows\n  \\(fails, piece 1, on ") as raised:
        mapped(one, fails, ["fine", "steerkit"])
    assert raised.value.size == 3 and raised.value.problems == (Problem("here", "3 rows"),)
    with pytest.raises(ValueError, match="not a mistake of the user's") as other:
        mapped(one, fails, ["python"])
    assert "piece 0, on" in other.value.__notes__[0] and "in fails" in other.value.__notes__[0]
    with pytest.raises(SteerkitError, match="held on to a lock"):
        mapped(one, fails, ["unsendable"])


def test_what_can_not_be_sent_is_named(one: Executor) -> None:
    lock = threading.Lock()
    with pytest.raises(SteerkitError, match=r"fails, piece 1 can't be sent to another process \(TypeError: .*lock"):
        mapped(one, fails, ["fine", lock])
    with pytest.raises(SteerkitError, match=r"its result can't be pickled \(TypeError: .*\n.*piece 0, on "):
        mapped(one, fails, ["result"])

    def captures(models: Any, piece: Any) -> Any:
        return lock

    with pytest.raises(SteerkitError, match="captures: the step can't be sent to another process"):
        mapped(one, captures, [1])


def test_models_in_memory_and_named_gpus_are_refused(one: Executor) -> None:
    with pytest.raises(SteerkitError, match="m: a model that was given as an object can't be sent to another process"):
        one.check(Models({"m": tiny("llama")}))
    with pytest.raises(SteerkitError, match="device: cuda:1: workers of the ray executor are given their GPUs by Ray"):
        one.check(Models({"m": "pocket:base"}, "", Loading(device="cuda:1")))
    one.check(MODELS)


def test_warnings_of_workers_are_heard(one: Executor, caplog: pytest.LogCaptureFixture) -> None:
    assert mapped(one, fails, ["logs"]) == {0: "logs"}
    assert [record.getMessage() for record in caplog.records if record.name == "steerkit"] == ["look out"]


def test_a_caller_that_stops_asking(one: Executor) -> None:
    for _ in one.map(fails, [(0, "a"), (1, "b"), (2, "c")], MODELS, lambda number, done: None):
        break  # the worker is at the next one: it is stopped, and the next test starts another
    assert not one._pool._members  # type: ignore[attr-defined]


NOTEBOOK = """
import numpy as np
import steerkit
from steerkit.interfaces import Config, Steerer

class Options(Config):
    times: int = 2
    "How often."

@steerkit.register("steerers", "of-a-notebook")
class Twice(Steerer):
    Config = Options
    def edit(self, hidden, at):
        return hidden * self.config.times

def builds(models, piece):
    from steerkit import registry
    from steerkit.artifacts import PluginSpec
    array = registry.build("steerers", PluginSpec(name="of-a-notebook", **piece)).edit(np.ones(2), None)
    return array
"""


def test_a_class_of_a_notebook_is_known_on_workers(one: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    monkeypatch.setattr(registry, "_local", dict(registry._local))
    exec(compile(NOTEBOOK, "notebook", "exec"), names)
    one.close()  # workers that start now are told of it
    found = mapped(one, names["builds"], [{}, {"times": 5}])
    assert [list(found[n]) for n in (0, 1)] == [[2, 2], [5, 5]]
    found[0][0] = 7  # results belong to the caller, as those of the local executor do


def dies(models: Any, piece: Any) -> Any:
    path, times = piece
    if path:
        file = Path(path)
        file.write_text((file.read_text() if file.exists() else "") + "x")
        if len(file.read_text()) <= times:
            os.kill(os.getpid(), signal.SIGKILL)
    return times


def test_a_piece_that_is_lost_is_done_again_but_not_for_ever(one: Executor, tmp_path: Path) -> None:
    assert mapped(one, dies, [(str(tmp_path / "once"), 1), ("", 5), ("", 6)]) == {0: 1, 1: 5, 2: 6}
    with pytest.raises(SteerkitError, match=r"dies, piece 1: its worker died 2 times, the last time process \d+ "):
        mapped(one, dies, [("", 5), (str(tmp_path / "always"), 9), ("", 6)])
    assert (tmp_path / "always").read_text() == "xx"


def test_no_room_for_a_worker(cluster: Any) -> None:
    executor = ray_executor(cpus=64, timeout=1)
    with pytest.raises(SteerkitError, match=r"no worker has started within 1 s .*\n?.*64 CPUs on one machine; the clu"):
        mapped(executor, fails, [1])
    executor.close()


def test_a_cluster_that_is_not_there() -> None:
    code = """
from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.errors import SteerkitError
from steerkit.models.models import Models
executor = registry.build("executors", PluginSpec(name="ray", address="127.0.0.1:9"))
try:
    list(executor.map(print, [(0, 1)], Models({"m": "pocket:base"}), print))
except SteerkitError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "can't join the Ray cluster '127.0.0.1:9'" in done.stdout, done.stderr


def test_a_recipe_that_names_a_cluster_needs_the_users_word(tmp_path: Path) -> None:
    path = tmp_path / "stranger.yaml"
    path.write_text("extends: backtracking\nname: stranger\nexecutor: {name: ray, address: '10.0.0.1:6379'}\n")
    with pytest.raises(SteerkitError, match=r"joins the Ray cluster '10.0.0.1:6379'.*--allow servers"):
        load_recipe(str(path))
    assert load_recipe(str(path), allow=["servers"]).executor.name == "ray"


def test_without_ray_the_error_is_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SteerkitError, match=r"executor: ray needs a package: pip install 'steerkit-hf\[ray\]'"):
        ray_executor().check(MODELS)
