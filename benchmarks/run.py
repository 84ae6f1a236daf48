"""All benchmarks that need nothing but the package: `python benchmarks/run.py [--rounds 7]`, a few minutes.

Prints the ratios beside their goals and writes them to benchmarks/results.json. benchmarks/smollm2.py, which
needs a downloaded model and data, runs on its own.
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import costs
import determinism
from measure import show, write


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="at least 5")
    args = parser.parse_args()
    results = [*costs.run(args.rounds), *determinism.run()]
    print()
    show(results)
    write(results)
    return 0 if all(r.holds for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
