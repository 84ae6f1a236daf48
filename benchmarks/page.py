"""Puts benchmarks/results.json and docs/growth.json into docs/benchmarks.md, between its markers.

python benchmarks/page.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from options import RESULTS

from steerkit.bench.measure import read
from steerkit.bench.table import markdown_table

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
GROWTH = PAGE.parent / "growth.json"


def growth_table(path: Path) -> str:
    """A line an axis."""
    lines = ["| what is doubled | sizes | slope | |", "| --- | --- | --- | --- |"]
    for name, own in json.loads(path.read_text()).items():
        lines.append(f"| {name} | {', '.join(map(str, own['sizes']))} | {own['slope']:.2f} | {own['how']} |")
    return "\n".join(lines)


def put(page: str, name: str, text: str) -> str:
    """The page with the text between its markers `<!-- NAME -->` and `<!-- end of NAME -->`."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, _, rest = page.partition(begin)
    return f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=PAGE, help="page to change")
    args = parser.parse_args()
    page = put(args.page.read_text(encoding="utf-8"), "results", markdown_table(read(RESULTS)))
    if GROWTH.is_file():
        page = put(page, "growth", growth_table(GROWTH))
    args.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
