"""What a run runs in: versions and machine, for its record."""

import os
import platform
import socket
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from distributed.system import MEMORY_LIMIT
from threadpoolctl import threadpool_info

_PACKAGES = (
    "hlmm-dask", "numpy", "scipy", "numba", "dask", "distributed", "zarr", "bed-reader", "xarray",
    "pandas", "pyarrow",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers and files come from."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Host, system, cores, memory and BLAS of this process."""
    blas = [
        f"{each['internal_api']} {each['version']} {each.get('architecture', '')}".strip()
        for each in threadpool_info()
        if each["user_api"] == "blas"
    ]
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": MEMORY_LIMIT,
        "blas": "; ".join(sorted(set(blas))),
    }
