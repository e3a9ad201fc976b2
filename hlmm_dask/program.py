"""The commands as programs, each a process of its own.

What belongs to a process is set here, before anything heavy is imported, and stays to its end.
The functions of `hlmm_dask.cli` leave the process that calls them as it was.
"""

import os
import sys
from importlib import import_module

from hlmm_dask.ending import EXIT_INTERRUPTED, Ending, lasting_stderr
from hlmm_dask.printable import say


def scan() -> int:
    """``hlmm-scan``."""
    return _run("hlmm-scan", "cli:scan_main")


def chromosome() -> int:
    """``hlmm-chr``."""
    return _run("hlmm-chr", "cli:hlmm_chr_main")


def fit() -> int:
    """``hlmm-fit``."""
    return _run("hlmm-fit", "cli:fit_main")


def dispersion() -> int:
    """``hlmm-dispersion``."""
    return _run("hlmm-dispersion", "cli:dispersion_main")


def loci() -> int:
    """``hlmm-loci``."""
    return _run("hlmm-loci", "cli:loci_main")


def kinship() -> int:
    """``hlmm-kinship``."""
    return _run("hlmm-kinship", "cli:kinship_main")


def report() -> int:
    """``hlmm-report``."""
    return _run("hlmm-report", "cli:report_main")


def munge() -> int:
    """``hlmm-munge``."""
    return _run("hlmm-munge", "cli:munge_main")


def check() -> int:
    """``hlmm-check``."""
    return _run("hlmm-check", "cli_followup:check_main")


def interact() -> int:
    """``hlmm-interact``."""
    return _run("hlmm-interact", "cli_followup:interact_main")


def _run(name: str, main: str) -> int:
    ending = Ending().__enter__()
    try:
        with lasting_stderr():
            prepare_blas()
            module, _, function = main.partition(":")
            code: int = getattr(import_module(f"hlmm_dask.{module}"), function)()
    except BaseException as error:
        if not (ending.asked or isinstance(error, KeyboardInterrupt)):
            raise
        # It came before the command could handle it.
        print(file=sys.stderr)
        say(f"{name}: interrupted")
        code = EXIT_INTERRUPTED
    # After an interrupt, further signals are ignored until the process has ended.
    if code != EXIT_INTERRUPTED:
        ending.__exit__()
    return code


def prepare_blas(cpuinfo: str | os.PathLike[str] = "/proc/cpuinfo") -> None:
    """Set OpenBLAS up, before numpy is imported.

    Its threads wait for more work with a core kept busy, 2^28 cycles by default: time that other
    processes of this machine need. It also takes AMD processors that it doesn't know yet for older
    ones; its AVX-512 kernels are twice as fast there.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
    try:
        with open(cpuinfo) as file:
            text = file.read()
    except OSError:
        return
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    wide = {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags)
    if wide and "AuthenticAMD" in text:
        os.environ.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX")
