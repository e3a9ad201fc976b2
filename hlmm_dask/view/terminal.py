"""Progress and summary of a scan on a terminal, or as plain lines in a log."""

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.text import Text

from hlmm_dask.printable import line_of
from hlmm_dask.scanning.events import (
    BlockDone,
    BlockFailed,
    Event,
    Note,
    PageServed,
    ScanFinished,
    ScanStarted,
    Warned,
)
from hlmm_dask.schema import STATUS_DOC
from hlmm_dask.view.wording import decimals

# Failed blocks that are named one by one; a broken run must not fill the screen.
_MAX_FAILURES_SHOWN = 10

# Seconds after which a worker that has finished no block is counted no more.
_WORKER_GONE = 300.0


class TerminalProgress:
    """Observer that shows a bar on a terminal and plain lines elsewhere.

    Parameters
    ----------
    console : Console, optional
        Where to; standard error by default.
    interval : float
        Least seconds between two plain lines; the first and the last always come.
    clock : callable
        Gives the time in seconds.
    """

    def __init__(
        self,
        console: Console | None = None,
        interval: float = 30.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True)
        self._interval = interval
        self._clock = clock
        self._tally = _Tally()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._last_line = float("-inf")
        self._warned: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __call__(self, event: Event, /) -> None:
        """Show an event."""
        now = self._clock()
        self._tally.add(event, now)
        match event:
            case ScanStarted():
                self._start(event, now)
            case BlockDone():
                self._advance(now)
            case BlockFailed():
                if self._tally.n_failed <= _MAX_FAILURES_SHOWN:
                    self._say(f"block {event.block} failed: {event.error}")
                if self._tally.n_failed == _MAX_FAILURES_SHOWN:
                    self._say("further failed blocks are only counted here")
                self._advance(now)
            case PageServed():
                self._say(f"page of the scan: {event.address}")
            case Note():
                self._say(event.text)
            case Warned() if event.text not in self._warned:
                self._warned.add(event.text)
                self._say(f"warning: {event.text}")
            case ScanFinished():
                self.close()
                self._say(self._tally.line(now))

    def close(self) -> None:
        """Take the bar away and give the terminal back; may be called more than once."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start(self, event: ScanStarted, now: float) -> None:
        where = f" on {count(event.n_workers, 'worker')}" if event.n_workers else ""
        model = f"{event.model}: " if event.model else ""
        samples = f" x {event.n_samples:,} samples" if event.n_samples else ""
        self._say(
            f"{model}{event.n_variants:,} variants{samples} in "
            f"{count(event.n_blocks, 'block')}{where}"
        )
        if event.n_done_variants:
            self._say(f"{event.n_done_variants:,} variants are done from an earlier run")
        self._last_line = now
        if self._console.is_terminal:
            self.close()
            self._bar = Progress(
                SpinnerColumn(),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                _TallyColumn(self._tally, self._clock),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(
                "scan", total=event.n_variants, completed=event.n_done_variants
            )
            self._bar.start()

    def _advance(self, now: float) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._tally.n_done)
        elif now - self._last_line >= self._interval:
            self._last_line = now
            self._say(self._tally.line(now))

    def _say(self, line: str) -> None:
        print_line(self._console, line)


class _Tally:
    """What the events add up to."""

    def __init__(self) -> None:
        self.n_total = 0
        self.n_done = 0
        self.n_failed = 0
        self.n_failed_variants = 0
        self.n_here = self.n_workers = 0
        self.started = 0.0
        self._heard: dict[str, float] = {}

    def add(self, event: Event, now: float) -> None:
        match event:
            case ScanStarted():
                self.n_total, self.n_done = event.n_variants, event.n_done_variants
                self.n_failed = self.n_failed_variants = self.n_here = 0
                self.n_workers, self.started = event.n_workers, now
                self._heard = {}
            case BlockDone():
                self.n_done += event.n_variants
                self.n_here += event.n_variants
                self._count_workers(event.worker, now)
            case BlockFailed():
                self.n_failed += 1
                self.n_failed_variants += event.n_variants

    def _count_workers(self, worker: str, now: float) -> None:
        """Those heard of in the last minutes; at the beginning at least those that there were."""
        self._heard[worker] = now
        self._heard = {k: at for k, at in self._heard.items() if now - at <= _WORKER_GONE}
        young = now - self.started < _WORKER_GONE
        self.n_workers = max(len(self._heard), self.n_workers if young else 0)

    def line(self, now: float) -> str:
        """Done and total, variants a second, time left, failures."""
        elapsed = now - self.started
        rate = self.n_here / elapsed if elapsed > 0 else 0.0
        left = self.n_total - self.n_done - self.n_failed_variants
        parts = [f"{self.n_done:,}/{self.n_total:,} variants"]
        if self.n_here:
            parts.append(f"{rate:,.0f} variants/s")
            if left > 0 and rate > 0:
                parts.append(f"{duration(left / rate)} left")
            else:
                parts.append(f"{duration(elapsed)}")
        if self.n_workers and left > 0:
            parts.append(count(self.n_workers, "worker"))
        if self.n_failed:
            parts.append(f"{count(self.n_failed, 'block')} failed")
        return ", ".join(parts)


class _TallyColumn(ProgressColumn):
    """The tally's line beside the bar; one wording for terminal and log."""

    def __init__(self, tally: _Tally, clock: Callable[[], float]) -> None:
        super().__init__()
        self._tally = tally
        self._clock = clock

    def render(self, task: Task) -> Text:
        return Text(self._tally.line(self._clock()))


