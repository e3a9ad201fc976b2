"""The workers of a cluster as a view shows them: memory, and what they compute."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from distributed import Client, Scheduler


@dataclass(frozen=True)
class WorkerState:
    """A worker at present.

    Attributes
    ----------
    address : str
        As markers name it.
    memory, memory_limit : int
        Bytes; a limit of 0 is none.
    blocks : tuple of int
        Being computed.
    """

    address: str
    memory: int
    memory_limit: int
    blocks: tuple[int, ...]


def workers_of_client(client: Client) -> list[WorkerState]:
    """Ask a cluster for its workers."""
    known = client.scheduler_info(n_workers=-1)["workers"]
    keys = client.processing()
    return [
        WorkerState(
            address,
            int(worker["metrics"].get("memory", 0)),
            int(worker["memory_limit"] or 0),
            _blocks(keys.get(address, ()), worker["nthreads"]),
        )
        for address, worker in known.items()
    ]


def workers_of_scheduler(scheduler: Scheduler) -> list[WorkerState]:
    """Tell of the workers from within the scheduler's process."""
    return [
        WorkerState(
            address,
            int(worker.metrics.get("memory", 0)),
            int(worker.memory_limit or 0),
            _blocks((task.key for task in list(worker.processing)), worker.nthreads),
        )
        for address, worker in list(scheduler.workers.items())
    ]


def _blocks(keys: Iterable[Any], n_threads: int) -> tuple[int, ...]:
    """Blocks that a worker computes: as many as it has threads, the first go first."""
    blocks = [
        int(key[1])
        for key in keys
        if isinstance(key, tuple) and str(key[0]).startswith("_fit_and_store")
    ]
    return tuple(sorted(blocks)[:n_threads])
