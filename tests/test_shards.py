"""A run by several processes ends with the files of a run by one, whichever way they are started, stopped or apart."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from console import Steerkit
from pocket import SIZES
from steerkit.shards import PartsMissing, Shard

from steerkit import SteeringVector, load_recipe
from steerkit.errors import SteerkitError
from steerkit.run import SteeringTrainer
from steerkit.store.files import read_whole_lines
from steerkit.store.folder import RunFolder

LITTLE = (
    *SIZES,
    "prompts.extract=24",
    "prompts.choose=2",
    "max_new_tokens=60",
    "per_device_batch_size=6",
    "save_rows=6",
    "strengths=[30]",
    "baselines=[]",
    "baseline_labels=[]",
    "offsets=null",
    "layers=null",
    "extractor.sweep=null",
    "perplexity=true",
    "batch_tokens=1000",
)
SET = [word for setting in LITTLE for word in ("--set", setting)]
CLUSTER = (Path(__file__).parent.parent / "docs/cluster.md").read_text(encoding="utf-8")
SAME = (
    "prompts.jsonl",
    "traces.jsonl",
    "spans.jsonl",
    "choice.json",
    "generations.jsonl",
    "likelihoods.jsonl",
    "results.csv",
    "comparisons.csv",
)


def run_little(folder: Path, shard: Shard | None = None, *more: str, merge: tuple[Path, ...] = ()) -> None:
    recipe = load_recipe("backtracking", [f"output_dir={folder}", *LITTLE, *more])
    SteeringTrainer.from_recipe(recipe, shard=shard).run(merge)


def words(folder: Path, *more: str) -> list[str]:
    """Command-line words of a little run into a folder."""
    return ["-m", "steerkit", "recipe", "run", "backtracking", "--out", str(folder), *SET, *more]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a little run by one process."""
    folder = tmp_path_factory.mktemp("single") / "run"
    run_little(folder)
    return folder


def assert_same(folder: Path, single: Path) -> None:
    for name in SAME:
        assert (folder / name).read_bytes() == (single / name).read_bytes(), name
    names = [path.name for path in sorted((single / "vectors").glob("*"))]
    assert len(names) == 2
    for name in names:
        one, other = (SteeringVector.load(path / "vectors" / name) for path in (single, folder))
        for layer in one.layers:
            error = (one.direction(layer) - other.direction(layer)).norm() / one.direction(layer).norm()
            assert error <= 1e-6, (name, layer)
    assert not (folder / "parts").exists()


KILLED = """
import os, signal, sys
from steerkit.callbacks import SteeringCallback
from steerkit.recipe.load import load_recipe
from steerkit.shards import Shard
from steerkit.run import SteeringTrainer

class Kill(SteeringCallback):
    def on_batch_end(self, trainer, stage, done, total):
        if stage == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGKILL)

recipe = load_recipe("backtracking", sys.argv[2:])
SteeringTrainer.from_recipe(recipe, callbacks=[Kill()], shard=Shard(1, 2, wait=True)).run()
"""


def second(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)


def test_two_at_once_one_of_them_killed_and_started_again(single: Path, tmp_path: Path) -> None:
    folder, errors = tmp_path / "run", tmp_path / "first.txt"
    waits = "shard 0/2 extract base: waiting for the part of shard 1/2"
    with (
        errors.open("w") as file,
        subprocess.Popen([sys.executable, *words(folder, "--shard", "0/2", "--wait")], stderr=file) as first,
    ):
        for stage in ("extract base", "test"):
            died = second([sys.executable, "-c", KILLED, stage, f"output_dir={folder}", *LITTLE])
            assert died.returncode == -signal.SIGKILL, died.stderr
            assert len(list((folder / "parts").glob("*.1-of-2.partial"))) == 1
            # Nobody else does the killed one's part: started again sooner, it could be ready before the first asks.
            while waits not in errors.read_text():
                assert first.poll() is None, errors.read_text()
                time.sleep(0.05)
        again = second([sys.executable, *words(folder, "--shard", "1/2", "--wait")])
        assert again.returncode == 0, again.stderr
        assert first.wait() == 0, errors.read_text()
    assert_same(folder, single)
    for path, shard in (
        (row["stage"], row["shard"]) for row in read_whole_lines(folder / "log.jsonl") if "stage" in row
    ):
        assert shard in ("0/2", "1/2"), path


