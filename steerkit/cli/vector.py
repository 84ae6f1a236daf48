"""`steerkit vector`: look at vectors, compare them, and take them to other programs and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from steerkit.vectors.steering_vector import SteeringVector

app = typer.Typer(help="Look at steering vectors, compare, export, import and share them.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="A vector file, or a folder that save_pretrained wrote.")]
Strength = Annotated[float, typer.Option(help="Multiplier of the vector's own scale that goes into the file.")]


@app.command()
def show(file: File) -> None:
    """Print what a vector is, where it came from, and its norm at each layer."""
    from dataclasses import asdict

    import yaml

    from steerkit.vectors.steering_vector import SteeringVector

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
    from steerkit.vectors.steering_vector import SteeringVector

    a, b = SteeringVector.load(first), SteeringVector.load(second)
    typer.echo(f"a  {a!r}\nb  {b!r}\nlayer  cosine")
    for layer, cosine in a.cosine(b).items():
        typer.echo(f"{layer:>5}  {cosine:+.4f}")


@app.command()
def export(
    vector: File,
    to: Annotated[str, typer.Option("--to", help="Whose file: gguf (llama.cpp, repeng) or lm-eval.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write; lm-eval's ends in .pt.")],
    strength: Strength = 1.0,
    layers: Annotated[
        str | None,
        typer.Option(
            help="0-based blocks that are steered, all at once: 10, 8-12, 8,10 or all; the only one is known."
        ),
    ] = None,
    model_hint: Annotated[str | None, typer.Option(help="gguf: the model's architecture, for people: llama.")] = None,
    hookpoint: Annotated[
        str, typer.Option(help="lm-eval: a block's module below the model's base_model; h.{layer} for GPT-2.")
    ] = "layers.{layer}",
) -> None:
    """Write a vector for llama.cpp, repeng or lm-evaluation-harness."""
    from steerkit.errors import SteerkitError, nearest
    from steerkit.vectors.formats.gguf import export_gguf
    from steerkit.vectors.formats.lm_eval import export_lm_eval
    from steerkit.vectors.steering_vector import SteeringVector

    if to not in ("gguf", "lm-eval"):
        raise SteerkitError(f"--to {to}: {nearest(to, ('gguf', 'lm-eval'))}")
    loaded = SteeringVector.load(vector)
    chosen = _layers(layers, loaded)
    if to == "gguf":
        export_gguf(loaded, out, layers=chosen, strength=strength, model_hint=model_hint)
        typer.echo(f"{vector} -> {out}; use: llama-cli -m MODEL.gguf --control-vector-scaled {out}:1")
    else:
        export_lm_eval(loaded, out, layers=chosen, strength=strength, hookpoint=hookpoint)
        arguments = f"pretrained={loaded.info.model or 'MODEL'},steer_path={out}"
        typer.echo(f"{vector} -> {out}; use: lm_eval --model steered --model_args {arguments} --tasks ...")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A GGUF control vector of llama.cpp, repeng or steerkit.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Vector file to write.")],
    model: Annotated[str | None, typer.Option(help="Model it is for: its width and depth are checked.")] = None,
    label: Annotated[str | None, typer.Option(help="What it is a direction of; the file's name when left out.")] = None,
) -> None:
    """Read a GGUF control vector into a vector file. Strength 1 adds it as it is in the file."""
    from steerkit.vectors.formats.gguf import import_gguf

    vector = import_gguf(file, label=label, model=model)
    vector.save(out)
    typer.echo(f"{file} -> {out}\n{vector!r}")


@app.command()
def push(
    vector: File,
    repo_id: Annotated[str, typer.Argument(help="USER/NAME on the Hugging Face hub; made when it isn't there.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    branch: Annotated[str | None, typer.Option(help="Branch to push to; main when left out.")] = None,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload steering vector",
) -> None:
    """Upload a vector with its model card. The token is the one of `hf auth login`, or HF_TOKEN."""
    from steerkit.vectors.steering_vector import SteeringVector

    loaded = SteeringVector.load(vector)
    url = loaded.push_to_hub(repo_id, private=private or None, branch=branch, commit_message=message)
    typer.echo(f"{vector} -> {url}")


def _layers(text: str | None, vector: SteeringVector) -> list[int] | None:
    """Layers of ``10``, ``8-12``, ``8,10`` or ``all``."""
    import re

    from steerkit.errors import SteerkitError

    if text is None:
        return None
    if text == "all":
        return list(vector.layers)
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if match is None:
            raise SteerkitError(f"--layers {text}: {part!r} is no layer; write 10, 8-12, 8,10 or all")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found