def print_summary(
    summary: Mapping[str, Any], *, console: Console | None = None, title: str = "Summary"
) -> None:
    """Print the summary of a scan, one line a figure.

    Parameters
    ----------
    summary : mapping
        ``n_variants``, ``n_fitted``, ``counts`` (variants by status label), ``lambda_gc_mean``,
        ``lambda_gc_variance``, ``lambda_gc_joint``, ``seconds``, ``variants_per_second``; all
        optional, and whatever else (a word or a number) is printed under its own name.
    console : Console, optional
        Where to; standard error by default.
    title : str
        First line.
    """
    rest = dict(summary)
    rows: list[tuple[str, str]] = []
    for key, label in (("n_variants", "variants read"), ("n_fitted", "fitted")):
        if key in rest:
            rows.append((label, f"{int(rest.pop(key)):,}"))
    docs = {status.label: doc for status, doc in STATUS_DOC.items()}
    left_out = {key: n for key, n in dict(rest.pop("counts", {})).items() if key != "ok" and n}
    for label, n in sorted(left_out.items(), key=lambda item: -item[1]):
        doc = f"  ({docs[label]})" if label in docs else ""
        rows.append((f"left out: {label}", f"{int(n):,}{doc}"))
    for key, label in (
        ("lambda_gc_mean", "lambda_GC, mean effect"),
        ("lambda_gc_variance", "lambda_GC, variance effect"),
        ("lambda_gc_joint", "lambda_GC, mean and variance"),
    ):
        if key in rest:
            rows.append((label, decimals(float(rest.pop(key)))))
    if "seconds" in rest:
        rows.append(("time", duration(float(rest.pop("seconds")))))
    if "variants_per_second" in rest:
        rows.append(("variants/s", f"{float(rest.pop('variants_per_second')):,.0f}"))
    rows += [(key.replace("_", " "), str(value)) for key, value in rest.items()]
    print_rows(title, rows, console=console)


def print_rows(
    title: str, rows: Sequence[tuple[str, str]], *, console: Console | None = None
) -> None:
    """Print a title and (what, how much), one line each; to standard error by default."""
    console = console or Console(stderr=True)
    width = max((len(label) for label, _ in rows), default=0)
    for line in (title, *(f"  {label:<{width}}  {value}" for label, value in rows)):
        print_line(console, line)


def print_line(console: Console, line: str) -> None:
    """Print a line on a console as `hlmm_dask.printable.say` does elsewhere."""
    # soft_wrap: a line stays one line in a log, whatever the width.
    console.print(line_of(line), markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Return a time in words: 0.4 s, 12 s, 3 min 05 s, 2 h 07 min, 3 d 04 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02d} h"


def count(n: int, noun: str) -> str:
    """Return a number with its noun: 1 block, 2,000 blocks."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
