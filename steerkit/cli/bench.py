"""`steerkit bench`: what steering costs on this machine and model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    model: Annotated[
        str | None, typer.Argument(help="Model to measure on; the one that writes the recipe's traces when left out.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Recipe whose extractor, steerer and sampling are measured.")
    ] = "backtracking",
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="64 traces of 500 tokens; 8 prompts × 48 conditions × 64 tokens. Takes long on a CPU."
        ),
    ] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of every comparison; 5, with --full 7, when left out.")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 measures which count is fastest.")] = 0,
    bf16: Annotated[bool, typer.Option("--bf16", help="bfloat16 weights.")] = False,
    device: Annotated[str, typer.Option(help="Where it runs: cpu, cuda, cuda:1, mps, xpu; auto finds a GPU.")] = "auto",
    device_map: Annotated[
        str | None, typer.Option(help="accelerate's placement over several devices: auto, ...")
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Where the recipe says so, run code that model repositories hold."),
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Also write the results to this JSON file.")] = None,
) -> None:
    """Measure steerkit against the model's own arithmetic, in turns: ratios with their intervals.

    Extraction against a padded forward, a steered sweep against unsteered `model.generate` at its best batch size
    (rows of equal and of unequal length) and against one prompt at a time, and the steering hook's cost a decode
    step. Exit code 0 also where a goal isn't met.
    """
    from dataclasses import replace

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from steerkit import registry
    from steerkit.bench.costs import run_all, ticks
    from steerkit.bench.measure import machine, settle, write
    from steerkit.bench.sizes import FULL, Sizes
    from steerkit.bench.table import text_table
    from steerkit.context import Settings
    from steerkit.generation.generation_config import sampling_with
    from steerkit.models.loading import load_model
    from steerkit.models.models import Models
    from steerkit.models.threads import fastest_thread_count
    from steerkit.recipe.load import load_recipe
    from steerkit.settings import Generating, Reading, Steering

    args = load_recipe(recipe, trust_remote_code=trust_remote_code)
    settings = Settings(args.shared)
    writer = args.models[Models(args.models, args.writer).writer]
    lm = load_model(
        model or writer.weights,
        adapter=None if model else writer.adapter,
        bf16=bf16,
        device=device,
        device_map=device_map,
        trust_remote_code=args.trust_remote_code,
    )
    sampling = sampling_with(settings.group(Generating), lm)
    extractor = registry.build("extractors", settings.group(Reading).extractor)
    steerer = registry.build("steerers", settings.group(Steering).steerer)
    sizes = FULL if full else Sizes()
    if rounds:
        sizes = replace(sizes, rounds=rounds)
    settle(threads or fastest_thread_count(lm.width, max(sizes.batch_sizes), lm.device))
    typer.echo(
        f"{lm.name}: {lm.depth} blocks × {lm.width}, {lm.model.num_parameters() / 1e6:,.1f} M parameters; "
        f"{machine(lm.device)}"
    )
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=ticks(sizes))
        results = run_all(lm, extractor, steerer, sampling, sizes, lambda: bar.advance(task))
    typer.echo(text_table(results))
    if out:
        write(results, out)
        typer.echo(f"results {out}")
