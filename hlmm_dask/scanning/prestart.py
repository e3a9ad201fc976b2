"""What a command does before anything else, so that it and its workers start at once.

Imports the standard library alone: everything heavy is imported afterwards, once for all processes.
"""

import gc
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import forkserver, get_context, resource_tracker, util
from pathlib import Path
from typing import Any

# What a worker needs before its first task, and where it fits with compiled loops.
_NEEDED, _COMPILED = "hlmm_dask.scanning.graph", "hlmm_dask.scanning.warm"
# What Dask imports where it is there, and a command has no use for.
_NOT_NEEDED = "xarray"


def before_imports() -> None:
    """Choose what must be chosen before numpy and Dask are imported, and import faster."""
    prepare_blas()
    # Imports make many objects that stay: looking for garbage among them is a fifth of the time.
    gc.disable()
    # Read by Dask when it is imported.
    os.environ.setdefault("DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD", "forkserver")
    # For the moment as if it weren't installed.
    sys.modules.setdefault(_NOT_NEEDED, None)  # type: ignore[arg-type]  # so import takes it


def imports_done() -> None:
    """Collect garbage again, but not among what the imports have left: it stays to the end."""
    if sys.modules.get(_NOT_NEEDED, sys) is None:
        del sys.modules[_NOT_NEEDED]
    gc.freeze()
    gc.enable()


def start_fork_server(*, compiled: bool) -> None:
    """Start the process that this machine's workers will be forked from, as a copy of this one.

    It has all imports then, and need not repeat them. To be called while there is one thread of
    Python (those of libraries see to a fork themselves), and nothing else that two processes must
    not share.

    Parameters
    ----------
    compiled : bool
        Whether workers will need compiled loops.
    """
    get_context("forkserver").set_forkserver_preload([_COMPILED if compiled else _NEEDED])
    # Elsewhere a process that has loaded much must not be copied.
    with _copies_for_interpreters() if sys.platform == "linux" else nullcontext():
        # What is ignored is inherited. The tracker of shared resources ignores all but the hangup
        # by itself, and complains when it has missed something.
        with _ignored(signal.SIGHUP):
            resource_tracker.ensure_running()
        # Ctrl-C, which a terminal sends to all, ends it by its parent.
        with _ignored(signal.SIGINT):
            forkserver.ensure_running()


@contextmanager
def _copies_for_interpreters() -> Iterator[None]:
    """Let multiprocessing fork this process where it would start a new interpreter."""
    new = util.spawnv_passfds

    def copy(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        pid = os.fork()
        if pid == 0:
            _run_as_interpreter(args[-1], passfds)
        return pid

    util.spawnv_passfds = copy
    try:
        yield
    finally:
        util.spawnv_passfds = new


def _run_as_interpreter(code: str, passfds: Sequence[int]) -> None:
    """Do in a copy of a process what ``python -c`` does in a new one, and end."""
    try:
        # The one copied holds their locks, and their pipes are closed below.
        for made in (forkserver._forkserver, resource_tracker._resource_tracker):
            made.__init__()  # type: ignore[misc]  # its class is known
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        streams = (sys.stdin, sys.stdout, sys.stderr)
        kept = {i for i, stream in enumerate(streams) if stream is not None} | {*passfds}
        for open_file in {int(name) for name in os.listdir("/proc/self/fd")} - kept:
            with suppress(OSError):
                os.close(open_file)
        exec(code, {})
    except SystemExit:
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        # Never back to what the copied process would do next, nor at its end.
        os._exit(1)


@contextmanager
def _ignored(number: signal.Signals) -> Iterator[None]:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def prepare_blas(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Set OpenBLAS up, before numpy is imported.

    Its threads wait for more work with a core kept busy, 2^28 cycles by default: time that others
    of this machine's processes need. And it takes AMD processors that it doesn't know yet for older
    ones; its AVX-512 kernels are twice as fast there.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
    try:
        text = cpuinfo.read_text()
    except OSError:
        return
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    wide = {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags)
    if wide and "AuthenticAMD" in text:
        os.environ.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX")
