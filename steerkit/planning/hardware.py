"""GPUs that a plan can be made for: what the vendors' data sheets say of them."""

from __future__ import annotations

from dataclasses import dataclass

from steerkit.errors import SteerkitError, nearest

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """What bounds a model on a device.

    Attributes:
        name: in words.
        memory: bytes; 0 where it isn't known.
        bandwidth: bytes a second between memory and processor.
        flops: floating-point operations a second of dense matrix products, by bytes of a number: 2 for bfloat16
            with float32 sums, 4 for float32 (without TF32).
    """

    name: str
    memory: float
    bandwidth: float
    flops: dict[int, float]


def _gpu(name: str, gib: float, gigabytes: float, bf16: float, fp32: float) -> Device:
    return Device(name, gib * GIB, gigabytes * 1e9, {2: bf16 * 1e12, 4: fp32 * 1e12})


GPUS = {
    "h200": _gpu("NVIDIA H200 SXM", 141, 4800, 989, 67),
    "h100": _gpu("NVIDIA H100 SXM", 80, 3350, 989, 67),
    "h100-pcie": _gpu("NVIDIA H100 PCIe", 80, 2000, 756, 51),
    "a100-80gb": _gpu("NVIDIA A100 80GB SXM", 80, 2039, 312, 19.5),
    "a100-40gb": _gpu("NVIDIA A100 40GB SXM", 40, 1555, 312, 19.5),
    "l40s": _gpu("NVIDIA L40S", 48, 864, 362, 91.6),
    "l4": _gpu("NVIDIA L4", 24, 300, 121, 30.3),
    "rtx4090": _gpu("NVIDIA GeForce RTX 4090", 24, 1008, 165, 82.6),
    "rtx3090": _gpu("NVIDIA GeForce RTX 3090", 24, 936, 71, 35.6),
}


def find_gpu(name: str) -> Device:
    """A GPU by its short name.

    Raises:
        SteerkitError: it is not in the table.
    """
    found = GPUS.get(name.lower())
    if found is None:
        raise SteerkitError(f"--gpu {name}: no data sheet for that one here; {nearest(name.lower(), list(GPUS))}")
    return found
