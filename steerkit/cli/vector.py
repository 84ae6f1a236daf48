"""`steerkit vector`: look at vectors, compare them, and take them to other programs and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from steerkit.vector import SteeringVector

app = typer.Typer(help="Look at steering vectors, compare, export, import and share them.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="A vector file, or a folder that save_pretrained wrote.")]
Strength = Annotated[float, typer.Option(help="Multiplier of the vector's own scale that goes into the file.")]


@app.command()
def show(file: File) -> None:
    """Print what a vector is, where it came from, and its norm at each layer."""
    from dataclasses import asdict

    import yaml

    from steerkit.vector import SteeringVector

    vector = SteeringVector.load(file)
    typer.echo(repr(vector))
    info = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(vector.info).items()}
    typer.echo(yaml.safe_dump(info, sort_keys=False, allow_unicode=True).rstrip())
    typer.echo("layer  norm      strength 1 adds  norm of the source's mean activation")
    for layer in vector.layers:
        mean = f"{float(vector.means[layer].norm()):.4g}" if layer in vector.means else "not saved"
        length = float(vector.direction(layer).norm())
        typer.echo(f"{layer:>5}  {length:<8.4g}  {vector.norm(layer):<15.4g}  {mean}")


@app.command()
def compare(first: File, second: File) -> None:
    """Print the cosine of two vectors at every layer they share."""
    from steerkit.vector import SteeringVector

    a, b = SteeringVector.load(first), SteeringVector.load(second)
    typer.echo(f"a  {a!r}\nb  {b!r}\nlayer  cosine")
    for layer, cosine in a.cosine(b).items():
        typer.echo(f"{layer:>5}  {cosine:+.4f}")


@app.command()
def push(
    vector: File,
    repo_id: Annotated[str, typer.Argument(help="USER/NAME on the Hugging Face hub; made when it isn't there.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    branch: Annotated[str | None, typer.Option(help="Branch to push to; main when left out.")] = None,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload steering vector",
) -> None:
    """Upload a vector with its model card. The token is the one of `hf auth login`, or HF_TOKEN."""
    from steerkit.vector import SteeringVector

    loaded = SteeringVector.load(vector)
    url = loaded.push_to_hub(repo_id, private=private or None, branch=branch, commit_message=message)
    typer.echo(f"{vector} -> {url}")
