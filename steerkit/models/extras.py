"""Optional packages: imported where used, and the exact command to type when one is missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from steerkit.errors import SteerkitError


def need(module: str, package: str, what: str) -> ModuleType:
    """Import an optional package's module.

    Args:
        module: name to import.
        package: what pip calls it, version included.
        what: what needs it, in words that a sentence can begin with.

    Raises:
        SteerkitError: it is not installed; says the pip command.
    """
    try:
        return import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]
        wanted = package if missing == module.partition(".")[0] else missing
        raise SteerkitError(f"{what} needs a package: pip install '{wanted}'") from error
