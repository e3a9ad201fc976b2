"""A Dask cluster on this machine: its scheduler in this process, workers in processes of theirs."""

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dask
from distributed import Client, LocalCluster, Security, Worker, WorkerPlugin

from hlmm_dask.errors import ScanError
from hlmm_dask.scanning.fork_server import start_fork_server, start_method
from hlmm_dask.scanning.machine import private_folder
from hlmm_dask.scanning.main_script import refuse_unguarded

if TYPE_CHECKING:
    from hlmm_dask.scanning.cluster import ClusterOptions

# The scheduler and the workers' own housekeeping take time from the fits: by default each process
# looks at itself 50 to 100 times a second, and at the disks twice.
_SETTINGS = {
    "distributed.worker.daemon": True,
    "distributed.worker.multiprocessing-method": start_method(),
    "distributed.worker.profile.interval": "1s",
    "distributed.worker.profile.cycle": "10s",
    "distributed.worker.memory.monitor-interval": "500ms",
    "distributed.admin.tick.interval": "2s",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.admin.system-monitor.disk": False,
}
# The scheduler serves our page besides Dask's. Named, not imported: views import this room.
_ROUTES, _PAGE = "distributed.scheduler.http.routes", "hlmm_dask.view.dask_page"
# How often all workers are started before it is given up.
_TRIES = 3


@contextmanager
def local_client(options: "ClusterOptions") -> Iterator[Client]:
    """Start workers on this machine and give a client; all end with the context.

    Raises
    ------
    InputError
        If worker processes can't run the script that starts them, or it has no ``__main__`` guard.
    ScanError
        If workers can't be started; the message has the reason of the worker.
    """
    routes = list(dict.fromkeys([*dask.config.get(_ROUTES), _PAGE]))
    before = dict(os.environ)
    with (
        dask.config.set(_SETTINGS | {_ROUTES: routes}),
        _closing(_start(options), before) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(_LeaveInterrupts())
        yield client


def _start(options: "ClusterOptions") -> LocalCluster:
    """Start the cluster; again, if workers end while they start."""
    start_fork_server()
    with _deaths() as deaths:
        for left in reversed(range(_TRIES)):
            try:
                return LocalCluster(
                    n_workers=options.workers or len(os.sched_getaffinity(0)),
                    threads_per_worker=options.threads_per_worker,
                    memory_limit=options.memory_limit,
                    processes=True,
                    host="127.0.0.1",
                    # Every user of this machine reaches the loopback interface.
                    security=Security.temporary(),
                    local_directory=private_folder(),
                    # By default the dashboard listens on all interfaces.
                    dashboard_address="127.0.0.1:0",
                )
            except Exception as error:
                # Dask raises different errors for a worker that dies at its start.
                refuse_unguarded()
                if not left:
                    reason = deaths[-1] if deaths else _reason(error)
                    text = f"worker processes can't be started, tried {_TRIES} times: {reason}"
                    raise ScanError(text) from None
    raise AssertionError


@contextmanager
def _deaths() -> Iterator[list[str]]:
    """Collect what Dask logs of worker processes that end."""
    logger, found = logging.getLogger("distributed.nanny"), _Deaths()
    logger.addHandler(found)
    try:
        yield found.texts
    finally:
        logger.removeHandler(found)


class _Deaths(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if (text := record.getMessage()).startswith("Worker process"):
            self.texts.append(text)


def _reason(error: BaseException) -> str:
    """Find what a worker said, behind what Dask says of it."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _closing(cluster: LocalCluster, before: Mapping[str, str]) -> Iterator[LocalCluster]:
    """Close a cluster and put back the environment variables that Dask has set to start it."""
    changed = [name for name, value in os.environ.items() if before.get(name) != value]
    try:
        with cluster:
            yield cluster
    finally:
        for name in changed:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


class _LeaveInterrupts(WorkerPlugin):
    """Workers ignore Ctrl-C, which a terminal sends to them too: their client ends the run."""

    name = "hlmm-dask-leave-interrupts"
    idempotent = True

    def setup(self, worker: Worker) -> None:
        # Only the main thread may; a worker process runs its event loop there.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
