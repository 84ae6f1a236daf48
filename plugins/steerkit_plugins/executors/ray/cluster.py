"""Starting Ray on this machine, or joining a cluster: quietly, and never by accident."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    from steerkit_plugins.executors.ray import RayConfig

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # would be sent to Ray's makers
    # Not printed: what the executor says in its own words (Ray's run over many lines).
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed while|Raylet is terminated|The node with node id",
    "RAY_agent_register_timeout_ms": "120000",  # on a busy machine Ray's helpers take long to start
}
LOCAL = "local"  # Ray's own word for a new cluster on this machine


def prepare(config: RayConfig) -> None:
    """Set Ray's environment variables, those that the user has not set. Some are read when Ray is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    token = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if not config.address and not token:
        # Whoever reaches Ray's ports may run code, so that Ray wants a token. One that only this process and its
        # children know needs no file in the home folder, which is where Ray would write it.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        token = True
    if (token or (Path.home() / ".ray/auth_token").is_file()) and "ray" not in sys.modules:
        # Ray does not look for a token where it is given an address; imported already, it keeps to what it found then.
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def check_address(address: str) -> None:
    """Raises: ConnectionError where nobody listens; Ray would try for two minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or (address != "auto" and not (host and port.isdecimal())):
        raise ConnectionError("give `auto` or HOST:PORT, and start the run on a machine of the cluster")
    if address != "auto":
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise ConnectionError(f"nothing answers there ({error})") from error


class Cluster:
    """A connection to Ray, and what the cluster has room for.

    Where the process is connected already (a notebook that called ``ray.init``), that cluster is used and left alone.

    Args:
        config: options of the executor.
        gpus_wanted: whether workers use GPUs where there are some.

    Raises:
        SteerkitError: Ray can't be started, or there is no such cluster.
    """

    def __init__(self, config: RayConfig, *, gpus_wanted: bool) -> None:
        prepare(config)
        import ray

        self.ray: Any = ray
        self.config = config
        self.joined = not ray.is_initialized()
        if self.joined:
            self._join()
        gpus = any(node.get("GPU", 0) for node in self.nodes())
        self.gpus: float = config.gpus if config.gpus is not None else float(gpus_wanted and gpus)

    def _join(self) -> None:
        config = self.config
        quiet = {"log_to_driver": False, "configure_logging": False}  # the root logger is not Ray's to configure
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        try:
            if config.address:
                check_address(config.address)
                self.ray.init(address=config.address, **quiet)
            else:
                cpus = config.workers * config.cpus or None
                options = {"address": LOCAL, "num_cpus": cpus, "include_dashboard": False, **quiet}
                try:
                    self.ray.init(**options)
                except Exception:  # Ray gives its processes 30 s to start, which is too little on a busy machine
                    self.ray.shutdown()
                    self.ray.init(**options)
        except Exception as error:
            self.ray.shutdown()
            said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            if not config.address:
                raise SteerkitError(f"executor ray: Ray does not start on this machine: {said}") from error
            raise SteerkitError(
                f"executor ray: can't join the Ray cluster {config.address!r}: {said}\n  Is it running (`ray status`)? "
                "Every machine needs the same version of Ray and the same token (RAY_AUTH_TOKEN, or the file "
                "~/.ray/auth_token that `ray get-auth-token --generate` makes)"
            ) from error

    def nodes(self) -> list[Mapping[str, float]]:
        """Resources of each machine."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def room(self) -> int:
        """How many workers fit on the cluster as it is now."""
        return sum(min(self._fit(node)) for node in self.nodes())

    def _fit(self, node: Mapping[str, float]) -> Iterator[int]:
        yield int(node.get("CPU", 0) // self.config.cpus)
        if self.gpus:
            yield int(node.get("GPU", 0) / self.gpus)

    def has(self) -> str:
        """What the cluster has, in words."""
        nodes = self.nodes()
        cpus, gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
        return f"{len(nodes)} machine{'s' if len(nodes) != 1 else ''} with {cpus:g} CPUs and {gpus:g} GPUs in all"

    def leave(self) -> None:
        """Disconnect; a cluster that was started here stops."""
        if self.joined:
            self.ray.shutdown()
