"""`steerkit vector`: look at vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at steering vectors and compare them.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="A vector file, or a folder that save_pretrained wrote.")]


@app.command()
def show(file: File) -> None:
    """Print what a vector is, where it came from, and its norm at each layer."""
    import yaml

    from steerkit.vector import SteeringVector

    vector = SteeringVector.load(file)
    typer.echo(repr(vector))
    from dataclasses import asdict

    info = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(vector.info).items()}
    typer.echo(yaml.safe_dump(info, sort_keys=False, allow_unicode=True).rstrip())
    typer.echo("layer  norm      strength 1 adds")
    for layer in vector.layers:
        typer.echo(f"{layer:>5}  {float(vector.direction(layer).norm()):<8.4g}  {vector.norm(layer):.4g}")


@app.command()
def compare(first: File, second: File) -> None:
    """Print the cosine of two vectors at every layer they share."""
    from steerkit.vector import SteeringVector

    a, b = SteeringVector.load(first), SteeringVector.load(second)
    typer.echo(f"a  {a!r}\nb  {b!r}\nlayer  cosine")
    for layer, cosine in a.cosine(b).items():
        typer.echo(f"{layer:>5}  {cosine:+.4f}")
