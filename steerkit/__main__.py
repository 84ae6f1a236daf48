"""``python -m steerkit`` is the `steerkit` command."""

from steerkit.cli import main

main()
