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
        Being computed, or next.
    """

    address: str
    memory: int
    memory_limit: int
    blocks: tuple[int, ...]


def workers_of_client(client: Client) -> list[WorkerState]:
    """Tell of a cluster's workers; nothing when it does not answer."""
    if client.status != "running":
        return []
    scheduler = getattr(client.cluster, "scheduler", None)
    if isinstance(scheduler, Scheduler):
        return workers_of_scheduler(scheduler)
    try:
        known = client.scheduler_info(n_workers=-1)["workers"]
        keys = client.processing()
    except (OSError, TimeoutError):
        return []
    # Which of its tasks a worker has begun, a scheduler does not tell.
    return [
        WorkerState(
            address,
            int(worker["metrics"].get("memory", 0)),
            int(worker["memory_limit"] or 0),
            _blocks(keys.get(address, ())),
        )
        for address, worker in known.items()
    ]


def workers_of_scheduler(scheduler: Scheduler) -> list[WorkerState]:
    """Tell of the workers from within the scheduler's process, in any thread."""
    return [
        WorkerState(
            address,
            int(worker.metrics.get("memory", 0)),
            int(worker.memory_limit or 0),
            # What runs is known from the last sign of life, perhaps from before it was sent.
            _blocks(task.key for task in list(worker.executing or worker.processing)),
        )
        for address, worker in list(scheduler.workers.items())
    ]


def _blocks(keys: Iterable[Any]) -> tuple[int, ...]:
    """Return the blocks among the tasks."""
    blocks = [
        int(key[1])
        for key in keys
        if isinstance(key, tuple) and str(key[0]).startswith("_fit_and_store")
    ]
    return tuple(sorted(blocks))
