"""Fuzz the readers of strangers' files, coverage-guided: python tests/trials/fuzz.py --seconds 60 [--target gguf]

Each reader has a process of its own (atheris, libFuzzer's engine), which begins with the corpus that `targets` makes.
A record a reader goes to tests/trials/results.json, or to --out; what was lost is printed.
Needs `pip install 'steerkit-hf[dev,fuzz]'`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from records import Record, put
from targets import MEBIBYTES, SECONDS, TARGETS, attempt

MOST_LOST = 5  # findings of a reader, after which there is something to mend first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="for each reader")
    parser.add_argument("--target", choices=list(TARGETS), action="append", help="repeatable; all when left out")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"), help="where records go")
    parser.add_argument("--child", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if find_spec("atheris") is None:
        sys.exit("fuzzing needs a package: pip install 'steerkit-hf[fuzz]'")
    if args.child:
        fuzz(args.target[0], Path(args.child), args.seconds)
    lost = 0
    for name in args.target or TARGETS:
        record = trial(name, args.seconds)
        lost += record.lost
        put(args.out, [record])
    sys.exit(bool(lost))


def trial(name: str, seconds: float) -> Record:
    """Fuzz a reader for so long; what is found is taken out of the way by going on after it."""
    found: list[str] = []
    tried, began = 0, time.monotonic()
    with TemporaryDirectory() as folder:
        while (left := seconds - (time.monotonic() - began)) > 1 and len(found) < MOST_LOST:
            words = [sys.executable, __file__, "--target", name, "--seconds", str(left), "--child", folder]
            done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
            counted = re.findall(r"stat::number_of_executed_units:\s+(\d+)|^#(\d+)\s", done.stderr, re.MULTILINE)
            tried += max((int(one or other) for one, other in counted), default=0)
            if done.returncode:
                why = re.findall(r"LOST (.*)|ERROR: libFuzzer: (.*)", done.stderr)
                files = sorted(Path(folder).glob("lost-*"))
                data = files[-1].read_bytes()[:300] if files else b""
                found.append(f"{next(map(''.join, why), done.stderr[-300:])}: {data!r}")
    seconds = round(time.monotonic() - began, 1)
    print(f"{name:<12}{tried:>10,} files{seconds:>8} s  lost {len(found)}", *found, sep="\n  ", flush=True)
    return Record(f"a fuzzed file, guided by coverage: {name}", tried, len(found), seconds)


def fuzz(name: str, folder: Path, seconds: float) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    target = TARGETS[name]
    corpus, work = folder / "corpus", folder / "work"
    corpus.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    with atheris.instrument_imports(include=["steerkit", "steerkit_plugins", "yaml", "jsonlines", "gguf"]):
        for number, data in enumerate(target.corpus()):
            (corpus / f"seed{number}").write_bytes(data)
            attempt(target, data, work)  # imports what the reader imports when it is used

    def one(data: bytes) -> None:
        for path in work.iterdir():
            with suppress(OSError):
                path.unlink()
        if wrong := attempt(target, data, work):
            print(f"LOST {wrong}", file=sys.stderr, flush=True)
            raise RuntimeError(wrong)

    limits = [f"-max_total_time={max(1, int(seconds))}", f"-timeout={2 * SECONDS}", f"-rss_limit_mb={3 * MEBIBYTES}"]
    more = ["-max_len=65536", "-print_final_stats=1", f"-artifact_prefix={folder}/lost-"]
    atheris.Setup([sys.argv[0], *limits, *more, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
