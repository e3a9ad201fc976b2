"""A thread that notices when a scan's workers are gone: all, or those that a block waits for."""

import threading
import time
from asyncio import CancelledError
from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self

from distributed import Client


class Waited(Protocol):
    """Futures that are waited for."""

    def cancel_stranded(self, there: Iterable[str], /) -> None:
        """Cancel what only workers can compute that are not there."""

    def cancel(self) -> None:
        """Cancel all."""


class WorkerWatch:
    """Cancels futures that no worker will compute, and all when there has been none for too long.

    Used as a context manager around the waiting for them.

    Parameters
    ----------
    client : Client
        Whose workers are counted.
    waited : Waited
        What is cancelled.
    limit : float
        Seconds without a worker.
    """

    def __init__(self, client: Client, waited: Waited, limit: float) -> None:
        self._client, self._waited, self._limit = client, waited, limit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hlmm-dask-watch", daemon=True)
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

    def _run(self) -> None:
        seen = time.monotonic()
        while not self._stop.wait(min(2.0, self._limit / 4)):
            try:
                there = self._client.nthreads()
                if there:
                    self._waited.cancel_stranded(there)
            except (Exception, CancelledError):
                # The futures' status tells of a scheduler that is gone, or a client closed.
                continue
            if there:
                seen = time.monotonic()
            elif time.monotonic() - seen > self._limit:
                self.gave_up = True
                self._waited.cancel()
                return
