"""What the scripts here have in common: their command line, and which other libraries are there to compare with."""

from __future__ import annotations

import argparse
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from steerkit.bench.sizes import SIZES

RESULTS = Path(__file__).parent / "results.json"
PEERS = {"nnsight": "nnsight", "steering-vectors": "steering_vectors", "repeng": "repeng"}
"""Name of each library → its module."""


def parser_of(about: str | None, rounds: int | None = None) -> argparse.ArgumentParser:
    """A script's parser with the options that all have; --rounds where measurements are repeated."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="full",
        help="quick gives preliminary figures in minutes; smallest only shows that it runs",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file that the results go to")
    if rounds:
        parser.add_argument("--rounds", type=int, default=rounds, help="of every measurement; at least 5 for claims")
        parser.add_argument("--threads", type=int, default=0, help="0 measures which count is fastest")
    return parser


@cache
def there(peer: str) -> bool:
    """Whether a library is installed; where it isn't, says that it is left out."""
    found = find_spec(PEERS[peer]) is not None
    if not found:
        print(f"not compared with {peer}, which is not installed (benchmarks/requirements.txt)", flush=True)
    return found
