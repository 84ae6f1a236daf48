"""`steerkit plugin`: what is installed."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="List plugins, and say why one does not load.", no_args_is_help=True)


@app.command("ls")
def ls(
    kind: Annotated[
        str | None,
        typer.Argument(help="steps, experiments, extractors, fitters, steerers, judges, ...; all when left out."),
    ] = None,
) -> None:
    """List plugins by kind: name, first line of its description, package. A broken one shows its reason."""
    from steerkit import registry
    from steerkit.errors import SteerkitError, nearest

    if kind is not None and kind not in registry.KINDS:
        raise SteerkitError(f"no kind of plugin is called {kind!r}; {nearest(kind, registry.KINDS)}")
    for each in [kind] if kind else registry.KINDS:
        typer.echo(each)
        for name in sorted(registry.entries(each)):
            try:
                cls = registry.get(each, name)
            except SteerkitError as error:
                typer.echo(f"  {name:<16} BROKEN  {error}")
                continue
            about = (cls.__doc__ or "").strip().splitlines()[0] if cls.__doc__ else ""
            typer.echo(f"  {name:<16} {about}  [{registry.versions(each, name)}]")
