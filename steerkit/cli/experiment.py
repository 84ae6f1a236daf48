"""`steerkit experiment`: what a recipe can ask."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="List experiments, and show what one asks and its options.", no_args_is_help=True)

Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugins", metavar="FILE", help="Load a local Python file's experiments first. Repeatable."),
]


@app.command("ls")
def ls(plugins: Plugins = None) -> None:
    """List experiments: name and question."""
    from steerkit import registry
    from steerkit.errors import SteerkitError

    _load(plugins)
    for name in sorted(registry.entries("experiments")):
        try:
            about = (registry.get("experiments", name).__doc__ or "").strip().splitlines()
        except SteerkitError as error:
            about = [f"BROKEN  {error}"]
        typer.echo(f"{name:<16} {about[0] if about else ''}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="An experiment (see `steerkit experiment ls`).")], plugins: Plugins = None
) -> None:
    """Print an experiment's question, its options with defaults, and how a recipe runs it."""
    from steerkit import registry
    from steerkit.errors import SteerkitError, nearest

    _load(plugins)
    if name not in registry.entries("experiments"):
        known = nearest(name, list(registry.entries("experiments")))
        raise SteerkitError(f"no experiment is called {name!r}; {known}; one of your own: --plugins FILE")
    cls = registry.get("experiments", name)
    typer.echo("\n".join(line.strip() for line in (cls.__doc__ or "").strip().splitlines()))
    typer.echo(f"\nfrom {registry.versions('experiments', name)}; texts on the {cls.split!r} prompts")
    groups = ", ".join(group.__name__ for group in cls.uses)
    typer.echo(f"shared settings that it reads: {groups or 'none'}")
    typer.echo(f"\nexperiments: [{name}]\n{name}:" + ("" if cls.Config.model_fields else " {}"))
    for field, info in cls.Config.model_fields.items():
        for line in (info.description or "").splitlines():
            typer.echo(f"  # {line.strip()}")
        typer.echo(f"  {field}: {_default(info)}")


def _default(info: object) -> str:
    from pydantic.fields import FieldInfo

    from steerkit.recipe.document import dump
    from steerkit.store.identity import plain

    assert isinstance(info, FieldInfo)
    if info.is_required():
        return "# required"
    return dump(plain(info.get_default(call_default_factory=True)), default_flow_style=True).split("\n...")[0].strip()


def _load(plugins: list[str] | None) -> None:
    from pathlib import Path

    from steerkit import registry

    for file in plugins or ():
        registry.load_file(Path(file))
