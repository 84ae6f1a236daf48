"""Long work under load: many rows on a tiny model, many requests to a slow and flaky judge.

    python tests/trials/load.py                                     50,000 rows, 1,000 requests with 20 % faults
    python tests/trials/load.py --rows 2000 --requests 100 --out /tmp/load.json

A run writes and judges its rows as any run does; while it generates, memory, file handles and processor time are
read after every chunk. Every text that the judge is asked for must be answered or listed, and none paid twice.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from records import Record, put

from steerkit.callbacks import SteeringCallback
from steerkit.errors import SteerkitError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # the tiny models and the server
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")

CHUNK = 256  # rows
MORE_MEMORY = 0.05  # at the end of the rows, against a tenth of the way: more is a leak
SPEED = 0.95  # of the last tenth, against the first
MIB = 2**20


@dataclass
class Watch(SteeringCallback):
    """Memory, file handles and processor time after each chunk of the test's rows."""

    seen: list[tuple[int, int, int, float]] = field(default_factory=list)

    def look(self, done: int) -> None:
        gc.collect()  # what waits for the collector is no leak
        process = psutil.Process()
        self.seen.append((done, process.memory_info().rss, process.num_fds(), time.process_time()))

    def on_step_begin(self, run: Any, step: str) -> None:
        if step == "generations.test":
            self.look(0)

    def on_batch_end(self, run: Any, step: str, done: int, total: int) -> None:
        if step == "generations.test":
            self.look(done)

    def at(self, share: float) -> tuple[int, int, int, float]:
        """The look nearest to a share of the rows."""
        return min(self.seen, key=lambda look: abs(look[0] - share * self.seen[-1][0]))


def rows(count: int, folder: Path) -> tuple[list[Record], list[str]]:
    """A whole run with about `count` steered rows; what was seen, and what is wrong with it."""
    from tiny import build

    from steerkit.run import SteeringTrainer
    from steerkit.settings import SteeringArguments

    strengths = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    args = SteeringArguments(
        output_dir=str(folder),
        max_new_tokens=12,
        temperature=1.0,
        per_device_batch_size=64,
        save_rows=CHUNK,
        threads=1,
        span_judge="keyword",
        score_judge="keyword",
        extractor={"name": "offset-window", "windows": [[-2, -1]]},
        fitter={"name": "dom", "label": "backtracking", "window": [-2, -1]},
        steerer="residual-add",
        layer=1,
        strengths=strengths,
        resamples=100,
        writer="reasoning",
        experiments=["transfer", "texts"],
    )
    texts = 1 + len(strengths) * 4  # of a prompt, about: both models, both sources
    prompts = {"extract": 64, "choose": 2, "test": max(count // texts, 10)}
    words = random.Random(0)
    given = [" ".join(f"w{words.randrange(50)}" for _ in range(6)) + f" w{n % 50} the" for n in range(10**6 // 8)]
    given = list(dict.fromkeys(given))[: sum(prompts.values())]
    watch, began = Watch(), time.monotonic()
    lm, other = build("llama", 0), build("llama", 1)
    models = {"base": lm, "reasoning": other}
    SteeringTrainer(models, args=args, prompts=given, counts=prompts, callbacks=[watch], name="load").run()
    total, (_, memory, handles, _) = watch.seen[-1][0], watch.at(1)
    seconds = time.monotonic() - began
    tenth = watch.at(0.1)
    speeds = [_speed(watch, 0, 0.1), _speed(watch, 0.9, 1)]
    found = {
        f"memory: {tenth[1] / MIB:.0f} MiB after a tenth, {memory / MIB:.0f} MiB at the end": (
            memory <= tenth[1] * (1 + MORE_MEMORY)
        ),
        f"file handles: {tenth[2]} after a tenth, {handles} at the end": handles <= tenth[2],
        f"rows per second of processor time: {speeds[0]:.0f} in the first tenth, {speeds[1]:.0f} in the last": (
            speeds[1] >= SPEED * speeds[0]
        ),
    }
    records = [
        Record(f"a run of many rows, {what}", total, 0 if holds else 1, seconds) for what, holds in found.items()
    ]
    return records, [what for what, holds in found.items() if not holds]


def _speed(watch: Watch, begin: float, end: float) -> float:
    first, last = watch.at(begin), watch.at(end)
    return (last[0] - first[0]) / (last[3] - first[3])


PASSING = ("status:500", "status:429:1", "status:503", "close", "html", "slow:1")
LASTING = ("status:400", "schema", "prose", "refusal", "length")


def judge(count: int, folder: Path) -> tuple[list[Record], list[str]]:
    """Texts to a slow server, a fifth of them with a fault; what was seen, and what is wrong with it."""
    from llm_server import KEY, serving
    from steerkit_plugins.judges.llm.judge import LLMJudge

    os.environ["OPENAI_API_KEY"] = KEY
    chance, began, wrong = random.Random(0), time.monotonic(), []
    texts = [f"Text {n}. Wait, no." for n in range(count)]
    faulty = chance.sample(texts, count // 5)
    lasting = set(faulty[: count // 50])
    with serving() as (url, state):
        for text in texts:
            kinds = LASTING if text in lasting else PASSING if text in faulty else ("slow:0.02",)
            state.faults[text] = [chance.choice(kinds)]
        options = {"base_url": url, "format": "structured", "timeout": 20, "max_concurrency": 16}
        said = ""
        for more in ({}, {"unusable": "leave-out"}):
            asked = LLMJudge(**options, **more)
            asked.open(folder, lambda done, total: None)
            try:
                found = asked.annotate(texts)
            except SteerkitError as error:
                said = said or str(error)
        answered = sum(len(spans) == 2 for spans in found)
        unusable = sum(asked.notes().get("unusable_answers", {}).values())
        paid = Counter(state.paid.values())
    if answered + unusable != count:
        wrong.append(f"{count - answered - unusable} of {count} texts are neither answered nor listed")
    if lasting and f"of {count:,} texts have no usable answer" not in said:
        wrong.append(f"what had no usable answer was not listed: {said}")
    if paid != {1: count}:
        wrong.append(f"paid so often: {dict(paid)} (times: texts)")
    what = f"requests to a slow judge, a fifth with faults: {answered} answered, {unusable} listed, none paid twice"
    return [Record(what, count, len(wrong), time.monotonic() - began)], wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000, help="steered rows of the run, about; 0 leaves it out")
    parser.add_argument("--requests", type=int, default=1000, help="texts for the judge; 0 leaves it out")
    parser.add_argument("--out", type=Path, default=HERE / "results.json", help="where records go")
    options = parser.parse_args()
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        for trial, count in ((rows, options.rows), (judge, options.requests)):
            if count:
                records, wrong = trial(count, Path(place) / trial.__name__)
                problems += wrong
                put(options.out, records, instead=records[0].what.partition(",")[0])
                for record in records:
                    print(f"{record.what}: {record.tried} tried, {record.lost} lost, {record.seconds:.0f} s")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
