"""Crashes runs at random points of all steps and goes on with them: nothing may be lost, nothing may differ.

    python tests/trials/crashes.py --points 200 --seed 0
    python tests/trials/crashes.py --points 20 --kinds kill,sigint --steps test,results --out /tmp/crashes.json

A run of the embedded pair at its smallest is hit one to four times, and then given the same command until it ends.
Its artifacts must be those of a run that was left alone, byte for byte, and what a failed run said must be in words.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from itertools import product
from pathlib import Path

from damage import DAMAGES
from disk import give_room, small_disk
from forked import STEPS, run, set_environment, warm_up, words_for
from points import KINDS, Point, count_operations, draw, hit, wrong
from records import Record, put
from same import differences

AGAIN = 3 / 4  # the chance that a run which goes on is hit again
MOST = 4  # times that a run is hit


def main() -> int:
    options = _options()
    set_environment()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="crashes-"))
    whole = folder / "whole"
    warm_up(whole, figures=not options.few)
    alone = run(words_for(folder / "alone"), figures=False)
    if alone.code or (found := differences(whole, folder / "alone")):
        print(f"two runs that were left alone differ: {alone.errors if alone.code else found}", file=sys.stderr)
        return 1
    failures = Failures()
    records: list[Record] = []
    with small_disk(folder / "disk") as disk:
        kinds = [kind for kind in options.kinds.split(",") if kind in KINDS and (kind != "enospc" or disk)]
        if "enospc" in options.kinds and not disk:
            print("enospc: left out, no small disk can be mounted here (that takes root)", file=sys.stderr)
        if kinds and options.points:
            records += crash(options, kinds, folder, disk or folder, alone.seconds, failures)
        _report(records, options.out, instead=tuple(f"{KINDS[kind]}: " for kind in kinds if records))
    for name, damage in DAMAGES.items():
        if name in options.kinds.split(","):
            damaged = damage(whole, folder, random.Random(options.seed), options.few, failures)
            _report(damaged, options.out)
            records += damaged
    print(f"{sum(r.tried for r in records)} tried, {len(failures)} failures, {time.monotonic() - began:.0f} s")
    if failures:
        print(f"kept: {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return 1 if failures else 0


class Failures(list[str]):
    """What was lost, said as soon as it is known."""

    def append(self, what: str) -> None:
        print(what, file=sys.stderr, flush=True)
        super().append(what)


def crash(
    options: argparse.Namespace,
    kinds: list[str],
    folder: Path,
    disk: Path,
    seconds: dict[str, float],
    failures: list[str],
) -> list[Record]:
    """Hit runs until there are `points`; a record a kind and step."""
    chance = random.Random(options.seed)
    operations = count_operations(folder / "counted") if "kill-operation" in kinds else 0
    plan: list[tuple[str, str]] = []
    while len(plan) < 9 * options.points:
        every = list(product(kinds, options.steps.split(",")))
        plan += chance.sample(every, len(every))
    tried: Counter[tuple[str, str]] = Counter()
    lost: Counter[tuple[str, str]] = Counter()
    spent: defaultdict[tuple[str, str], float] = defaultdict(float)
    number = 0
    until = time.monotonic() + 60 * options.minutes
    while tried.total() < options.points and number < len(plan) and time.monotonic() < until:
        kind, step = plan[number]
        number += 1
        began, draws = time.monotonic(), step == "report" and not options.few
        target = disk / f"run-{number}"
        points: list[Point] = []
        point = draw(kind, step, operations, chance)
        while True:
            ended = hit(point, target, seconds, figures=draws)
            give_room(disk)
            if ended.code == 0:  # it ended before the point, or nothing was left to write
                break
            points.append(point)
            place = (point.kind, ended.step)
            tried[place] += 1
            if problem := wrong(point, ended):
                lost[place] += 1
                failures.append(f"{points}: {problem}, exit status {ended.code}: {ended.errors[-3000:]}")
            if len(points) == MOST or chance.random() > AGAIN:
                ended = run(words_for(target), figures=draws)
                break
            later = STEPS[STEPS.index(ended.step) :]
            point = draw(chance.choice(kinds), chance.choice(later), operations, chance)
        if points:
            print(f"{tried.total()}/{options.points}", *(f"{p.kind} in {p.step!r}" for p in points), file=sys.stderr)
            found = differences(folder / "whole", target) if not ended.code else ended.errors[-3000:]
            if found:
                lost[points[-1].kind, points[-1].step] += 1
                failures.append(f"{target} {points}: {found}")
                shutil.copytree(target, folder / f"failed-{number}")
            spent[points[0].kind, points[0].step] += time.monotonic() - began
        shutil.rmtree(target)
    return [
        Record(f"{KINDS[kind]}: {step}", tried[kind, step], lost[kind, step], spent[kind, step])
        for kind in kinds
        for step in STEPS
        if tried[kind, step]
    ]


def _report(records: list[Record], out: Path, instead: tuple[str, ...] = ()) -> None:
    for record in records:
        print(f"{record.what}: {record.tried} tried, {record.lost} lost, {record.seconds:.0f} s", flush=True)
    put(out, records, instead=instead)


def _options() -> argparse.Namespace:
    known = [*KINDS, *DAMAGES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=200, help="crashes in all, over all kinds and steps")
    parser.add_argument("--minutes", type=float, default=60, help="no crash begins after so long")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--kinds", default=",".join(known), help=f"some of {', '.join(known)}")
    parser.add_argument("--steps", default=",".join(STEPS), help="that are hit first; some of them")
    parser.add_argument("--few", action="store_true", help="a short form: few kinds of damage, and no figures")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json", help="where records go")
    options = parser.parse_args()
    if unknown := set(options.kinds.split(",")) - set(known):
        parser.error(f"--kinds: no {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    if unknown := set(options.steps.split(",")) - set(STEPS):
        parser.error(f"--steps: no {', '.join(sorted(unknown))}; choose from {', '.join(STEPS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
