"""The Hugging Face hub: its many errors in words, and names that it accepts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steerkit.errors import SteerkitError


@contextmanager
def explained(repo: str, done: str) -> Iterator[None]:
    """Turn what goes wrong between here and the hub into one plain message.

    Args:
        repo: the repository.
        done: what was to happen to it: `uploaded`, `downloaded`.

    Raises:
        SteerkitError: what happened, and the way out.
    """
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        yield
    except (HTTPError, OSError, HFValidationError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        first = lines[0] if lines else type(error).__name__
        said = getattr(error, "server_message", None)
        reason = f"{first} {said}" if said and said not in first else first
        raise SteerkitError(f"{repo}: can't be {done}: {reason}\n  {_way_out(error)}") from error


def _way_out(error: Exception) -> str:
    from huggingface_hub.errors import HFValidationError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        return "HF_HUB_OFFLINE is set: unset it, or name a folder or file that is here"
    if isinstance(error, HFValidationError):
        return "a repository is called USER/NAME, of letters, digits and single -, _ or . between them"
    if status in (401, 403, 404):
        return "check the spelling, and that `hf auth login` (or HF_TOKEN) gave a token that may do this"
    return "check the network, and give the same command again; what is on this machine is as it was"


def is_hub_id(name: str) -> bool:
    """Whether a model's name is one on the hub, not a folder or file here."""
    return (
        re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None
        and not name.endswith(".gguf")
        and not Path(name).exists()
    )


def repo_for(prefix: str, file: str) -> str:
    """Repository of one of a run's vectors: ``-13..-8`` can't be in the hub's names."""
    stem = re.sub(r"(?<=\.)-(?=\d)", "minus", file.removesuffix(".safetensors"))
    return f"{prefix}-{re.sub(r'[^A-Za-z0-9_]+', '-', stem)}"
