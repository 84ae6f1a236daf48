"""What a recipe may not do on its own word, as it may be a stranger's: each needs a flag, or to be named by the user.

A recipe can choose which models and prompts are read, and how long a run takes. Without the user's word it can't run
code (but plugin files in its own folder), write outside the current folder, choose who gets the run's texts and keys,
or upload anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from steerkit import registry
from steerkit.errors import Problem, SteerkitError, nearest, redacted
from steerkit.interfaces import Config, Judge
from steerkit.recipe.document import Document, Key

ALLOWED = {
    "plugins": "run plugin files outside the recipe's folder",
    "servers": "send texts and keys to the servers that the recipe names",
    "push": "upload vectors where the recipe says",
}
"""What a user can allow a recipe, and what it means."""


def check_allowed(allow: Collection[str]) -> None:
    """Raises: SteerkitError when something is allowed that doesn't exist."""
    for word in allow:
        if word not in ALLOWED:
            raise SteerkitError(f"--allow {word}: {nearest(word, list(ALLOWED))}")


def unconfirmed(document: Document, allow: Collection[str], trust_remote_code: bool) -> Iterator[Problem]:
    """What the recipe asks for and the user has not confirmed, plugins' options aside."""
    data = document.data
    if data.get("trust_remote_code") is True and not trust_remote_code:
        why = "runs Python code that the models' repositories bring along"
        yield _problem(document, ("trust_remote_code",), why, "--trust-remote-code")
    if data.get("push_to_hub") is True and not document.is_given(("push_to_hub",)) and "push" not in allow:
        yield _problem(document, ("push_to_hub",), "uploads vectors in your name", "--allow push")
    if not document.is_given(("output_dir",)) and isinstance(folder := data.get("output_dir"), str):
        yield from _written(document, ("output_dir",), folder, f"--out {folder}")


def unconfirmed_options(
    document: Document, path: Key, options: dict[str, Any], config: Config, allow: Collection[str]
) -> Iterator[Problem]:
    """The same of a plugin's options."""
    for name in sorted(config.writes & set(options)):
        key = (*path, name)
        if isinstance(options[name], str) and not document.is_given(key):
            yield from _written(document, key, options[name], f"--set {'.'.join(map(str, key))}={options[name]}")
    own = [name for name in sorted(config.outward & set(options)) if not document.is_given((*path, name))]
    if own and "servers" not in allow and (said := config.asks()):
        yield _problem(document, (*path, own[-1]), said, "--allow servers")


def load_plugin_files(document: Document, folder: Path, allow: Collection[str]) -> Iterator[Problem]:
    """Run the plugin files that the recipe names and may.

    Args:
        folder: what paths from the command line are relative to; those of a recipe are to its own.
    """
    files = document.data.get("plugins")
    for index, file in enumerate(files if isinstance(files, list) else []):
        key = ("plugins", index)
        own = document.is_given(key)
        home = folder if own else document.folders.get("plugins", folder)
        try:
            path = (home / str(file)).resolve()
            if own or "plugins" in allow or path.is_relative_to(home.resolve()):
                registry.load_file(path)
            else:
                why = f"{file!r} is outside the recipe's folder ({home.resolve()}), and would be run"
                yield _problem(document, key, why, "--allow plugins")
        except SteerkitError as error:
            yield Problem(document.place(key), str(error))
        except (OSError, ValueError, RuntimeError) as error:  # too long a name, a NUL, a loop of links
            yield Problem(document.place(key), f"{str(file)[:80]!r} is no path of a file ({error})")


def refuse_asking(judge: Judge, texts: Sequence[str], where: Path) -> None:
    """For judges that a run folder names: it may be a stranger's, whose server would get the texts and a key.

    Raises:
        SteerkitError: the judge would ask a server that the folder chose.
    """
    said = judge.config.asks()
    if said and any(judge.estimate(texts).values()):
        raise SteerkitError(f"{where}: its judge is not asked: {said}; run the recipe, which keeps all answers")


def secrets(document: Document) -> Iterator[Problem]:
    """Texts that look like keys or passwords: a recipe is copied to its run's folder and into the report."""
    for key, text in _texts(document.data, ()):
        if redacted(text) != text:
            fix = "take it out; keys come from environment variables, or `hf auth login`"
            yield Problem(document.place(key), f"{'.'.join(map(str, key))!r} holds a key or a password", fix)


def _texts(value: Any, key: Key) -> Iterator[tuple[Key, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, (*key, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*key, index))


def _written(document: Document, key: Key, folder: str, fix: str) -> Iterator[Problem]:
    here = Path.cwd().resolve()
    try:
        inside = here in (here / folder).resolve().parents and ".." not in Path(folder).parts
    except (OSError, ValueError, RuntimeError):
        inside = False
    if not inside:
        why = f"{'.'.join(map(str, key))!r} is {folder[:80]!r}, which does not lie below the current folder"
        yield Problem(document.place(key), why, f"if that is where you want it, say so: {fix[:120]}")


def _problem(document: Document, key: Key, why: str, flag: str) -> Problem:
    return Problem(document.place(key), f"the recipe {why}", f"if you trust it, give {flag}")
