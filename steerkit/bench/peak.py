"""Peak resident memory of this process from a moment on (Linux).

`ru_maxrss` can't tell: a child process inherits its parent's over fork and exec, and it is never reset.
"""

from __future__ import annotations

import re
from pathlib import Path

from steerkit.errors import SteerkitError

CLEAR = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
RESET_PEAK = "5"  # see proc_pid_clear_refs(5)


def begin_peak() -> int:
    """Forget what this process has held before; bytes that it holds now.

    Raises:
        SteerkitError: the system keeps no such figure, or doesn't let it be reset.
    """
    try:
        CLEAR.write_text(RESET_PEAK)
    except OSError as error:
        raise SteerkitError(
            f"peak memory can't be measured here: {CLEAR}: {error.strerror} (it takes Linux)"
        ) from error
    return peak()


def peak() -> int:
    """Bytes: the most that this process has held since `begin_peak`."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    if not found:
        raise SteerkitError(f"peak memory needs Linux to be measured: {STATUS} has no VmHWM")
    return int(found[1]) * 1024
