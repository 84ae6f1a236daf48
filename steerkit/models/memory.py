"""How much memory is free, and whether an error says that it was not enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.models.devices import empty_cache, memory

if TYPE_CHECKING:
    import torch

CPU_MESSAGES = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory", "out of memory")
NO_ROOM = "use fewer max_new_tokens, bf16: true, or device_map: auto over more devices"


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in CPU_MESSAGES)


def release() -> None:
    """Give memory that torch keeps back to the GPU, so that it can be had in other sizes."""
    import gc

    gc.collect()
    empty_cache()


def free_bytes(device: torch.device) -> int:
    """Bytes that can be allocated on a device now."""
    if device.type != "cpu":
        release()
    return memory(device)[0]
