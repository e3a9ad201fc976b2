"""What a command does before anything else, so that it starts, and its workers do, at once.

Imports the standard library alone: everything heavy is imported meanwhile, in another process.
"""

import gc
import os
import signal
from multiprocessing import forkserver, get_context
from pathlib import Path

# What a worker needs before its first task.
_PRELOAD = ["hlmm_dask.scanning.warm"]


def prestart_workers() -> None:
    """Start the process that this machine's workers will be forked from, all imports done."""
    choose_blas_kernels()
    # Imports make many objects that stay: looking for garbage among them is a fifth of the time.
    gc.disable()
    # Read by Dask when it is imported.
    os.environ.setdefault("DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD", "forkserver")
    get_context("forkserver").set_forkserver_preload(_PRELOAD)
    # It inherits what is ignored: Ctrl-C, which a terminal sends to all, ends it by its parent.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def imports_done() -> None:
    """Collect garbage again, but not among what the imports have left: it stays to the end."""
    gc.freeze()
    gc.enable()


def choose_blas_kernels(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Let OpenBLAS use AVX-512 on AMD processors that have it, before numpy is imported.

    OpenBLAS takes those that it doesn't know yet for older ones; its AVX-512 kernels are
    twice as fast there.
    """
    try:
        text = cpuinfo.read_text()
    except OSError:
        return
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    wide = {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags)
    if wide and "AuthenticAMD" in text:
        os.environ.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX")
