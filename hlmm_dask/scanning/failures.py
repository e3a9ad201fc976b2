"""Failed blocks left in the run's folder, for views that do not hear the run's events."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from hlmm_dask.scanning.events import BlockFailed, Event, ScanStarted

_FILE = "failures.jsonl"


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
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(event)) + "\n")


def read_failures(run_dir: Path) -> list[BlockFailed]:
    """Return the blocks that failed in the latest run, in the order in which they did."""
    failures = []
    with suppress(FileNotFoundError):
        for line in (run_dir / _FILE).read_text(encoding="utf-8").splitlines():
            # The last line may be half written.
            with suppress(ValueError, TypeError, KeyError):
                found = json.loads(line)
                failures.append(BlockFailed(**found | {"workers": tuple(found["workers"])}))
    return failures
