"""The record of a run: OUTPREFIX.log for people, OUTPREFIX.run.json for machines."""

import json
import logging
import os
import shlex
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from hlmm_dask.durable import open_to_append, write_json
from hlmm_dask.errors import InputError, ScanError, StoreError, TakenOverError
from hlmm_dask.json_files import read_json
from hlmm_dask.printable import line_of, say
from hlmm_dask.scanning.environment import machine, versions
from hlmm_dask.scanning.events import (
    BlockDone,
    BlockFailed,
    BlockRetried,
    Event,
    FilesOpened,
    Note,
    NullFitted,
    PageServed,
    Phase,
    Planned,
    ScanFinished,
    ScanStarted,
    TablesWritten,
    Warned,
)
from hlmm_dask.scanning.warned import warning_text
from hlmm_dask.transforms import title_of

SCHEMA = 1

_TITLE = "hlmm_dask, run of "
_NOTHING_RANDOM = "none: nothing in a scan is random"


class RunLog:
    """Observer that keeps the record of a run; to be used as a context manager.

    Nothing is written before blocks are about to be fitted: what is refused leaves no file. A
    record that can't be written is no reason to end the run.

    Parameters
    ----------
    outprefix : str
        Start of the two files' names.
    command : sequence of str
        The command line.
    options : mapping
        All options with their effective values.
    replace : bool
        Replace the record of earlier runs; else this one is added to it.
    """

    def __init__(
        self,
        outprefix: str,
        *,
        command: Sequence[str],
        options: Mapping[str, Any],
        replace: bool = False,
    ) -> None:
        self._log, self._json = Path(f"{outprefix}.log"), Path(f"{outprefix}.run.json")
        self._replace = replace
        self._lines: list[str] = []
        self._keeps = self._broken = False
        self._earlier: list[Any] = []
        self._phase, self._since = "", time.perf_counter()
        self._warned: dict[str, int] = {}
        self._noted: dict[str, int] = {}
        self._phases: dict[str, float] = {}
        self._files: dict[str, list[str]] = {}
        self._phenotypes: list[dict[str, Any]] = []
        self._failed: list[dict[str, Any]] = []
        self._tables: dict[str, Any] = {}
        self._blocks = {
            "n_done": 0, "n_variants": 0, "n_fitted": 0, "worker_seconds": 0.0, "n_retried": 0,
        }  # fmt: skip
        self._stack = ExitStack()
        self._record: dict[str, Any] = {
            "started": _now(),
            "ended": None,
            "outcome": None,
            "exit_code": None,
            "error": None,
            "command": list(command),
            "directory": os.getcwd(),
            "seed": None,
            "versions": versions(),
            "machine": machine(),
            "options": dict(options),
            "genotype_files": self._files,
            "phenotypes": self._phenotypes,
            "plan": None,
            "scan": None,
            "blocks": self._blocks,
            "failed_blocks": self._failed,
            "seconds": self._phases,
            "tables": self._tables,
        }
        self._say_header()

    def __enter__(self) -> Self:
        self._stack.enter_context(warnings.catch_warnings())
        # Each is counted, where Python would show it once and forget it.
        warnings.simplefilter("always", append=True)
        warnings.showwarning = self._warning(warnings.showwarning)
        handler = _LoggedWarnings(lambda text: self._count(self._warned, text, "warning: "))
        logging.getLogger().addHandler(handler)
        self._stack.callback(logging.getLogger().removeHandler, handler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if isinstance(error, TakenOverError):
            # The record is that of the other run now.
            return
        self._enter("")
        outcome, code = _outcome(error)
        text = None if error is None else " ".join(f"{error}".split()) or type(error).__name__
        self._record |= {"ended": _now(), "outcome": outcome, "exit_code": code, "error": text}
        if error is None:
            self._keep()
        for what, counts in (("note", self._noted), ("warning", self._warned)):
            for line, n in counts.items():
                if n > 1:
                    self._say(f"{n:,} times the {what}: {line}")
        if self._blocks["n_done"]:
            self._say(
                "{n_done:,} blocks done in this run: {n_variants:,} variants, {n_fitted:,} fitted, "
                "{worker_seconds:.1f} s of workers' time".format(**self._blocks)
            )
        self._say("seconds: " + ", ".join(f"{k} {v:.2f}" for k, v in self._phases.items()))
        self._say(f"{outcome}, exit code {code}" + (f": {text}" if text else ""))
        self._write_json()

    def __call__(self, event: Event, /) -> None:
        """Take note of an event."""
        match event:
            case Phase():
                self._enter(event.name)
            case FilesOpened():
                self._files[event.what] = list(event.paths)
                self._say(f"{event.what}: {', '.join(event.paths)}")
            case PageServed():
                self._say(f"page of the scan: {event.address}")
            case Note():
                self._count(self._noted, event.text, "note: ")
            case Warned():
                self._count(self._warned, event.text, "warning: ", event.count)
            case NullFitted():
                self._null(event)
            case Planned():
                self._record["plan"] = asdict(event)
                limit = f" of {event.memory_limit:,}" if event.memory_limit else ", no limit"
                self._say(
                    f"plan: {event.n_blocks:,} blocks of {event.block_size:,} variants; a worker "
                    f"needs at most {event.worker_bytes:,} bytes{limit}"
                )
            case ScanStarted():
                self._record["scan"] = asdict(event)
                self._say("scan: " + ", ".join(f"{k} {v}" for k, v in asdict(event).items()))
                self._keep()
                self._write_json()
            case BlockDone():
                for key, value in (
                    ("n_done", 1),
                    ("n_variants", event.n_variants),
                    ("n_fitted", event.n_fitted),
                    ("worker_seconds", event.seconds),
                ):
                    self._blocks[key] += value
            case BlockFailed():
                self._failed.append(asdict(event))
                tried = f", tried on {', '.join(event.workers)}" if event.workers else ""
                self._say(
                    f"block {event.block} failed ({event.n_variants} variants{tried}): "
                    f"{event.error}"
                )
            case BlockRetried():
                self._blocks["n_retried"] += 1
                self._say(
                    f"block {event.block} failed on {event.worker}, is tried again: {event.error}"
                )
            case ScanFinished():
                self._enter("summary")
            case TablesWritten():
                self._tables[event.path] = event.summary
                self._say(f"{event.path}: " + json.dumps(_plain(event.summary)))

    # What is said

    def _say_header(self) -> None:
        record = self._record
        self._lines.append(f"{_TITLE}{record['started']}\n")
        self._say(f"command: {shlex.join(record['command'])}")
        for name in ("versions", "machine", "options"):
            pairs = (f"{key}={value}" for key, value in record[name].items())
            self._say(f"{name}: {', '.join(pairs)}")
        self._say(f"seed: {_NOTHING_RANDOM}")

    def _null(self, event: NullFitted) -> None:
        record = asdict(event)
        record["accounting"] = [{"step": step, "n": n} for step, n in event.accounting]
        names = ("part", "name", "effect", "se")
        record["effects"] = [dict(zip(names, row, strict=True)) for row in event.effects]
        self._phenotypes.append(record)
        what = f"phenotype '{title_of(event.phenotype, event.transform)}'"
        for part, name, effect, se in event.effects:
            self._say(f"{what}, null model: {part} of {name} {effect:.6g}, SE {se:.3g}")
        self._say(f"{what}, null model: log-likelihood {event.loglik:.6f}")
        if event.h2 is not None:
            random = f", {event.n_random:,} random effects" if event.n_random else ""
            self._say(f"{what}, null model: h2 {event.h2:.6g}, SE {event.h2_se:.3g}{random}")

    def _enter(self, phase: str) -> None:
        now = time.perf_counter()
        if self._phase:
            self._phases[self._phase] = self._phases.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now

    def _count(self, counts: dict[str, int], text: str, prefix: str, n: int = 1) -> bool:
        new = text not in counts
        counts[text] = counts.get(text, 0) + n
        if new:
            self._say(prefix + text)
        return new

    def _warning(self, show: Callable[..., None]) -> Callable[..., None]:
        def shown(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if self._count(self._warned, warning_text(message, category), "warning: "):
                show(message, category, filename, lineno, file, line)

        return shown

    # Where it is kept

    def _say(self, text: str) -> None:
        # One line for each: what holds line ends may not forge others, nor command a terminal.
        self._lines.append(f"{_now()}  {line_of(text, whole=True)}\n")
        if self._keeps:
            self._flush()

    def _keep(self) -> None:
        if self._keeps:
            return
        self._keeps = True
        self._guard(self._take_over)
        self._flush()

    def _take_over(self) -> None:
        """Replace the record of earlier runs, or go on with it."""
        if self._replace and _starts_with_title(self._log):
            self._log.unlink()
        if self._json.exists() and not self._replace:
            self._earlier = read_json(self._json, {"runs": [object]})["runs"]

    def _flush(self) -> None:
        lines, self._lines = self._lines, []

        def write() -> None:
            with open_to_append(self._log) as file:
                file.write("".join(lines).encode(errors="surrogateescape"))

        self._guard(write)

    def _write_json(self) -> None:
        if not self._keeps:
            return
        counts = {
            name: [{"text": text, "count": n} for text, n in given.items()]
            for name, given in (("notes", self._noted), ("warnings", self._warned))
        }
        run = _plain(self._record | counts)
        content = {"schema": SCHEMA, "runs": [*self._earlier, run]}
        self._guard(lambda: write_json(self._json, content))

    def _guard(self, act: Callable[[], None]) -> None:
        """Do without the record where it can't be written, and say so once."""
        if self._broken:
            return
        try:
            act()
        except (OSError, ValueError, TypeError, StoreError) as error:
            self._broken = True
            why = error if isinstance(error, StoreError) else repr(error)
            say(f"no record of this run in {self._log}: {why}")


class _LoggedWarnings(logging.Handler):
    """Passes on what libraries, Dask above all, log as warnings and worse."""

    def __init__(self, note: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        # The rest of a long message is a traceback; its cause is told by the scan itself.
        lines = record.getMessage().splitlines() or [""]
        self._note(f"{record.name}: {lines[0]}")


def _now() -> str:
    """Return the local time with its zone, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _outcome(error: BaseException | None) -> tuple[str, int]:
    """How a run ended, and the exit code of its command."""
    match error:
        case None:
            return "done", 0
        case InputError() | StoreError():
            return "refused", 2
        case ScanError():
            return "failed", 1
        case OSError() | KeyboardInterrupt():
            return "interrupted", 75
    return "crashed", 1


def _starts_with_title(path: Path) -> bool:
    """Whether a log is one of ours: other programs write OUTPREFIX.log, too."""
    try:
        with path.open("rb") as file:
            return file.read(len(_TITLE)) == _TITLE.encode()
    except FileNotFoundError:
        return False


def _plain(value: Any) -> Any:
    """JSON values: NaN and infinity, which JSON has not, become null."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
