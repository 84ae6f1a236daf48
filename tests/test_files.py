"""Files that are whole or absent, jsonl that a kill cuts only at its end, and a full disk in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from steerkit.errors import SteerkitError
from steerkit.store.files import append_jsonl, atomic, digest, file_digest, read_whole_lines, save_tensors, write_json

ROWS = [{"id": i, "text": "wait “hmm” \u2028" * 3} for i in range(5)]


def test_appended_rows_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, ROWS[:2])
    append_jsonl(path, [])
    append_jsonl(path, ROWS[2:])
    assert read_whole_lines(path) == ROWS
    assert read_whole_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_torn_last_line_is_removed_and_appending_goes_on(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, ROWS[:3])
    whole = path.read_bytes()
    path.write_bytes(whole + json.dumps(ROWS[3]).encode()[:cut])
    assert read_whole_lines(path) == ROWS[:3]
    assert path.read_bytes() == whole
    append_jsonl(path, ROWS[3:])
    assert read_whole_lines(path) == ROWS


def test_a_torn_last_line_is_cut_off_before_appending(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, ROWS[:3])
    with path.open("a") as file:
        file.write('{"id": 3, "te')
    append_jsonl(path, ROWS[3:])
    assert read_whole_lines(path) == ROWS
    path.write_text('{"id": 3, "te')
    append_jsonl(path, ROWS)
    assert read_whole_lines(path) == ROWS


def test_equal_tensors_are_equal_files(tmp_path: Path) -> None:
    tensors = {f"x{i}": torch.arange(4.0) + i for i in range(3)}
    head = {name: f'é "quoted" \x01\x7f\u2028 {name}' for name in "abcdefgh"}
    for number in range(4):
        save_tensors(tmp_path / str(number), tensors, head)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    with safe_open(tmp_path / "0", "pt") as file:
        assert file.metadata() == head
        assert all(torch.equal(file.get_tensor(name), value) for name, value in tensors.items())


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, ROWS)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1][:9] + b"\n", *lines[2:]]))
    with pytest.raises(SteerkitError, match=r"rows\.jsonl:2: damaged line .*; delete it"):
        read_whole_lines(path)


def test_an_atomic_file_keeps_what_was_there_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"a": "é"})
    with pytest.raises(KeyError), atomic(path) as temporary:
        temporary.write_text("half")
        assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é"}
        raise KeyError
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é"}
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_what_a_kill_left_of_a_file_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / ".x.json.tmp"
    left.mkdir()
    (left / ".tmpBXkCrB").write_text("half")
    write_json(tmp_path / "x.json", {})
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_folder_that_can_not_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SteerkitError, match=r"x\.json: can't be written: .*; what was done before is kept"):
        write_json(tmp_path / "file" / "x.json", {})
    with pytest.raises(SteerkitError, match="can't be written"):
        append_jsonl(tmp_path / "file" / "x.jsonl", ROWS)


FULL = """
    import json, resource, signal, sys
    from pathlib import Path
    import torch
    from steerkit.errors import SteerkitError
    from steerkit.store.files import append_jsonl, write_json
    from steerkit.data.statistics import ActivationStatistics
    from steerkit.data.windows import WindowStatistics
    from steerkit.data.trace import Prompt, write_rows
    from steerkit.vectors.steering_vector import SteeringVector, VectorInfo

    folder, limit = Path(sys.argv[1]), int(sys.argv[2])
    big = torch.ones(100_000)
    info = VectorInfo(method="m", label="l", window=(-1, -1))
    statistics = WindowStatistics(range=(0, 0), window=(0, 0), layers=(0,), labels=(), sums=big.reshape(1, 1, 1, 1, -1),
                                  counts=torch.ones(1, 1), dropped={}, tokens=big + 0, norms=big + 1, traces=1)
    writers = {
        "few.jsonl": lambda p: append_jsonl(p, [{"n": i, "text": "word " * 20} for i in range(60)]),
        "many.jsonl": lambda p: append_jsonl(p, [{"n": i, "text": "word " * 20} for i in range(2000)]),
        "state.json": lambda p: write_json(p, ["x" * 100_000]),
        "prompts.jsonl": lambda p: write_rows(p, [Prompt(id=str(i), prompt="x" * 999) for i in range(99)]),
        "vector.safetensors": lambda p: SteeringVector({0: big}, info).save(p),
        "stats.safetensors": lambda p: ActivationStatistics({(0, 0): statistics}).save(p),
    }
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    said = {}
    for name, write in writers.items():
        try:
            write(folder / name)
        except SteerkitError as error:
            said[name] = str(error)
    sys.stdout.write(json.dumps(said))
"""
NAMES = ["few.jsonl", "many.jsonl", "state.json", "prompts.jsonl", "vector.safetensors", "stats.safetensors"]


def check_no_room(folder: Path, limit: int, before: bytes) -> None:
    """Each writer says so in words and leaves what was there; nothing else is left behind."""
    for name in NAMES:
        (folder / name).write_bytes(before)
    command = [sys.executable, "-c", textwrap.dedent(FULL), str(folder), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert list(said) == NAMES
    for name, message in said.items():
        assert message.startswith(f"{folder / name}: can't be written: ")
        assert "what was done before is kept: make room" in message
        assert (folder / name).read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == sorted(NAMES)


def test_no_room_left(tmp_path: Path) -> None:
    """Real write errors: the process may not write files over 20 kB, and 19 kB are there already."""
    check_no_room(tmp_path, 20_000, b'{"id": "keep"}\n' * 1270)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk(tmp_path: Path) -> None:
    """The same on a real small file system."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("tmpfs can't be mounted here")
    try:
        check_no_room(tmp_path, 10**9, b'{"id": "keep"}\n' * 1050)  # 16 kB in each of the six files: all blocks
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_digests(tmp_path: Path) -> None:
    assert digest({"b": 1, "a": [1, 2]}) == digest({"a": (1, 2), "b": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    (tmp_path / "x").write_bytes(b"hello")
    assert file_digest(tmp_path / "x") == "2cf24dba5fb0a30e"  # of sha256sum
