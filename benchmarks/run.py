"""All benchmarks: `python benchmarks/run.py [--rounds 7] [--size quick] [--only costs] [--no-peers]`.

Prints the ratios beside their goals and writes them to benchmarks/results.json; benchmarks/page.py makes the table in
the docs of them. Other libraries (benchmarks/peers.py, benchmarks/memory.py) are compared where they are installed.
benchmarks/smollm2.py, which needs a downloaded model and data, and benchmarks/growth.py, which draws, run on their own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import ablations
import bridging
import costs
import determinism
import gradients
import memory
import peers
import sae
import scalars
import training
from options import parser_of

from steerkit.bench.measure import Result, write
from steerkit.bench.table import text_table

PARTS = ("costs", "determinism", "gradients", "scalars", "ablations", "sae", "training", "bridging", "peers", "memory")


def main() -> int:
    parser = parser_of(__doc__, rounds=7)
    parser.add_argument("--no-peers", action="store_true", help="leave out what compares with other libraries")
    parser.add_argument("--only", choices=PARTS)
    args = parser.parse_args()
    parts: dict[str, Callable[[], list[Result]]] = {
        "costs": lambda: costs.run(args.rounds, args.size, args.threads),
        "determinism": lambda: determinism.run(args.size),
        "gradients": lambda: gradients.run(args.rounds, args.size, args.threads),
        "scalars": lambda: scalars.run(args.rounds, args.size, args.threads),
        "ablations": lambda: ablations.run(args.rounds, args.size, args.threads),
        "sae": lambda: sae.run(args.rounds, args.size, args.threads),
        "training": lambda: training.run(args.rounds, args.size, args.threads),
        "bridging": lambda: bridging.run(args.rounds, args.size, args.threads),
        "peers": lambda: peers.run(args.rounds, args.size, threads=args.threads, out=args.out),
        "memory": lambda: memory.run(args.size),
    }
    if args.no_peers:
        del parts["peers"], parts["memory"]
    results = [found for name in ([args.only] if args.only else parts) for found in parts[name]()]
    print()
    print(text_table(results))
    write(results, args.out, keep=bool(args.only))
    return 0 if args.size == "smallest" or all(r.holds for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
