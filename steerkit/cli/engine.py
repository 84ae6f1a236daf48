"""`steerkit engine`: what generates texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from steerkit.generation.parity import Parity

app = typer.Typer(help="Inference engines that generate the texts.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command("check")
def check(
    model: Annotated[str, typer.Argument(help="Model to try: `source:name`, a folder or a hub id.")],
    engine: Annotated[str, typer.Option(help="Engine plugin that is compared with transformers.")] = "vllm",
    option: Annotated[
        list[str] | None, typer.Option("--set", help="Option of the engine: gpu_memory_utilization=0.3. Repeatable.")
    ] = None,
    strengths: Annotated[
        str, typer.Option(help="Shares of the activations' mean length, separated by commas; 0 is unsteered.")
    ] = "0,0.25,0.5,1,2",
    layer: Annotated[int | None, typer.Option(help="0-based block to steer; a third of the depth if left out.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate.")] = 24,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Largest allowed |difference of ln p|; 1e-3, with --bf16 0.25.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, help="Of the texts that are also sampled; 0 compares greedy texts alone.")
    ] = 0.7,
    top_k: Annotated[int | None, typer.Option(help="Sample them from this many of the likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample them from the likeliest tokens that have this probability together.")
    ] = 0.95,
    min_p: Annotated[
        float | None, typer.Option(help="Sample them from tokens at least this many times as likely as the likeliest.")
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="bfloat16 weights, as a run with bf16 has them.")] = False,
    trust_remote_code: Annotated[bool, typer.Option(help="Run Python code that the model brings along.")] = False,
) -> None:
    """Steer both engines alike: greedy tokens, their log-probabilities and steered positions; exit 1 if they differ.

    Sampled texts are compared draw by draw, noise and filters included. Strengths and prompts of unequal length are
    mixed in one batch. In bfloat16 two engines differ by rounding alone, unsteered too: check in float32 first.
    """
    from contextlib import closing

    from rich.console import Console

    from steerkit import registry
    from steerkit.artifacts import PluginSpec
    from steerkit.generation.parity import PROMPTS, check_rows, compare
    from steerkit.generation.sampled_parity import compare_sampled
    from steerkit.generation.sampling import Sampling
    from steerkit.models.models import load_models

    sampling = Sampling.of(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    shares = _numbers(strengths)
    runner = registry.build("engines", PluginSpec(name=engine, **_options(option or [])))
    models = load_models({"model": model}, bf16=bf16, trust_remote_code=trust_remote_code)
    lm = models["model"]
    block = lm.depth // 3 if layer is None else layer
    lm.check_layer(block, "--layer")
    limit = (0.25 if bf16 else 1e-3) if tolerance is None else tolerance
    names = ("residual-add", "gaussian-noise", "self-amplify")
    console = Console(markup=False, emoji=False)
    with closing(runner), console.status(f"{engine} starts with {model}, then both steer block {block}"):
        runner.start(models, {"bf16": bf16, "device_map": None, "trust_remote_code": trust_remote_code})
        steerers = {name: registry.get("steerers", name)() for name in names}
        rows = check_rows(lm, PROMPTS, shares, block, steerers)
        found = compare(lm, runner, "model", rows, max_new_tokens=max_new_tokens, tolerance=limit)
        if sampling.temperature:
            name, mixed = next(iter(rows.items()))
            found.append(
                compare_sampled(
                    lm,
                    runner,
                    "model",
                    mixed,
                    f"{name}; {sampling}",
                    sampling=sampling,
                    max_new_tokens=max_new_tokens,
                    tolerance=limit,
                )
            )
    console.print(f"{engine} against transformers: {model}, block {block}, {'bfloat16' if bf16 else 'float32'}")
    console.print(_table(found))
    failed = [parity.name for parity in found if not parity.passed]
    if failed:
        typer.echo(f"{engine} does not steer {model} as transformers does: {'; '.join(failed)}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{engine} steers {model} as transformers does")


def _table(found: list[Parity]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("steered by", "largest |Δ ln p|", "unsteered", "same texts", "positions", ""):
        table.add_column(heading, no_wrap=not heading.startswith("largest"))
    for parity in found:
        ties = f" ({parity.ties} to a tie)" if parity.ties else ""
        counts = "–" if parity.steered is None else f"{parity.steered}"
        counts += f", not {parity.expected}" if parity.steered != parity.expected else ""
        errors = ("–" if error is None else f"{error:.1e}" for error in (parity.error, parity.unsteered))
        table.add_row(
            parity.name, *errors, f"{parity.same}/{parity.rows}{ties}", counts, "pass" if parity.passed else "FAIL"
        )
    return table


def _numbers(text: str) -> list[float]:
    import math

    from steerkit.errors import SteerkitError

    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not any(found) or not all(map(math.isfinite, found)):
        raise SteerkitError(f"--strengths {text}: give numbers separated by commas, not all 0, as in 0,0.5,1")
    return found


def _options(given: list[str]) -> dict[str, object]:
    import yaml

    from steerkit.errors import SteerkitError

    found = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or name == "name":
            raise SteerkitError(f"--set {each}: give OPTION=VALUE, as in gpu_memory_utilization=0.3")
        found[name] = yaml.safe_load(value)
    return found
