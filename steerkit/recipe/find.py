"""Recipes found by path or name: a local file first, then a shipped one."""

from __future__ import annotations

from pathlib import Path

from steerkit.errors import SteerkitError, nearest


def shipped_folder() -> Path:
    """Recipes that come with the package: in the wheel, or beside the package in a checkout."""
    inside = Path(__file__).parent.parent / "_recipes"
    return inside if inside.is_dir() else Path(__file__).parent.parent.parent / "recipes"


def shipped() -> list[Path]:
    """Recipe files that come with the package."""
    return sorted(shipped_folder().glob("*.yaml"))


def find_recipe(name: str) -> Path:
    """A recipe by path or name: a local file first, then a shipped one, with or without ``.yaml``.

    Raises:
        SteerkitError: there is none, with the nearest name.
    """
    places = [Path(name), Path(f"{name}.yaml"), shipped_folder() / name, shipped_folder() / f"{name}.yaml"]
    for path in places:
        if is_file(path):
            return path
    if is_file(Path(name) / "recipe.yaml"):
        raise SteerkitError(
            f"{name}: is the folder of a run, not a recipe; {Path(name) / 'recipe.yaml'} is the recipe as it was run"
        )
    raise SteerkitError(
        f"{name}: no such recipe, neither a file here nor a shipped one; "
        + nearest(name.removesuffix(".yaml"), [path.stem for path in shipped()])
    )


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def find_preset(name: str) -> Path:
    """A recipe whose settings are laid over another's: ``preset-NAME``, or any recipe.

    Raises:
        SteerkitError: there is none, with the nearest name.
    """
    try:
        return find_recipe(f"preset-{name}")
    except SteerkitError:
        return find_recipe(name)
