"""Are the artifacts of two runs the same?"""

from __future__ import annotations

import json
from pathlib import Path

TIMES = {"log.jsonl", "state.json", "report.html"}  # hold how long steps took


def artifacts(folder: Path) -> set[str]:
    """Files of a run, its locks aside."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.endswith(".lock") and not name.startswith(".holder")}


def differences(whole: Path, folder: Path, *, once: bool = True) -> str:
    """What of a run isn't as in the one that was left alone: files byte for byte, steps by their keys.

    Args:
        once: whether a step that was done may not have been done again.
    """
    found = []
    own, other = artifacts(folder), artifacts(whole)
    if not all(any(name.startswith("figures/") for name in names) for names in (own, other)):
        own, other = ({name for name in names if not name.startswith("figures/")} for names in (own, other))
    found += [f"{name} is missing" for name in sorted(other - own)]
    found += [f"{name} is left over" for name in sorted(own - other)]
    same = sorted((own & other) - TIMES)
    found += [f"{name} differs" for name in same if not equal(whole / name, folder / name)]
    if not found:
        keys, others = (_keys(path) for path in (whole, folder))
        found += [f"step {step} has another key" for step in {**keys, **others} if keys[step] != others.get(step)]
    try:  # the log, too, is whole lines
        rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    except ValueError as error:
        return f"log.jsonl is damaged ({error})"
    ends = [row["step"] for row in rows if "seconds" in row]
    found += [f"step {step} was done twice" for step in sorted(set(ends)) if once and ends.count(step) > 1]
    return "; ".join(found)


def equal(one: Path, other: Path) -> bool:
    """Whether two files are; sums of activations may be summed up in another order, float64 rounds them then."""
    if one.read_bytes() == other.read_bytes():
        return True
    if one.parent.name != "stats":
        return False
    from numpy import allclose
    from safetensors.numpy import load_file

    tensors, others = load_file(one), load_file(other)
    return tensors.keys() == others.keys() and all(
        allclose(value, others[name], rtol=1e-12, atol=1e-12 * abs(value).max(initial=0))
        for name, value in tensors.items()
    )


def _keys(folder: Path) -> dict[str, str]:
    steps = json.loads((folder / "state.json").read_text())["steps"]
    return {step: record["key"] for step, record in steps.items()}
