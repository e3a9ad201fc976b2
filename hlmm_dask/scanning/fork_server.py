"""The process that worker processes of this machine are forked from, with their imports done."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver, get_context, resource_tracker

from hlmm_dask.scanning.main_script import check_main_script

# Imports of a worker before its first task.
_PRELOAD = ["distributed.nanny", "hlmm_dask.scanning.graph"]
# Read by GNU's C library, BLAS and Dask when a process starts. Dask's default returns each freed
# array to the system at once: half of the time of a block with random effects goes into new pages.
WORKER_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # A worker that fails is reported by its client.
    "DASK_LOGGING__DISTRIBUTED": "CRITICAL",
}


def start_method() -> str:
    """Return how processes of workers are started here, a method of `multiprocessing`."""
    # Libraries of macOS do not survive a fork.
    return "forkserver" if sys.platform == "linux" else "spawn"


def start_fork_server() -> None:
    """Start the fork server, unless it runs; return while it imports.

    Workers ignore Ctrl-C and the hangup of a terminal, which reach all processes of a command:
    their client ends them.

    Raises
    ------
    InputError
        If worker processes can't run the script that starts them.
    """
    check_main_script()
    if start_method() != "forkserver":
        return
    get_context("forkserver").set_forkserver_preload(_PRELOAD)
    with _environment(WORKER_ENVIRONMENT):
        with _blocked(signal.SIGHUP):
            # It blocks the interrupt itself, and unblocks it for this thread.
            resource_tracker.ensure_running()
        with _blocked(signal.SIGHUP, signal.SIGINT):
            forkserver.ensure_running()


@contextmanager
def _blocked(*numbers: signal.Signals) -> Iterator[None]:
    """Block signals in this thread; processes that it starts inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that are not set, and take them away again."""
    added = [name for name in more if name not in os.environ]
    os.environ.update({name: more[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