def test_torchrun(single: Path, tmp_path: Path) -> None:
    (command,) = re.findall(r"^torchrun (.*)$", CLUSTER, re.MULTILINE)
    launcher = command.replace("runs/two", str(tmp_path / "run")).split()
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *launcher, *SET],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report.html") == 1
    assert_same(tmp_path / "run", single)


def test_one_after_the_other_in_several_passes(single: Path, tmp_path: Path) -> None:
    folder, passes = tmp_path / "run", []
    for index in (0, 1, 2) * 9:
        try:
            run_little(folder, Shard(index, 3))
            break
        except PartsMissing as missing:
            passes.append(str(missing))
    assert passes[:2] == [
        f"shard {i}/3 has done its part of 'traces'; not there yet: shard {rest}. The same command goes on when they "
        "are (--wait waits for them; --merge FOLDER takes parts from another folder)"
        for i, rest in ((0, "1/3, 2/3"), (1, "2/3"))
    ]
    assert [text.split("'")[1] for text in passes].count("traces") == 2
    assert_same(folder, single)


def test_folders_apart_are_merged(single: Path, tmp_path: Path) -> None:
    """Two machines with no disk in common: each takes a copy of the other's folder along."""
    folders = [tmp_path / "a", tmp_path / "b"]
    ended = [False, False]
    while not all(ended):
        for own in (0, 1):
            other = tmp_path / f"copy-{1 - own}"
            shutil.rmtree(other, ignore_errors=True)
            if folders[1 - own].exists():
                shutil.copytree(folders[1 - own], other)
            try:
                run_little(folders[own], Shard(own, 2), merge=(other,) if other.exists() else ())
                ended[own] = True
            except PartsMissing:
                pass
    for folder in folders:
        assert_same(folder, single)
        assert len(read_whole_lines(folder / "log.jsonl")) == len(read_whole_lines(folders[0] / "log.jsonl"))


