"""All benchmarks: `python benchmarks/run.py [--rounds 7] [--quick] [--no-peers]`.

Prints the ratios beside their goals and writes them to benchmarks/results.json; benchmarks/table.py makes the
table in the docs of them. Peers (benchmarks/peers.py) are measured where they are installed. benchmarks/smollm2.py,
which needs a downloaded model and data, and benchmarks/growth.py, which draws, run on their own.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import costs
import determinism

from steerkit.bench.measure import write
from steerkit.bench.table import text_table

RESULTS = Path(__file__).parent / "results.json"
PEERS = ("steering_vectors", "repeng", "nnsight")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="at least 5")
    parser.add_argument("--quick", action="store_true", help="small sizes; preliminary figures in minutes")
    parser.add_argument("--no-peers", action="store_true", help="leave other libraries out")
    args = parser.parse_args()
    missing = [name for name in PEERS if find_spec(name) is None]
    results = [*costs.run(args.rounds, quick=args.quick), *determinism.run()]
    if missing:
        print(f"not compared with others: {', '.join(missing)} not installed (benchmarks/requirements.txt)")
    elif not args.no_peers:
        import memory
        import peers

        results += peers.run(args.rounds, quick=args.quick)
        results += memory.run(16, 6) if args.quick else memory.run()
    print()
    print(text_table(results))
    write(results, RESULTS)
    return 0 if all(r.holds for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
