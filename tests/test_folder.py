"""A run folder: held by one process, claimed by one recipe, steps done for their inputs."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from steerkit.errors import SteerkitError
from steerkit.store.folder import RunFolder

HOLD = """
import sys
from pathlib import Path
from steerkit.store.folder import RunFolder
with RunFolder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
RECIPE = {"name": "a", "layer": 3, "judge": {"name": "rules"}}


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout and other.stdin
        assert other.stdout.readline() == b"held\n"
        message = (
            rf"run: another process is running in this folder \(process {other.pid} on {platform.node()} since "
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC: -c .*run\); wait for it, or use --out"
        )
        with pytest.raises(SteerkitError, match=message), RunFolder(tmp_path / "run"):
            pass
        other.kill()
    with RunFolder(tmp_path / "run") as folder:  # a killed process leaves no lock behind
        assert folder.path.is_dir()


def test_another_recipe_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        folder.claim(RECIPE, update=False)
    with RunFolder(tmp_path) as folder:
        folder.claim(RECIPE, update=False)  # the same one goes on
        with pytest.raises(SteerkitError) as caught:
            folder.claim({"name": "a", "layer": 5, "judge": {"name": "keyword"}}, update=False)
    text = str(caught.value)
    assert "holds the run of another recipe (2 settings differ: layer is 5 and was 3; " in text
    assert 'judge.name is "keyword" and was "rules")' in text
    assert "--out" in text
    assert "--update" in text


def test_update_takes_the_folder_over(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        folder.claim(RECIPE, update=False)
        folder.claim({**RECIPE, "layer": 5}, update=True)
    with RunFolder(tmp_path) as folder, pytest.raises(SteerkitError, match="layer is 3 and was 5"):
        folder.claim(RECIPE, update=False)


def test_a_step_is_done_for_its_inputs_and_while_its_files_are_there(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        (folder / "traces.jsonl").write_text("{}\n")
        assert not folder.is_done("traces", "k1")
        folder.finish("traces", "k1", ["traces.jsonl"], 1.5)
    with RunFolder(tmp_path) as folder:
        assert folder.is_done("traces", "k1")
        assert not folder.is_done("traces", "k2")
        assert folder.seconds() == {"traces": 1.5}
        (folder / "traces.jsonl").write_text("{} \n")
        with pytest.raises(SteerkitError, match=r"traces\.jsonl: was changed after step 'traces' wrote it; delete it"):
            folder.is_done("traces", "k1")
        (folder / "traces.jsonl").unlink()
        assert not folder.is_done("traces", "k1")


def test_a_damaged_state_file(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{half")
    with pytest.raises(SteerkitError, match=r"state\.json: is damaged .*; delete it: steps are then done again"):
        RunFolder(tmp_path).__enter__()
    (tmp_path / "state.json").unlink()
    with RunFolder(tmp_path) as folder:  # the lock of the failed try is gone
        assert folder.seconds() == {}


def test_a_state_file_that_is_json_but_not_as_it_was_written(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        folder.claim(RECIPE, update=False)
        folder.finish("traces", "k1", [], 1.5)
    state = tmp_path / "state.json"
    json.loads(state.read_text())  # it is JSON
    state.write_text(state.read_text().replace("k1", "k2"))
    with pytest.raises(SteerkitError, match=r"state\.json: is damaged \(it is not as it was written\); delete it"):
        RunFolder(tmp_path).__enter__()


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SteerkitError, match="run: can't be written: "), RunFolder(tmp_path / "file" / "run"):
        pass
