"""The short form of what docs/trust.md reports: crashes, damaged folders, work under load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "trials"))

from forked import STEPS
from points import KINDS
from records import Record, get, put
from table import HERE, crash_table, other_table


def try_all(out: Path, command: str) -> list[Record]:
    """What a command of tests/trials/ found; it must have lost nothing."""
    name, *words = command.split()
    done = subprocess.run(
        [sys.executable, str(HERE / name), *words, "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = get(out)
    assert records and not any(record.lost for record in records)
    return records


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="moments of processor time are read from /proc")
def test_crashes_lose_nothing(tmp_path: Path) -> None:
    records = try_all(tmp_path / "results.json", "crashes.py --points 8 --seed 3 --few")
    crashed = [record for record in records if record.what.partition(": ")[0] in KINDS.values()]
    assert sum(record.tried for record in crashed) >= 8
    assert len(records) - len(crashed) >= 8  # flipped bits, torn lines, a folder that was moved, a second process


def test_a_slow_and_flaky_judge(tmp_path: Path) -> None:
    (record,) = try_all(tmp_path / "results.json", "load.py --rows 0 --requests 100")
    assert record.tried == 100
    assert "98 answered, 2 listed" in record.what


def test_records_are_put_in_place_of_older_ones_and_shown(tmp_path: Path) -> None:
    path, kind = tmp_path / "results.json", KINDS["kill"]
    put(path, [Record(f"{kind}: scores.test", 3, 1, 2.0), Record("a: b", 1, 0, 1.0), Record("a: c", 2, 0, 1.0)])
    put(path, [Record(f"{kind}: scores.test", 7, 0, 2.04)])
    put(path, [Record("rows: 5", 1, 0, 0.0)], instead="rows")
    put(path, [Record("rows: 6", 1, 0, 0.0)], instead="rows")
    assert get(path) == [
        Record("a: b", 1, 0, 1.0),
        Record("a: c", 2, 0, 1.0),
        Record(f"{kind}: scores.test", 7, 0, 2.0),
        Record("rows: 6", 1, 0, 0.0),
    ]
    lines = crash_table(get(path)).splitlines()
    assert lines[0] == f"| step | {kind} | lost |"
    assert lines[2 + STEPS.index("scores.test")] == "| scores.test | 7 | 0 |"
    assert lines[-1] == "| **all** | 7 | 0 |"
    assert other_table(get(path)).splitlines()[2:] == ["| a | b, c | 3 | 0 | 2 |", "| rows | 6 | 1 | 0 | 0 |"]
