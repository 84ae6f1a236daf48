"""`steerkit generate`: try a vector on a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def generate(
    model: Annotated[str, typer.Argument(help="Model to steer: `source:name`, a folder, a .gguf file or a hub id.")],
    vector: Annotated[Path, typer.Argument(help="Vector file, e.g. runs/NAME/vectors/….safetensors.")],
    prompt: Annotated[str, typer.Argument(help="Text of the prompt; - reads it from standard input.")],
    strength: Annotated[
        list[float] | None, typer.Option("--strength", "-s", help="Multiplier of the vector's scale. Repeatable.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="0-based block to steer; needed when the vector has several.")
    ] = None,
    tokens: Annotated[str, typer.Option(help="Which tokens are steered: all, prompt or generated.")] = "all",
    steerer: Annotated[str, typer.Option(help="Steerer plugin that uses the vector.")] = "residual-add",
    temperature: Annotated[
        float | None, typer.Option(help="Of the sampling; 0 is greedy, 0.7 when left out.", show_default=False)
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from this many of the likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the likeliest tokens that have this probability together.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Sample from tokens at least this many times as likely as the likeliest.")
    ] = None,
    model_sampling: Annotated[
        bool, typer.Option("--model-sampling", help="Take these four from the model's own generation_config.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the sampling; shared by all texts, so that they are paired.")] = 0,
    bf16: Annotated[bool, typer.Option("--bf16", help="bfloat16 weights.")] = False,
    device_map: Annotated[str | None, typer.Option(help="accelerate's placement: auto, cpu, ...")] = None,
) -> None:
    """Print a prompt's unsteered text beside steered ones. All rows run in one batch, with the same noise."""
    import sys
    from typing import get_args

    from rich.columns import Columns
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    from steerkit import registry
    from steerkit.errors import SteerkitError, nearest
    from steerkit.generation import GenerationRow
    from steerkit.generation import generate as run
    from steerkit.generation_config import sampling_of
    from steerkit.loading import load_model
    from steerkit.noise import key_of
    from steerkit.sampling import Sampling
    from steerkit.steering import Tokens
    from steerkit.tokens import decode, format_prompt
    from steerkit.vector import SteeringVector

    if tokens not in get_args(Tokens):
        raise SteerkitError(f"--tokens {tokens}: {nearest(tokens, get_args(Tokens))}")
    if max_new_tokens < 1:
        raise SteerkitError("--max-new-tokens must be at least 1")
    sampling = Sampling.of(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    if model_sampling and sampling.model_fields_set:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in sampling.model_fields_set)
        raise SteerkitError(f"--model-sampling takes the model's own settings; leave {given} out")
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise SteerkitError("the prompt is empty")
    loaded = SteeringVector.load(vector)
    edit_by = registry.get("steerers", steerer)()
    lm = load_model(model, bf16=bf16, device_map=device_map)
    ids, key = format_prompt(lm.tokenizer, text), key_of(seed, text)
    strengths = [0.0, *(strength or [1.0])]
    rows = [
        GenerationRow(ids, key, loaded.edit(lm, edit_by, s, layer=layer, tokens=tokens, key=key) if s else None)  # type: ignore[arg-type]
        for s in strengths
    ]
    if model_sampling:
        sampling = sampling_of(getattr(lm.model, "generation_config", None), model)
    texts = run(lm, rows, max_new_tokens=max_new_tokens, **sampling.model_dump())
    console = Console(markup=False, emoji=False)
    if model_sampling:
        console.print(f"sampled with {sampling}, as the generation_config of {model} says", highlight=False)
    width = max(30, console.width // min(len(texts), 3) - 2)
    console.print(
        Columns(
            Panel(Text(decode(lm.tokenizer, t.ids)), title="unsteered" if not s else f"strength {s:g}", width=width)
            for s, t in zip(strengths, texts, strict=True)
        )
    )
    broken = [f"strength {s:g}: {t.broken}" for s, t in zip(strengths, texts, strict=True) if t.broken]
    if broken:
        raise SteerkitError("\n  ".join([f"{lm.name}: texts that broke off (lower the strength):", *broken]))
