"""A thread that notices when a scan's workers are gone or silent."""

import threading
import time
from asyncio import CancelledError
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from distributed import Client, Scheduler

# A worker shows a sign of life at least every few seconds, also while it computes.
SILENT_SECONDS = 60.0
# Seconds in which a nanny ends and replaces its worker.
_RESTART = 30.0


class Waited(Protocol):
    """Futures that are waited for."""

    def cancel_stranded(self, there: Iterable[str], /) -> None:
        """Cancel what only workers can compute that are not there."""

    def cancel(self) -> None:
        """Cancel all."""


@dataclass(frozen=True)
class _Heard:
    """When a scheduler last heard of a worker, by its own clock, and whether that has a nanny."""

    last_seen: float
    has_nanny: bool


class WorkerWatch:
    """Watches the workers while futures are waited for.

    Futures that no worker will compute are cancelled, and all when there has been no worker for
    too long. A worker that gives no sign of life (it hangs or is stopped, or its machine is
    unreachable) is ended, and replaced if it has a nanny: its tasks go to other workers.

    Used as a context manager around the waiting.

    Parameters
    ----------
    client : Client
        Connected to the cluster.
    waited : Waited
        Futures that are cancelled.
    limit : float
        Seconds without a worker after which all are cancelled.
    """

    def __init__(self, client: Client, waited: Waited, limit: float) -> None:
        self._client, self._waited, self._limit = client, waited, limit
        self._every = min(2.0, limit / 4, SILENT_SECONDS / 4)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hlmm-dask-watch", daemon=True)
        self._notes: list[str] = []
        self.gave_up = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()

    def new_notes(self) -> list[str]:
        """Return a line for each worker that was ended since the last call."""
        found, self._notes = self._notes, []
        return found

    def _run(self) -> None:
        seen = time.monotonic()
        silence = Silence()
        while not self._stop.wait(self._every):
            try:
                heard = self._client.run_on_scheduler(_listener())
                there = {address: _Heard(*signs) for address, signs in heard.items()}
                if there:
                    self._waited.cancel_stranded(there)
                silence.count({address: worker.last_seen for address, worker in there.items()})
                for address in silence.longer_than(SILENT_SECONDS / self._every):
                    self._notes.append(
                        f"worker {address} gave no sign of life for {SILENT_SECONDS:g} s; it is "
                        "ended, and other workers compute its blocks"
                    )
                    self._end(address, there[address])
            except (Exception, CancelledError):
                # The futures' status tells of a scheduler that is gone, or a client closed.
                continue
            if there:
                seen = time.monotonic()
            elif time.monotonic() - seen > self._limit:
                self.gave_up = True
                self._waited.cancel()
                return

    def _end(self, address: str, worker: _Heard) -> None:
        if worker.has_nanny:
            self._client.restart_workers([address], timeout=_RESTART, raise_for_error=False)
        else:
            self._client.run_on_scheduler(_remover(address))


class Silence:
    """Counts for each worker how often in a row it was not heard of.

    Looks are counted, not seconds: after a computer was suspended, all workers have been silent
    for hours.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._times: Counter[str] = Counter()

    def count(self, last_seen: Mapping[str, float]) -> None:
        """Look at when each worker was last seen."""
        for address, when in last_seen.items():
            if self._last.get(address) == when:
                self._times[address] += 1
            else:
                self._times[address] = 0
        self._last = dict(last_seen)

    def longer_than(self, times: float) -> list[str]:
        """Return the workers that were not heard of so often; each once."""
        found = [address for address in self._last if self._times[address] >= times]
        for address in found:
            self._times[address] = 0
        return found


# Functions of functions are sent whole: the scheduler may not have this package.
def _listener() -> Callable[[Scheduler], dict[str, tuple[float, bool]]]:
    def listen(dask_scheduler: Scheduler) -> dict[str, tuple[float, bool]]:
        return {
            address: (worker.last_seen, bool(worker.nanny))
            for address, worker in dask_scheduler.workers.items()
        }

    return listen


def _remover(address: str) -> Callable[[Scheduler], Any]:
    async def remove(dask_scheduler: Scheduler) -> None:
        await dask_scheduler.remove_worker(address, stimulus_id="hlmm-dask-silent-worker")

    return remove
