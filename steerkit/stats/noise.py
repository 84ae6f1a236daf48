"""Counter-based random numbers: a pure function of keys and counters, on any device, in any batch order.

Sampling noise is a function of (prompt, seed, step) and nothing else, so that steered and unsteered runs of a
prompt are paired draw by draw. The bit mixer is the 32-bit finaliser of Chris Wellons' hash search
(`triple32`), run twice over key and counter; tests check uniformity and independence.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_MASK = 0xFFFFFFFF


def key_of(*parts: object) -> int:
    """A 63-bit key of any values, stable across processes and platforms."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def _mix(x: Tensor) -> Tensor:
    """triple32 on int32 bit patterns, in a fresh tensor; right shifts are made logical by masking."""
    x = x ^ (x >> 17).bitwise_and_(0x7FFF)
    x.mul_(-312814405)  # 0xed5ad4bb
    x.bitwise_xor_((x >> 11).bitwise_and_(0x1FFFFF))
    x.mul_(-1404298415)  # 0xac4c1b51
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF))
    x.mul_(830770091)  # 0x31848bab
    return x.bitwise_xor_((x >> 14).bitwise_and_(0x3FFFF))


def bits(key: Tensor, counter: Tensor, *, stream: int, size: int) -> Tensor:
    """[..., size] int32 random bits for broadcastable int64 `key` and `counter` [...]."""
    import torch

    key, counter = torch.broadcast_tensors(key, counter)
    count = _mix(_signed(counter & _MASK))
    # The counter goes into both words: two counters that only permute the lanes of one word differ in the other.
    low = _signed(key & _MASK) ^ count
    high = _signed((key >> 32) & _MASK) + _mix(count + (((stream + 2**31) & _MASK) - 2**31))
    low, high = _mix(torch.stack([low, high]))[..., None]
    lanes = torch.arange(size, dtype=torch.int32, device=key.device)
    return _mix(_mix(lanes ^ low).add_(high))


def _signed(x: Tensor) -> Tensor:
    """int64 values below 2³² as the int32 of the same bits."""
    import torch

    return torch.where(x >= 2**31, x - 2**32, x).to(torch.int32)


def uniform(key: Tensor, counter: Tensor, *, stream: int, size: int) -> Tensor:
    """[..., size] float32 in (0, 1), both ends excluded; small values keep 24 significant bits."""
    import torch

    drawn = bits(key, counter, stream=stream, size=size)
    return ((drawn >> 1) & 0x7FFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-31).clamp_(max=1 - 2.0**-24)


def gumbel(key: Tensor, counter: Tensor, *, stream: int, size: int) -> Tensor:
    """[..., size] float32 standard Gumbel noise: argmax(logits + it) is a sample of softmax(logits)."""
    # -log(-log(1 - u)): the upper tail, which decides, comes from small u, where float32 is fine-grained.
    return uniform(key, counter, stream=stream, size=size).neg_().log1p_().neg_().log_().neg_()


def normal(key: Tensor, counter: Tensor, *, stream: int, size: int) -> Tensor:
    """[..., size] float32 standard normal (Box-Muller over two streams)."""
    import torch

    half = (size + 1) // 2
    both = uniform(key, counter, stream=stream ^ 0x2545F491, size=2 * half)
    radius = (-2 * both[..., :half].log()).sqrt()
    angle = 2 * torch.pi * both[..., half:]
    return torch.cat([radius * angle.cos(), radius * angle.sin()], -1)[..., :size]
