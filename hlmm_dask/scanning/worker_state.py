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
    """Ask a cluster for its workers; nothing when it does not answer."""
    if client.status != "running":
        return []
    try:
        states: list[WorkerState] = client.run_on_scheduler(workers_of_scheduler)
    except Exception:  # whatever the scheduler could not do; a view goes on without
        return []
    return states


def workers_of_scheduler(dask_scheduler: Scheduler) -> list[WorkerState]:
    """Tell of the workers from within the scheduler's process."""
    return [
        WorkerState(
            address,
            int(worker.metrics.get("memory", 0)),
            int(worker.memory_limit or 0),
            # What runs is known from the last sign of life, perhaps from before it was sent.
            _blocks((task.key for task in worker.executing or worker.processing), worker.nthreads),
        )
        for address, worker in list(dask_scheduler.workers.items())
    ]


def _blocks(keys: Iterable[Any], n_threads: int) -> tuple[int, ...]:
    """Return the blocks among the tasks, at most as many as there are threads."""
    blocks = [
        int(key[1])
        for key in keys
        if isinstance(key, tuple) and str(key[0]).startswith("_fit_and_store")
    ]
    return tuple(sorted(blocks)[:n_threads])
