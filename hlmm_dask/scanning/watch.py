"""A thread that notices when a scan's workers are all gone."""

import threading
import time
from asyncio import CancelledError
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from distributed import Client, Future


class WorkerWatch:
    """Cancels futures when no worker has been there for too long.

    Used as a context manager around the waiting for them.

    Parameters
    ----------
    client : Client
        Whose workers are counted.
    futures : sequence of Future
        What is cancelled.
    limit : float
        Seconds without a worker.
    """

    def __init__(self, client: Client, futures: Sequence["Future[Any]"], limit: float) -> None:
        self._client, self._futures, self._limit = client, futures, limit
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
                there = bool(self._client.nthreads())
            except (Exception, CancelledError):
                # The futures' status tells of a scheduler that is gone, or a client closed.
                continue
            if there:
                seen = time.monotonic()
            elif time.monotonic() - seen > self._limit:
                self.gave_up = True
                self._client.cancel(list(self._futures))
                return
