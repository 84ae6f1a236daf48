"""Pieces of work on all machines of a Ray cluster, or in several processes on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from steerkit import registry
from steerkit.code.sent_modules import packages
from steerkit.errors import SteerkitError
from steerkit.interfaces import Config, Plugin
from steerkit.models.extras import need
from steerkit.models.models import Models
from steerkit.parts import Executor
from steerkit_plugins.executors.ray.cluster import Cluster, prepare
from steerkit_plugins.executors.ray.pool import Pool
from steerkit_plugins.executors.ray.worker import Setup, versions

PACKAGE = "steerkit-hf[ray]"


class RayConfig(Config):
    how = frozenset({"address", "workers", "cpus", "gpus", "retries", "timeout"})
    outward = frozenset({"address"})

    address: str = ""
    """Cluster to join: `HOST:PORT`, or `auto` for the one that this machine belongs to. When left out, workers are
    started on this machine alone, whatever cluster is running here."""
    workers: int = Field(default=0, ge=0)
    """Worker processes, each with its own copy of the models; 0 for as many as the CPUs and GPUs allow."""
    cpus: int = Field(default=1, ge=1)
    """CPU threads of a worker."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs of a worker: 0.5 puts two workers on each. 1 when left out, if there are GPUs and `device` is not `cpu`."""
    retries: int = Field(default=4, ge=0)
    """How often a piece is done again after its worker died, before the run stops."""
    timeout: float = Field(default=300.0, gt=0)
    """Seconds until the first worker must have started; machines of a cluster may take minutes to come up."""

    def asks(self) -> str:
        """Whoever runs a cluster can also run code in the processes that join it."""
        return f"joins the Ray cluster {self.address!r}, and does its work there" if self.address else ""


class RayExecutor(Executor):
    """Does work in Ray's processes (`pip install 'steerkit-hf[ray]'`). Only the started process writes files."""

    Config = RayConfig

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._cluster: Cluster | None = None
        self._pool: Pool | None = None
        self._models: Models | None = None

    def check(self, models: Models) -> None:
        """As of `Executor`.

        Raises:
            SteerkitError: Ray is missing, models were given as objects, or `device` names one of several GPUs.
        """
        prepare(self.config)
        need("ray", PACKAGE, "executor: ray")
        models.__reduce__()
        if ":" in models.loading.device:
            raise SteerkitError(
                f"device: {models.loading.device}: workers of the ray executor are given their GPUs by Ray and see no "
                "others; leave `device` out, and set the number of GPUs with executor.gpus"
            )

    def map(
        self,
        work: Callable[[Any, Any], Any],
        pieces: Sequence[tuple[int, Any]],
        models: Models,
        progress: Callable[[int, int], None],
    ) -> Iterator[tuple[int, Any]]:
        """As of `Executor`. How far a worker is within its piece is not known here."""
        if not pieces:
            return
        if self._models is not models:
            self.close()
        pool = self._pool or self._started(models)
        yield from pool.map(work, pieces)

    def _started(self, models: Models) -> Pool:
        prepare(self.config)
        need("ray", PACKAGE, "executor: ray")
        if self._cluster is None:
            self._cluster = Cluster(self.config, gpus_wanted=models.loading.device != "cpu")
        self._models, self._pool = models, Pool(self._cluster, self.config, setup_of(models, self.config.cpus))
        return self._pool

    def close(self) -> None:
        """Stop the workers, and Ray where it was started or joined here."""
        try:
            if self._pool is not None:
                self._pool.close()
        finally:
            cluster, self._cluster, self._pool, self._models = self._cluster, None, None, None
            if cluster is not None:
                cluster.leave()


def setup_of(models: Models, threads: int) -> Setup:
    """All that a worker must know before its first piece.

    Raises:
        SteerkitError: something of it can't be sent to another process.
    """
    from ray import cloudpickle

    known = registry.local_plugins()
    files = packages(cls for _, _, cls in known)
    sent: list[tuple[str, str, type[Plugin]]] = []
    for kind, name, cls in known:
        if cls.__module__.partition(".")[0] not in files:
            sent.append((kind, name, cls))
            try:
                cloudpickle.dumps(cls)
            except Exception as error:
                raise SteerkitError(
                    f"{kind[:-1]} {name!r} can't be sent to other processes ({type(error).__name__}: {error}); put the "
                    "class into a file of its own, and name that under `plugins`"
                ) from error
    return Setup(
        folder=str(Path.cwd()),
        path=tuple(str(Path(folder).resolve()) for folder in sys.path),
        packages=files,
        plugins=cloudpickle.dumps(sent),
        models=cloudpickle.dumps(models),
        threads=threads,
        environment=_environment(),
        versions=versions(),
    )


def _environment() -> Mapping[str, str]:
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "ACCELERATE_USE_CPU")
    return {name: os.environ[name] for name in names if name in os.environ}