def test_what_can_not_be_merged(single: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    with pytest.raises(SteerkitError, match=r"gone: no run to merge: there is no state\.json; name the --out of"):
        run_little(own, Shard(0, 2), "seed=3", merge=(tmp_path / "gone",))
    with pytest.raises(PartsMissing):
        run_little(own, Shard(0, 2), "seed=3")
    message = (
        rf"{single}: can't be merged into .*own: 1 problem\n  recipe: 1 setting differs from this run's: seed is 0 and"
    )
    with pytest.raises(SteerkitError, match=message):
        run_little(own, Shard(0, 2), "seed=3", merge=(single,))
    other = tmp_path / "other"
    with pytest.raises(PartsMissing):
        run_little(other, Shard(1, 3), "seed=3")
    (part,) = (other / "parts").glob("traces.*.1-of-3.part")
    with pytest.raises(SteerkitError, match=r"1 problem\n  parts: of 3 shards, and this is one of 2"):
        run_little(own, Shard(0, 2), "seed=3", merge=(other,))
    part.rename(part.with_name(f"traces.{'0' * 16}.1-of-2.part"))
    (other / "prompts.jsonl").write_text("")
    with pytest.raises(SteerkitError) as caught:
        run_little(own, Shard(0, 2), "seed=3", merge=(other,))
    assert "other: can't be merged into" in str(caught.value)
    assert "own: 2 problems\n" in str(caught.value)
    assert "prompts.jsonl: is not as stage 'prompts' left it; copy the folder again" in str(caught.value)
    assert "traces: made from other inputs there: other weights, plugins' code, or files that the recipe names" in str(
        caught.value
    )
    assert not list((own / "parts").glob("*.1-of-2.part"))


HOLD = """
import sys
from pathlib import Path
from steerkit.store.folder import RunFolder
from steerkit.shards import Shard
with RunFolder(Path(sys.argv[1]), Shard(int(sys.argv[2]), int(sys.argv[3]))) as folder:
    print("in", flush=True)
    sys.stdin.readline()
    with folder.held():
        print("held", flush=True)
        sys.stdin.readline()
"""


@contextmanager
def held_by(folder: Path, index: int, count: int) -> Iterator[Callable[[], None]]:
    """Another process in a run folder; calling what is given makes it hold the folder."""
    command = [sys.executable, "-c", HOLD, str(folder), str(index), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as other:
        assert other.stdin and other.stdout
        assert other.stdout.readline() == "in\n"

        def hold() -> None:
            assert other.stdin and other.stdout
            other.stdin.write("\n")
            assert other.stdout.readline() == "held\n"

        try:
            yield hold
        finally:
            other.kill()


def test_who_may_be_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with held_by(folder, 1, 2) as hold:
        with pytest.raises(
            SteerkitError, match=r"run: shard 1/2 is running here already \(process \d+ on .*of its own"
        ):
            RunFolder(folder, Shard(1, 2)).__enter__()
        with pytest.raises(
            SteerkitError, match=r"run: shard 1/2 of a run is running in this folder \(process \d+ .*; wait for"
        ):
            RunFolder(folder).__enter__()
        with pytest.raises(
            SteerkitError, match=r"this is one of 3 shards, but 2 are running here; go on with --shard i/2"
        ):
            RunFolder(folder, Shard(0, 3)).__enter__()
        with RunFolder(folder, Shard(0, 2)) as own:
            assert list(own.running()) == ["1/2"]
            hold()
            waited: list[int] = []

            class Stop(Exception):
                pass

            def on_wait() -> None:
                waited.append(1)
                if len(waited) == 3:
                    raise Stop

            with pytest.raises(Stop), own.held(on_wait):
                pass
    with held_by(folder, 0, 1):
        message = r"run: another process is running in this folder \(process \d+ on .*: -c .*\); wait for it"
        with pytest.raises(SteerkitError, match=message), RunFolder(folder, Shard(0, 2)):
            pass
    with RunFolder(folder, Shard(0, 2)) as own:  # killed processes leave nothing behind that is in the way
        assert not own.running()


def test_parts_of_another_count_are_refused(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / f"traces.{'a' * 16}.2-of-4.partial").touch()
    message = r"this is one of 1 shards, but parts/ holds parts of 4; go on with --shard i/4, or delete .*parts"
    with pytest.raises(SteerkitError, match=message), RunFolder(tmp_path):
        pass
    with RunFolder(tmp_path, Shard(3, 4)):
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2", "--shard 2: write i/n, as in 0/4 for the first of four"),
        ("-1/2", "--shard -1/2: write i/n"),
        ("4/4", "--shard 4/4: shards are numbered from 0, here 0/4 to 3/4 (SLURM: --array=0-3)"),
    ],
)
def test_shares_that_are_none(steerkit: Steerkit, text: str, message: str) -> None:
    done = steerkit("recipe", "run", "backtracking", "--shard", text)
    assert done.returncode == 2
    assert message in done.stderr


def test_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Shard.of() == Shard(0, 1)
    assert Shard.of("1/4", wait=True) == Shard(1, 4, wait=True)
    for name, value in {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    assert Shard.of() == Shard(5, 8, True, 1, 4)
    assert Shard.of("2/3") == Shard(21, 24, False, 1, 4)  # a launcher on each of three machines
    assert [i for rank in range(3) for i in Shard(rank, 3).of_all(range(7))] == [0, 3, 6, 1, 4, 2, 5]


def test_ranks_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    try:
        Shard(0, 2, local_count=cores).take_devices(None)
        assert torch.get_num_threads() == 1
        Shard(0, 2).take_devices(None)  # alone on its machine
        assert torch.get_num_threads() == 1
        Shard(0, 2, local_count=2).take_devices(None)
        assert torch.get_num_threads() == max(1, cores // 2)
    finally:
        torch.set_num_threads(before)


def test_trackers_follow_one_process(tmp_path: Path) -> None:
    with pytest.raises(SteerkitError, match="report_to: trackers follow a run by one process; leave it out"):
        run_little(tmp_path, Shard(0, 2), "report_to=[tensorboard]")


def test_the_guides_commands_are_understood(steerkit: Steerkit) -> None:
    """Each but for what starts processes on other machines; a plan in place of the run."""
    text = re.sub(r"\\\n\s*", "", CLUSTER).replace("$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT", "3/8")
    commands = re.findall(r"steerkit (recipe run .*?)(?:\s&|\s#|`|$)", text, re.MULTILINE)
    assert len(commands) == 8
    for command in commands:
        done = steerkit(*shlex.split(command), "--dry-run")
        assert done.returncode == 0, (command, done.stderr)
