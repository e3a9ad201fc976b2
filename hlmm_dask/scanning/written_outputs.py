"""What a scan writes from its results, kept with its store: a resumed run must write it again."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hlmm_dask.durable import read_record, write_record
from hlmm_dask.errors import StoreError
from hlmm_dask.store import ResultsStore

if TYPE_CHECKING:
    from hlmm_dask.scanning.job import ScanJob

OUTPUTS_FILE = "outputs.json"
_SHAPE = {
    "dispersion": bool,
    "dispersion_blocks": (None, str, int),
    "dispersion_exclude": (None, float),
    "dispersion_slope_error": bool,
    "parquet": bool,
    "tabix": bool,
    "formats": [str],
}


def write_outputs(store: ResultsStore, job: "ScanJob") -> None:
    """Keep with a store what a job writes from it."""
    content = _of(job)
    if _read(store) != content:
        write_record(store.run_dir / OUTPUTS_FILE, content)


def check_outputs(store: ResultsStore, job: "ScanJob") -> None:
    """Raise a `StoreError` if a resumed job would leave out, or change, what the scan has written.

    It may write more.
    """
    kept, now = _read(store), _of(job)
    if kept is None:
        return
    missing = [f"--{name}" for name in ("parquet", "tabix") if kept[name] and not now[name]]
    if lost := [name for name in kept["formats"] if name not in now["formats"]]:
        missing.append(f"--format {','.join(lost)}")
    if kept["dispersion"]:
        wanted = [
            _spelled(name, value)
            for name, value in kept.items()
            if name.startswith("dispersion") and now[name] != value
        ]
        if not now["dispersion"] or wanted:
            missing += ["--dispersion", *(text for text in wanted if text != "--dispersion")]
    if missing:
        raise StoreError(
            f"{store.path}: the scan was run with other options for its output; with --resume "
            f"give {' '.join(missing)} again, or start again with --overwrite"
        )


def _of(job: "ScanJob") -> dict[str, Any]:
    given = {name: getattr(job, name) for name in _SHAPE}
    return given | {"formats": list(job.formats)}


def _read(store: ResultsStore) -> Mapping[str, Any] | None:
    try:
        return read_record(store.run_dir / OUTPUTS_FILE, _SHAPE)
    except (FileNotFoundError, IsADirectoryError, ValueError):
        # The table can be written again whatever it was.
        return None


def _spelled(name: str, value: Any) -> str:
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return option
    return f"{option} {value}" if value is not None and value is not False else f"no {option}"
