"""`steerkit recipe`: list, show, copy, check and run recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="List, show, copy, check and run recipes.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A recipe file, or a shipped recipe's name (see `steerkit recipe ls`).")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY.SUBKEY=VALUE",
        help="Change one setting; the value is YAML, quoted for the shell: --set 'strengths=[30, 60]'. Repeatable.",
    ),
]
Preset = Annotated[
    list[str] | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="Lay another recipe's own settings over this one: `paper` and `author-code` are two readings of the "
        "paper's method, `backtracking-llama-8b` its models. Repeatable, applied in order, before --set.",
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="WHAT",
        help="What the recipe may do that a stranger's should not: `plugins` (run plugin files outside its folder), "
        "`servers` (send texts and keys to servers that it names), `push` (upload vectors). Repeatable.",
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Where the recipe says so, run code that model repositories hold.")
]


@app.command("ls")
def ls() -> None:
    """List the shipped recipes."""
    from steerkit.recipe.find import shipped
    from steerkit.recipe.load import read_extended

    for path in shipped():
        about = " ".join(str(read_extended(str(path))[0].data.get("about", "")).split())
        typer.echo(f"{path.stem:<26} {about}")


@app.command()
def show(
    name: Name, changes: Set = None, presets: Preset = None, allow: Allow = None, trust_remote_code: Trust = False
) -> None:
    """Print a recipe with every default filled in and every setting explained."""
    from steerkit.recipe.find import find_recipe
    from steerkit.recipe.load import load_recipe
    from steerkit.recipe.show import resolved_yaml

    typer.echo(f"# {find_recipe(name)}")
    recipe = load_recipe(name, changes or (), presets or (), allow=allow or (), trust_remote_code=trust_remote_code)
    typer.echo(resolved_yaml(recipe, documented=True), nl=False)


@app.command()
def cp(
    name: Name,
    to: Annotated[Path | None, typer.Argument(help="File to write; the recipe's own name here when left out.")] = None,
) -> None:
    """Copy a recipe, to make it your own."""
    from steerkit.errors import SteerkitError
    from steerkit.recipe.find import find_recipe

    source = find_recipe(name)
    target = to or Path(source.name)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise SteerkitError(f"{target}: is there already; name another file")
    try:
        target.write_bytes(source.read_bytes())
    except OSError as error:
        raise SteerkitError(f"{target}: can't be written: {error.strerror}") from error
    typer.echo(f"{source} -> {target}")


@app.command()
def validate(
    name: Name, changes: Set = None, presets: Preset = None, allow: Allow = None, trust_remote_code: Trust = False
) -> None:
    """Check a recipe; name all its problems, each with file:line:column."""
    from steerkit.recipe.find import find_recipe
    from steerkit.recipe.load import load_recipe

    load_recipe(name, changes or (), presets or (), allow=allow or (), trust_remote_code=trust_remote_code)
    typer.echo(f"{find_recipe(name)}: valid")


@app.command()
def run(
    name: Name,
    changes: Set = None,
    presets: Preset = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; runs/NAME under the current folder when left out.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the plan: conditions, tokens, forward passes, memory, time.")
    ] = False,
    gpu: Annotated[
        str | None,
        typer.Option(help="With --dry-run: time and memory on this GPU (h100, a100-80gb, rtx4090, ...), not here."),
    ] = None,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="Redo in this folder what changed settings, plugin code, data files or models touch; keep the rest. "
            "With --dry-run: say which steps that are.",
        ),
    ] = False,
    executor: Annotated[
        str | None,
        typer.Option(
            help="Where large steps do their work: `local`, in this process, or `ray`, on a cluster's machines (on "
            "this one alone where no cluster is named). Options in braces: '{name: ray, workers: 4}'.",
        ),
    ] = None,
    allow: Allow = None,
    trust_remote_code: Trust = False,
) -> None:
    """Run a recipe. The same command resumes an interrupted run, and does nothing when it is done."""
    from rich.console import Console

    from steerkit.errors import SteerkitError
    from steerkit.recipe.find import find_recipe
    from steerkit.recipe.load import load_recipe

    console = Console(soft_wrap=True, markup=False, emoji=False)
    console.print(f"recipe {find_recipe(name)}", style="dim", highlight=False)
    settings = [*(changes or ())]
    settings += [f"output_dir={json.dumps(str(out))}"] if out else []
    settings += [f"executor={executor}"] if executor else []
    recipe = load_recipe(name, settings, presets or (), allow=allow or (), trust_remote_code=trust_remote_code)
    if gpu and not dry_run:
        raise SteerkitError("--gpu is for the plan: give --dry-run too")
    if dry_run:
        from steerkit.planning.hardware import find_gpu
        from steerkit.planning.plan import plan_text

        typer.echo(plan_text(recipe, find_gpu(gpu) if gpu else None))
        if update:
            from steerkit.planning.again import again_text

            typer.echo(again_text(recipe))
        return
    from steerkit.report import print_summary
    from steerkit.run import SteeringTrainer

    folder = SteeringTrainer.from_recipe(recipe, update=update).run()
    print_summary(folder, console)
    console.print(f"report {folder / 'report.html'}", highlight=False)
