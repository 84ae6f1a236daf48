"""Workers and the pieces that they are at. Lost workers are replaced, and their pieces done again."""

from __future__ import annotations

import logging
import pickle
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError
from steerkit_plugins.executors.ray.cluster import Cluster
from steerkit_plugins.executors.ray.worker import Outcome, Setup, Worker

if TYPE_CHECKING:
    from steerkit_plugins.executors.ray import RayConfig

AHEAD = 2  # pieces that a worker has: it need not wait for the next one
POLL = 5.0  # seconds between looks at the cluster
STARTS = 5  # in a row that may fail
GOODBYE = 10.0  # seconds that workers have to close their engines

log = logging.getLogger("steerkit")

Piece = tuple[int, Any]


@dataclass
class Member:
    """A worker, seen from the started process.

    Attributes:
        actor: Ray's handle.
        starting: reference to the outcome of its start; None when it is ready.
        place: its process and machine, in words.
        pieces: reference → piece, in the order in which they are done.
    """

    actor: Any
    starting: Any
    place: str = ""
    pieces: dict[Any, Piece] = field(default_factory=dict)


class Pool:
    """Workers on a cluster, started as there is work for them."""

    def __init__(self, cluster: Cluster, config: RayConfig, setup: Setup) -> None:
        self._cluster, self._config, self._ray = cluster, config, cluster.ray
        self._setup = self._ray.put(pickle.dumps(setup))
        self._members: list[Member] = []
        self._looked, self._room = -POLL, 0
        self._failed_starts = 0

    def map(self, work: Callable[[Any, Any], Any], pieces: Sequence[Piece]) -> Iterator[tuple[int, Any]]:
        """(number, result) of each numbered piece, as they come.

        Raises:
            SteerkitError: work fails, a piece is lost too often, or no worker starts.
        """
        task = _Task(self._ray, work)
        todo, lost = deque(pieces), Counter[int]()
        waiting_since = time.monotonic()
        try:
            while todo or any(member.pieces for member in self._members):
                self._fill(len(todo))
                self._hand_out(task, todo)
                refs = [ref for m in self._members for ref in ([m.starting] if m.starting else m.pieces)]
                ready = self._ray.wait(refs, timeout=min(POLL, self._config.timeout))[0] if refs else []
                for ref in ready:
                    member = next((m for m in self._members if ref == m.starting or ref in m.pieces), None)
                    if member is None:
                        continue  # it was lost, and all of its references with it
                    if ref == member.starting:
                        self._started(member)
                    else:
                        yield from self._finished(member, ref, task, todo, lost)
                if any(member.starting is None for member in self._members):
                    waiting_since = time.monotonic()
                elif time.monotonic() > waiting_since + self._config.timeout:
                    raise self._nobody()
        finally:  # after an error, or when the caller stops asking: what is under way is wanted no more
            self.stop(busy=True)

    def close(self) -> None:
        """Let idle workers close what they have started, and stop all."""
        goodbyes = [m.actor.close.remote() for m in self._members if not m.pieces and m.starting is None]
        try:
            if goodbyes:
                self._ray.wait(goodbyes, num_returns=len(goodbyes), timeout=GOODBYE)
        finally:
            self.stop()

    def stop(self, *, busy: bool = False) -> None:
        """Kill the workers, or only those that are at a piece."""
        for member in [member for member in self._members if member.pieces or not busy]:
            self._drop(member)

    # --- workers -------------------------------------------------------------------------------------------------

    def _fill(self, pieces: int) -> None:
        """Start workers where some are missing, but no more than there are pieces for."""
        if time.monotonic() > self._looked + POLL:
            self._looked, self._room = time.monotonic(), self._config.workers or self._cluster.room()
        idle = sum(not member.pieces for member in self._members)
        while len(self._members) < max(self._room, 1) and idle < pieces:
            options = {"num_cpus": self._config.cpus, "num_gpus": self._cluster.gpus, "max_restarts": 0}
            actor = self._ray.remote(Worker).options(**options).remote()
            self._members.append(Member(actor, actor.start.remote(self._setup)))
            idle += 1

    def _started(self, member: Member) -> None:
        from ray.exceptions import RayError

        try:
            outcome = _received(self._ray.get(member.starting))
        except RayError as error:
            self._drop(member)
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                raise SteerkitError(f"executor ray: workers die as they start: {_reason(error)}") from None
            return
        if outcome.failed:
            raise outcome.failed.error(f"as a worker started on {outcome.host}")
        member.starting, member.place = None, f"process {outcome.result} on {outcome.host}"
        self._failed_starts = 0

    def _drop(self, member: Member) -> None:
        self._members.remove(member)
        self._looked = -POLL
        with suppress(Exception):
            self._ray.kill(member.actor)

    def _nobody(self) -> SteerkitError:
        gpus = f" and {self._cluster.gpus:g} GPUs" if self._cluster.gpus else ""
        return SteerkitError(
            f"executor ray: no worker has started within {self._config.timeout:g} s (executor.timeout). Each needs "
            f"{self._config.cpus} CPUs{gpus} on one machine; the cluster has {self._cluster.has()}"
        )

    # --- pieces --------------------------------------------------------------------------------------------------

    def _hand_out(self, task: _Task, todo: deque[Piece]) -> None:
        """Give each worker a piece, and another to go on with while there are more than enough for all."""
        ready = [member for member in self._members if member.starting is None]
        for count in range(AHEAD):
            for member in ready:
                if len(member.pieces) == count and len(todo) > count * len(self._members):
                    piece = todo.popleft()
                    member.pieces[member.actor.do.remote(task.work, task.name, task.pickled(piece))] = piece

    def _finished(
        self, member: Member, ref: Any, task: _Task, todo: deque[Piece], lost: Counter[int]
    ) -> Iterator[tuple[int, Any]]:
        """The result of a piece that has ended; of several where the worker was lost since."""
        from ray.exceptions import RayError

        try:
            outcome = _received(self._ray.get(ref))
        except RayError as error:
            yield from self._lost(member, task, todo, lost, _reason(error))
            return
        number, _ = member.pieces.pop(ref)
        yield number, task.result(number, outcome)

    def _lost(
        self, member: Member, task: _Task, todo: deque[Piece], lost: Counter[int], why: str
    ) -> Iterator[tuple[int, Any]]:
        """A worker has died. It was at the first of its pieces without a result; those behind it had not begun."""
        from ray.exceptions import RayError

        self._drop(member)
        again: list[Piece] = []
        for ref, piece in member.pieces.items():
            try:
                outcome = _received(self._ray.get(ref, timeout=POLL))
            except RayError:
                again.append(piece)
            else:
                yield piece[0], task.result(piece[0], outcome)
        if again:
            number, _ = again[0]
            lost[number] += 1
            log.warning("%s: its worker was lost (%s); the piece is done again", task.where(number), member.place)
            if lost[number] > self._config.retries:
                raise SteerkitError(
                    f"{task.where(number)}: its worker died {lost[number]} times, the last time {member.place}: {why}\n"
                    "  Where memory is short, take fewer workers or smaller pieces (executor.workers, save_rows). The "
                    "same command goes on with what is done"
                ) from None
        todo.extendleft(reversed(again))


