"""How long generation and extraction take on a device: the longer of moving bytes and of computing.

An estimate, with a range: a decode step reads all weights and the KV cache once (memory bandwidth) and does two
operations a weight and row (arithmetic); a forward over traces, or a prompt, is arithmetic alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from steerkit.models.loading import ModelShape
from steerkit.planning.hardware import Device

TRAINING = 3  # forwards that a training's forward and backward take
IN_USE = 0.9  # of a device's memory: the rest is the allocator's, and activations'


@dataclass(frozen=True)
class Efficiency:
    """What of a device's figures is reached.

    Attributes:
        bandwidth: share of the memory bandwidth in a decode step.
        flops: share of the arithmetic.
        launch: seconds that a block's kernels take to be launched in a decode step, however little they do.
    """

    bandwidth: float
    flops: float
    launch: float = 0.0


LIKELY = Efficiency(0.6, 0.45, 0.5e-3)
BEST = Efficiency(0.8, 0.65, 0.2e-3)
WORST = Efficiency(0.4, 0.25, 1e-3)


@dataclass(frozen=True)
class Load:
    """What a run asks of its models.

    Attributes:
        texts: generated, traces included.
        new_tokens: of each, at most.
        prompt: tokens of a prompt.
        rows: texts in a batch.
        read: tokens that extraction reads, both models' together.
        bytes_each: of a number.
        models: held in memory at once.
        trained: tokens that trainings go through, and those whose gradients are read.
    """

    texts: int
    new_tokens: int
    prompt: int
    rows: int
    read: int
    bytes_each: int
    models: int
    trained: int = 0

    @property
    def length(self) -> int:
        """Tokens of a whole text."""
        return self.prompt + self.new_tokens

    @property
    def steps(self) -> float:
        """Decode steps of full batches (a text that ends makes room for another)."""
        return self.texts * self.new_tokens / self.width

    @property
    def width(self) -> int:
        """Rows of a batch, which can't be more than there are texts."""
        return max(min(self.rows, self.texts), 1)


@dataclass(frozen=True)
class Duration:
    """Seconds, and what bounds a decode step: `bandwidth`, `arithmetic` or `launches`."""

    decode: float
    prefill: float
    extraction: float
    bound: str
    training: float = 0.0

    @property
    def total(self) -> float:
        return self.decode + self.prefill + self.extraction + self.training


@dataclass(frozen=True)
class Steps:
    """What was measured of a model itself.

    Attributes:
        decode: seconds of a decode step at `context` tokens, of `rows` rows.
        token: seconds of a token in a forward over traces.
        bandwidth: of the machine, bytes a second.
    """

    decode: float
    token: float
    rows: int
    context: int
    bandwidth: float


def measured_duration(shape: ModelShape, load: Load, steps: Steps) -> Duration:
    """How long a run takes at a model's own measured speed; a longer KV cache is read at the machine's."""
    more = max(load.prompt + load.new_tokens / 2 - steps.context, 0)
    step = steps.decode + steps.rows * more * cache_token(shape, load.bytes_each) / steps.bandwidth
    return Duration(
        decode=load.texts * load.new_tokens / steps.rows * step,
        prefill=load.texts * load.prompt * steps.token,
        extraction=load.read * steps.token,
        bound="",
        training=TRAINING * load.trained * steps.token,
    )


def duration(shape: ModelShape, load: Load, device: Device, efficiency: Efficiency) -> Duration:
    """How long a run's models are busy; judging and loading come on top."""
    step, bound = decode_step(shape, load.width, load.prompt + load.new_tokens / 2, load.bytes_each, device, efficiency)
    rate = device.flops[load.bytes_each] * efficiency.flops
    return Duration(
        decode=load.steps * step,
        prefill=2 * shape.body * load.texts * load.prompt / rate,
        extraction=2 * shape.body * load.read / rate,
        bound=bound,
        training=TRAINING * 2 * shape.body * load.trained / rate,
    )


def decode_step(
    shape: ModelShape, rows: int, context: float, bytes_each: int, device: Device, efficiency: Efficiency
) -> tuple[float, str]:
    """Seconds of a decode step, and what bounds it."""
    weights = shape.body + shape.width * shape.vocabulary  # a row of the input embedding is next to nothing
    moved = weights * bytes_each + rows * context * cache_token(shape, bytes_each)
    computed = rows * (2 * weights + 4 * shape.depth * shape.width * context)
    ways = {
        "bandwidth": moved / (device.bandwidth * efficiency.bandwidth),
        "arithmetic": computed / (device.flops[bytes_each] * efficiency.flops),
        "launches": shape.depth * efficiency.launch,
    }
    bound = max(ways, key=lambda way: ways[way])
    return ways[bound], bound


def cache_token(shape: ModelShape, bytes_each: int) -> int:
    """Bytes of one token's keys and values in all blocks."""
    return 2 * shape.depth * shape.kv_width * bytes_each


def memory(shape: ModelShape, load: Load, rows: int) -> float:
    """Bytes on the device: weights, the KV cache of full-length rows, and float32 logits thrice."""
    weights = load.models * shape.parameters * load.bytes_each
    return weights + rows * (load.length * cache_token(shape, load.bytes_each) + 3 * 4 * shape.vocabulary)


def most_rows(shape: ModelShape, load: Load, device: Device) -> int:
    """The most rows of a batch that fit a device; 0 when the weights alone don't."""
    empty = memory(shape, load, 0)
    return max(int((IN_USE * device.memory - empty) / (memory(shape, load, 1) - empty)), 0)
