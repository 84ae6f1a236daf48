"""Where models run: the device that accelerate would take, or the one that is named; what it has and can do.

`accelerate.PartialState` itself is not made here: under torchrun it would join all ranks in a process group.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PATTERN = r"[a-z]+(:\d+)?"
"""What `device` may be: `auto`, or torch's name of a device."""


def found_device() -> torch.device:
    """The device that accelerate finds: what a script under accelerate has, else this machine's accelerator or CPU.

    ACCELERATE_USE_CPU keeps to the CPU.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    if PartialState._shared_state:  # somebody made one
        device: torch.device = PartialState().device
        return device
    kind = None if parse_flag_from_env("ACCELERATE_USE_CPU") else _accelerator()
    return torch.device(kind or "cpu")


def choose_device(wanted: str = "auto") -> torch.device:
    """The device of a name, `auto` for the one that is found.

    Raises:
        SteerkitError: there is no such device here.
    """
    import torch

    if wanted == "auto":
        return found_device()
    found = found_device()
    here = f"torch {torch.__version__} finds {'no accelerator' if found.type == 'cpu' else found.type} on this machine"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise SteerkitError(f"device: {wanted!r} is no device that torch knows; {here}") from error
    if device.type == "cpu":
        return device
    if device.type != _accelerator():
        raise SteerkitError(f"device: {wanted}: {here}; leave `device` out, or use cpu")
    if device.index is not None and device.index >= count(device):
        raise SteerkitError(f"device: {wanted}: there are {count(device)} here, numbered from 0")
    return device


def count(device: torch.device) -> int:
    """How many devices of this kind there are."""
    import torch

    return 1 if device.type == "cpu" else int(torch.accelerator.device_count())


def take(device: torch.device, index: int) -> None:
    """Make one of several devices of a kind this process's own."""
    if count(device) > 1:
        _module(device).set_device(index % count(device))


def synchronize() -> None:
    """Wait until this machine's accelerator, if there is one, has done its work."""
    import torch

    if _accelerator():
        torch.accelerator.synchronize()


def memory(device: torch.device) -> tuple[int, int]:
    """Bytes that are free, and in all, on a device; the machine's where the device's library doesn't tell."""
    import psutil

    module: Any = None if device.type == "cpu" else _module(device)
    if hasattr(module, "mem_get_info"):
        free, total = module.mem_get_info(device)
        return int(free), int(total)
    if hasattr(module, "recommended_max_memory"):  # Metal's
        total = int(module.recommended_max_memory())
        return max(total - int(module.driver_allocated_memory()), 0), total
    told = psutil.virtual_memory()
    return int(told.available), int(told.total)


def empty_cache() -> None:
    """Give memory that torch keeps back to this machine's accelerator, if there is one."""
    import torch

    kind = _accelerator()
    module: Any = _module(torch.device(kind)) if kind else None
    if hasattr(module, "empty_cache"):
        module.empty_cache()


def name_of(device: torch.device) -> str:
    """What the maker calls a device; its kind where that is not known."""
    told = getattr(_module(device), "get_device_name", None) if device.type != "cpu" else None
    return str(told(device)) if told else device.type


@cache
def has_float64(kind: str) -> bool:
    """Whether devices of a kind (`mps`) compute in float64: Apple's don't, nor some of Intel's."""
    import torch

    if kind in ("cpu", "cuda"):
        return True
    try:
        torch.zeros(1, dtype=torch.float64, device=kind).add(1)
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    return True


def for_sums(values: Tensor) -> Tensor:
    """The values where float64 sums of them can be made: on their own device, else on the CPU."""
    return values if has_float64(values.device.type) else values.cpu()


def _accelerator() -> str | None:
    """Kind of this machine's accelerator."""
    import torch

    if not torch.accelerator.is_available():
        return None
    found = torch.accelerator.current_accelerator()
    return found.type if found is not None else None


def _module(device: torch.device) -> Any:
    """torch's own module for a kind of device: torch.cuda, torch.mps, torch.xpu."""
    import torch

    return torch.get_device_module(device.type)