class _Task:
    """What is done with pieces: pickled once."""

    def __init__(self, ray: Any, work: Callable[[Any, Any], Any]) -> None:
        self._step = getattr(work, "__self__", None)
        self.name = str(getattr(self._step, "name", ""))
        self._title = str(getattr(self._step, "title", "") or getattr(work, "__name__", "work"))
        self.work = ray.put(_pickled(work, f"{self._title}: the step"))

    def where(self, number: int) -> str:
        """A piece in words."""
        return f"{self._title}, piece {number}"

    def pickled(self, piece: Piece) -> bytes:
        return _pickled(piece[1], self.where(piece[0]))

    def result(self, number: int, outcome: Outcome) -> Any:
        """Raises: Exception, what the work raised."""
        if outcome.failed:
            raise outcome.failed.error(f"{self.where(number)}, on {outcome.host}")
        return outcome.result


def _pickled(value: Any, what: str) -> bytes:
    from ray import cloudpickle

    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as error:
        raise SteerkitError(
            f"{what} can't be sent to another process ({type(error).__name__}: {error}); pieces must be plain data, "
            "and work() may use nothing but the models and its piece"
        ) from error


def _received(data: bytes) -> Outcome:
    """An outcome; what was logged along with it is logged here."""
    found: Outcome = pickle.loads(data)
    for name, level, message in found.logged:
        logging.getLogger(name).log(level, "%s", message)
    return found


def _reason(error: Exception) -> str:
    """Why a worker was lost, in a line or two of Ray's many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "memory" in line.lower()), lines[-1] if lines else type(error).__name__)
    return said[:300]
