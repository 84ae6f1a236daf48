"""When memory runs out."""

from __future__ import annotations

CPU_MESSAGES = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine itself, has no memory left."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in CPU_MESSAGES)


def free_cache() -> None:
    """Give back what the GPU allocator keeps and nobody uses, so that smaller pieces fit."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
