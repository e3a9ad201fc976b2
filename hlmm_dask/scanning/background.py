"""A scan that runs while a notebook goes on, and the handle that it is held by."""

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from distributed import Client

from hlmm_dask.errors import ScanCancelled
from hlmm_dask.scanning.cluster import ClusterOptions
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.connection import Connection
from hlmm_dask.scanning.events import Event, Observer, ScanFinished, ScanStarted
from hlmm_dask.scanning.lmm import AnyNull
from hlmm_dask.scanning.null_input import Genotypes
from hlmm_dask.scanning.run import run_scans

if TYPE_CHECKING:
    import xarray as xr

Status: TypeAlias = Literal["running", "cancelling", "finished", "failed", "cancelled"]


class Run:
    """A scan in a thread of this process; ``hlmm_dask.scan(..., background=True)`` gives it.

    Attributes
    ----------
    store : Path
        The results store, in a temporary folder where the scan was given no ``out``. It is
        made when the cluster is there.
    """

    def __init__(
        self,
        genotypes: Genotypes,
        null: AnyNull,
        config: ScanConfig,
        *,
        client: Client | None,
        cluster: ClusterOptions | None,
        out: str | os.PathLike[str] | None,
        observers: Sequence[Observer],
        **options: Any,
    ) -> None:
        # Here, not in the thread: errors come at once, and dask-jobqueue is imported.
        (cluster or ClusterOptions()).check()
        self._temporary = out is None
        if out is None:
            folder = tempfile.mkdtemp(prefix="hlmm_dask_")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            out = Path(folder, "results.zarr")
        self.store = Path(out)
        self._client = client
        self._stop = threading.Event()
        self._outcome: Future[None] = Future()

        def work() -> None:
            with Connection(cluster or ClusterOptions(), client) as connection:
                run_scans(
                    genotypes,
                    [(null, self.store)],
                    config,
                    connection=connection,
                    observers=[self._observer(connection), *observers],
                    **options,
                )

        # A daemon: the end of the interpreter does not wait for a scan of days.
        threading.Thread(target=self._run, args=(work,), name="hlmm-scan", daemon=True).start()

    def __repr__(self) -> str:
        return f"<Run {self.status}: {self.store}>"

    @property
    def client(self) -> Client | None:
        """Client of the cluster that it runs on; None before it is connected and afterwards."""
        return self._client

    @property
    def status(self) -> Status:
        """What it is doing, or how it ended."""
        if not self._outcome.done():
            return "cancelling" if self._stop.is_set() else "running"
        error = self._outcome.exception()
        if error is None:
            return "finished"
        return "cancelled" if isinstance(error, ScanCancelled) else "failed"

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._outcome.done()

    def cancel(self) -> None:
        """End it when the next block is done; ``scan(..., resume=True)`` goes on from there."""
        self._stop.set()

    def result(self, timeout: float | None = None) -> "xr.Dataset":
        """Wait for the results; as `scan` would return them.

        Raises
        ------
        TimeoutError
            If it is not done within so many seconds; it goes on.
        ScanCancelled
            If it was cancelled.
        InputError, StoreError, ScanError
            As `scan` does.
        """
        from hlmm_dask.results import open_results

        self._outcome.result(timeout)
        results = open_results(self.store)
        return results.load() if self._temporary else results

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end, and return what it ended with; None if all went well."""
        return self._outcome.exception(timeout)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._outcome.set_exception(error)
        else:
            self._outcome.set_result(None)
        finally:
            self._client = None

    def _observer(self, connection: Connection) -> Observer:
        def observe(event: Event, /) -> None:
            if isinstance(event, ScanStarted):
                self._client = connection.client()
            if self._stop.is_set() and not isinstance(event, ScanFinished):
                raise ScanCancelled(
                    f"{self.store}: cancelled; finished blocks are kept, run again with --resume"
                )

        return observe
