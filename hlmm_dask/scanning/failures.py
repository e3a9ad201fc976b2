"""Failed blocks, and why a run stopped: for views that do not hear the run's events."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hlmm_dask.durable import open_to_append
from hlmm_dask.json_files import COUNT, check_shape, parse
from hlmm_dask.scanning.events import BlockFailed, Event, ScanStarted

_FILE, _STOPPED = "failures.jsonl", "stopped"
_FAILED = {"block": COUNT, "error": str, "n_variants": COUNT, "workers?": [str]}


class FailureLog:
    """Observer that writes a line for each failed block; a new run starts a new list.

    Parameters
    ----------
    run_dirs : sequence of Path
        The run folders of all phenotypes' stores.
    """

    def __init__(self, run_dirs: Sequence[Path]) -> None:
        self._files = [folder / _FILE for folder in run_dirs]

    def __call__(self, event: Event, /) -> None:
        """Take note of an event."""
        # A full disk must not hide the failure itself.
        with suppress(OSError):
            for path in self._files:
                if isinstance(event, ScanStarted):
                    path.unlink(missing_ok=True)
                elif isinstance(event, BlockFailed):
                    _append(path, asdict(event))

    def stopped(self, error: BaseException) -> None:
        """Take note of what ended the run before its last block."""
        nameless = "interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        reason = " ".join(str(error).split()) or nameless
        with suppress(OSError):
            for path in self._files:
                _append(path, {_STOPPED: reason})


def _append(path: Path, content: dict[str, Any]) -> None:
    with open_to_append(path) as file:
        file.write(f"{json.dumps(content)}\n".encode())


def read_failures(run_dir: Path) -> list[BlockFailed]:
    """Return the blocks that failed in the latest run, in the order in which they did."""
    return [
        BlockFailed(
            line["block"], line["error"], line["n_variants"], tuple(line.get("workers", ()))
        )
        for line in _lines(run_dir)
        if "block" in line
    ]


def read_stop(run_dir: Path) -> str:
    """Return what ended the latest run early; nothing if it was not heard of."""
    return next((str(line[_STOPPED]) for line in _lines(run_dir) if _STOPPED in line), "")


def _lines(run_dir: Path) -> Iterator[dict[str, Any]]:
    with suppress(FileNotFoundError):
        for line in (run_dir / _FILE).read_bytes().splitlines():
            # The last line may be half written.
            with suppress(ValueError):
                found = parse(line)
                check_shape(found, (_FAILED, {_STOPPED: str}))
                yield found
