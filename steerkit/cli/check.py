"""`steerkit check`: does steering do on this model what it says?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check(
    model: Annotated[
        str | None, typer.Argument(help="Model to check: `source:name`, a folder, a .gguf file or a hub id.")
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="Folder or hub id of a PEFT adapter to put on it.")] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="bfloat16 weights.")] = False,
    device: Annotated[str, typer.Option(help="Where it runs: cpu, cuda, cuda:1, mps, xpu; auto finds a GPU.")] = "auto",
    device_map: Annotated[
        str | None, typer.Option(help="accelerate's placement over several devices: auto, ...")
    ] = None,
    attn_implementation: Annotated[
        str | None, typer.Option(help="transformers' attention: sdpa, flash_attention_2, eager, ...")
    ] = None,
    torch_compile: Annotated[
        bool, typer.Option("--torch-compile", help="Compile the blocks' feed-forward parts.")
    ] = False,
    layers: Annotated[
        str | None, typer.Option(help="0-based blocks to steer: 0,5 or 3-8; the first, third and last by default.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=2, help="Prompts of random tokens, of unequal lengths.")] = 4,
    seed: Annotated[int, typer.Option(help="Of prompts, directions and rounding noise.")] = 0,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for all figures.")] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Print what each check compares and what a failure means, and leave.")
    ] = False,
) -> None:
    """Measure on your own model that steering and reading do what they say: hooks, padding, caches, batches, adapters.

    Prints a table of pass and fail with the size of each error; ends with exit code 1 when a check fails.
    """
    import json
    import logging
    from functools import partial

    from steerkit.errors import SteerkitError

    if list_:
        from steerkit.checks.report import as_markdown

        typer.echo(as_markdown())
        return
    if model is None:
        raise SteerkitError("name a model to check: steerkit check MODEL")
    chosen = None if layers is None else _layers(layers)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from transformers.utils import logging as hf_logging

    from steerkit.checks.probe import make_probe
    from steerkit.checks.report import as_json, as_text, facts
    from steerkit.checks.suite import CHECKS, run_checks
    from steerkit.models.loading import load_model
    from steerkit.models.supported import refuse
    from steerkit.store.files import atomic

    hf_logging.set_verbosity_error()  # hints on generation settings that a check sets on purpose
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    load = partial(
        load_model,
        model,
        adapter=adapter,
        bf16=bf16,
        device=device,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
        attn_implementation=attn_implementation,
        torch_compile=torch_compile,
    )
    lm = load()
    refuse(lm)
    probe = make_probe(lm, chosen, prompts=prompts, seed=seed, placed=device_map is not None, again=load)
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("fingerprint", total=len(CHECKS))
        known = facts(probe)
        outcomes = run_checks(
            probe, on_check=lambda number, each: bar.update(task, completed=number, description=each.name)
        )
    typer.echo(as_text(known, outcomes))
    if json_file:
        with atomic(json_file) as temporary:
            temporary.write_text(json.dumps(as_json(known, outcomes), indent=1) + "\n", encoding="utf-8")
    if any(outcome.passed is False for outcome in outcomes):
        raise typer.Exit(1)


def _layers(text: str) -> list[int]:
    """Blocks of ``0,5`` or ``3-8``.

    Raises:
        SteerkitError: a part is neither a number nor a range.
    """
    import re

    from steerkit.errors import SteerkitError

    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part)
        if match is None:
            raise SteerkitError(f"--layers {text}: {part!r} is no block; write 0,5 or 3-8")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found
