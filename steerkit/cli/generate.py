"""`steerkit generate`: try a vector on a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steerkit.data.chats import Chat


def generate(
    model: Annotated[str, typer.Argument(help="Model to steer: `source:name`, a folder, a .gguf file or a hub id.")],
    vector: Annotated[Path, typer.Argument(help="Vector file, e.g. runs/NAME/vectors/….safetensors.")],
    prompt: Annotated[str, typer.Argument(help="Text of the prompt; - reads it from standard input.")],
    system: Annotated[str, typer.Option(help="Text of a system message before the prompt.")] = "",
    begin: Annotated[str, typer.Option(help="Text that the model's answer begins with; it is continued.")] = "",
    template_arg: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE (YAML) for the chat template, e.g. enable_thinking=false. Repeatable."),
    ] = None,
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
    device: Annotated[str, typer.Option(help="Where it runs: cpu, cuda, cuda:1, mps, xpu; auto finds a GPU.")] = "auto",
    device_map: Annotated[
        str | None, typer.Option(help="accelerate's placement over several devices: auto, ...")
    ] = None,
) -> None:
    """Print a prompt's unsteered text beside steered ones. All rows run in one batch, with the same noise."""
    import sys
    from typing import get_args

    from rich.columns import Columns
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    from steerkit import registry
    from steerkit.artifacts import PluginSpec
    from steerkit.data.chat_format import ChatFormat, in_words
    from steerkit.data.chats import identity
    from steerkit.data.tokens import decode
    from steerkit.data.trace import Prompt
    from steerkit.errors import SteerkitError, nearest
    from steerkit.generation.generation_config import sampling_of
    from steerkit.generation.sampling import Sampling
    from steerkit.generation.stream import GenerationRow
    from steerkit.generation.stream import generate as run
    from steerkit.interventions.steering import Tokens
    from steerkit.models.loading import load_model
    from steerkit.stats.noise import key_of
    from steerkit.vectors.steering_vector import SteeringVector

    if tokens not in get_args(Tokens):
        raise SteerkitError(f"--tokens {tokens}: {nearest(tokens, get_args(Tokens))}")
    if max_new_tokens < 1:
        raise SteerkitError("--max-new-tokens must be at least 1")
    sampling = Sampling.of(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    if model_sampling and sampling.model_fields_set:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in sampling.model_fields_set)
        raise SteerkitError(f"--model-sampling takes the model's own settings; leave {given} out")
    chat = _chat(sys.stdin.read() if prompt == "-" else prompt, system, begin)
    loaded = SteeringVector.load(vector)
    edit_by = registry.build("steerers", PluginSpec(name=steerer))
    lm = load_model(model, bf16=bf16, device=device, device_map=device_map)
    chats = ChatFormat(lm.tokenizer, arguments=_arguments(template_arg or ()))
    ids, key = chats.ids(chat), key_of(seed, identity(chat))
    strengths = [0.0, *(strength or [1.0])]
    rows = [
        GenerationRow(ids, key, (loaded.edit(lm, edit_by, s, layer=layer, tokens=tokens, key=key),) if s else ())  # type: ignore[arg-type]
        for s in strengths
    ]
    if model_sampling:
        sampling = sampling_of(getattr(lm.model, "generation_config", None), model)
    texts = run(lm, rows, max_new_tokens=max_new_tokens, **sampling.model_dump())
    console = Console(markup=False, emoji=False)
    if model_sampling:
        console.print(f"sampled with {sampling}, as the generation_config of {model} says", highlight=False)
    for line in in_words({"chats": chats.check([Prompt(id="the prompt", prompt=chat)])}):
        console.print(line, style="dim", highlight=False)
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


def _chat(prompt: str, system: str, begin: str) -> Chat:
    """The prompt as it was given, or as a chat. Raises: SteerkitError when one of its texts is empty or no text."""
    from steerkit.data.chats import parse_chat
    from steerkit.errors import SteerkitError

    turns = (("system", system), ("user", prompt), ("assistant", begin))
    messages = [{"role": role, "content": text} for role, text in turns if text or role == "user"]
    chat, wrong = parse_chat(messages if system or begin else prompt)
    if wrong:
        raise SteerkitError(f"the prompt{':' if wrong[0].startswith('message ') else ''} {wrong[0]}")
    return chat


def _arguments(assignments: Sequence[str]) -> dict[str, Any]:
    """Values read as in a recipe. Raises: InputError for one that is not NAME=VALUE."""
    from steerkit.errors import InputError, Problem
    from steerkit.recipe.document import Document

    document = Document()
    for assignment in assignments:
        document.set(assignment)
    if document.problems:
        problems = [Problem(p.where.replace("--set", "--template-arg"), p.message) for p in document.problems]
        raise InputError("--template-arg", problems)
    return document.data
