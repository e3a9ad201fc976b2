"""The Dask cluster that a scan runs on: one of its own on this machine, or one that is there."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import dask
from distributed import Client, LocalCluster, Worker, WorkerPlugin

from hlmm_dask.errors import InputError

# Named, not imported: what watches stands above what computes.
_PAGE = "hlmm_dask.view.preload"


@dataclass(frozen=True)
class ClusterOptions:
    """Where a scan runs.

    Attributes
    ----------
    scheduler : str, optional
        Address of a running scheduler (``tcp://host:port``).
    scheduler_file : str, optional
        File in which a running scheduler left its address.
    workers : int, optional
        Worker processes of a cluster of one's own; one for each core by default.
    threads_per_worker : int
        Threads of each.
    memory_limit : str
        Memory of each, as Dask takes it (``"4GiB"``, ``"auto"``).
    timeout : float
        Seconds to wait for a scheduler and its first worker.
    """

    scheduler: str | None = None
    scheduler_file: str | None = None
    workers: int | None = None
    threads_per_worker: int = 1
    memory_limit: str = "auto"
    timeout: float = 60.0

    def check(self) -> None:
        """Raise an `InputError` for options that contradict each other or can't be met."""
        if self.scheduler and self.scheduler_file:
            raise InputError("--scheduler and --scheduler-file exclude each other; give one")
        if self.scheduler_file and not Path(self.scheduler_file).is_file():
            raise InputError(f"{self.scheduler_file}: no such scheduler file")
        for name, value in (
            ("workers", self.workers),
            ("threads-per-worker", self.threads_per_worker),
        ):
            if value is not None and value < 1:
                raise InputError(f"--{name} {value}: expected at least 1")
        if self.memory_limit not in ("auto", "0"):
            try:
                dask.utils.parse_bytes(self.memory_limit)
            except ValueError:
                raise InputError(
                    f"--memory-limit {self.memory_limit}: expected a size such as 4GiB, or auto"
                ) from None


@contextmanager
def connect(options: ClusterOptions) -> Iterator[Client]:
    """Connect to the cluster that the options name, or start one on this machine.

    Raises
    ------
    InputError
        If there is no scheduler, or no worker, in the given time.
    """
    options.check()
    if options.scheduler or options.scheduler_file:
        target = options.scheduler or options.scheduler_file
        try:
            client = Client(
                options.scheduler,
                scheduler_file=options.scheduler_file,
                timeout=options.timeout,
                set_as_default=False,
            )
        except (OSError, ValueError) as error:
            raise InputError(f"{target}: no Dask scheduler answers ({error})") from error
        with client:
            try:
                client.wait_for_workers(1, timeout=options.timeout)
            except TimeoutError as error:
                raise InputError(
                    f"{target}: no worker within {options.timeout:g} s; start workers with "
                    f"'dask worker {target}'"
                ) from error
            yield client
        return
    workers = options.workers or len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.worker.daemon": True}))
        preloads = [*dask.config.get("distributed.scheduler.preload"), _PAGE]
        stack.enter_context(dask.config.set({"distributed.scheduler.preload": preloads}))
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=workers,
                threads_per_worker=options.threads_per_worker,
                memory_limit=options.memory_limit,
                processes=True,
                host="127.0.0.1",
                # By default the dashboard listens on all interfaces.
                dashboard_address="127.0.0.1:0",
            )
        )
        client = stack.enter_context(Client(cluster, set_as_default=False))
        client.register_plugin(_LeaveInterrupts())
        yield client


class _LeaveInterrupts(WorkerPlugin):
    """Workers ignore Ctrl-C, which a terminal sends to them too: their client ends the run."""

    name = "hlmm-dask-leave-interrupts"
    idempotent = True

    def setup(self, worker: Worker) -> None:
        # Only the main thread may; a worker process runs its event loop there.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
