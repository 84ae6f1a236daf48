"""Where a local plugin's own code failed: its author needs the line, and not the core's frames above it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from steerkit.code.local_modules import is_local, local_files
from steerkit.errors import SteerkitError


@contextmanager
def explained(title: str, modules: Sequence[str]) -> Iterator[None]:
    """Say where a local plugin failed.

    Args:
        title: of the step.
        modules: of the step, and of what it runs.

    Raises:
        SteerkitError: the file, the line, and the error there; others are raised as they are.
    """
    files = {str(path) for name in modules if is_local(name) for path in local_files(name).values()}
    try:
        yield
    except SteerkitError:
        raise
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
        if not frames and files and "serializ" in str(error):
            raise SteerkitError(
                f"{title}: what it gave is not JSON ({error}); give plain numbers, texts, lists and mappings, or "
                "define how it is saved and loaded"
            ) from error
        if not frames:
            raise
        line = frames[-1]
        raise SteerkitError(
            f"{line.filename}:{line.lineno}: {title} failed in {line.name}(): {type(error).__name__}: {error}\n"
            f"    {line.line}\n  What was done before is kept; mend it and give the same command again"
        ) from error
