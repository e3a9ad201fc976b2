"""A run seen from outside: what its results store says, read bit by bit.

Nothing but the store's folder is read, so that it makes no difference who started the run, on
which machine, and whether it goes on, has stopped or is done.
"""

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hlmm_dask.errors import StoreError
from hlmm_dask.json_files import COUNT
from hlmm_dask.lock import read_lock, refuse_if_held
from hlmm_dask.placement import LOCK_FILE, not_readable
from hlmm_dask.scanning.failures import read_failures, read_stop
from hlmm_dask.schema import Status, phenotype_unit
from hlmm_dask.store import ResultsStore
from hlmm_dask.view.genome import Contig, Contigs
from hlmm_dask.view.progress import Progress, State, WorkerShare
from hlmm_dask.view.thinned import Thinned
from hlmm_dask.view.thinning import CARRIED, Thinner, tests_of

# Seconds over which the rate is taken: long enough for blocks of half a minute.
_RATE_WINDOW = 120.0
# Chunks of names that are kept.
_MOST_HELD = 4
_ATTRS = {"model?": str, "phenotype?": str, "n_analysed_samples?": COUNT, "transform?": str}


@dataclass(frozen=True)
class _Done:
    """A marker: its block's range, who wrote it and when."""

    start: int
    stop: int
    worker: str
    time: float
    counts: Mapping[str, int]


class Watcher:
    """Reads what is new in a results store at each `poll`.

    Parameters
    ----------
    path : path
        The store (``OUTPREFIX.zarr``); it need not be there yet.
    n_bins : int
        Pieces of the genome in which plots are thinned.
    """

    def __init__(self, path: str | os.PathLike[str], *, n_bins: int = 120) -> None:
        self.path = Path(os.path.abspath(path))
        self._n_bins = n_bins
        self._forget()

    def _forget(self) -> None:
        self._store: ResultsStore | None = None
        self._made: object = None
        self._about: dict[str, Any] = {}
        self._done: dict[int, _Done] = {}
        self._unseen: list[int] = []
        self._thinner: Thinner | None = None
        self._thinned: Thinned | None = None
        self._contigs = Contigs()
        self._runs: dict[int, list[tuple[int, str]]] = {}
        self._held: dict[tuple[str, int], npt.NDArray[Any]] = {}
        self._n_surveyed = self._chunk_rows = self._n_new = self._n_damaged = 0

    def poll(self, budget: float = 0.3) -> Progress:
        """Read for about ``budget`` seconds what came since the last time.

        Returns
        -------
        Progress
            As of now; ``n_seen_blocks < n_done_blocks`` while there is more to read.
        """
        end = time.perf_counter() + budget
        try:
            if not self._open():
                return Progress()
            self._read_markers(end)
            self._survey(end - budget / 2)
            self._read_blocks(end)
            return self._progress()
        except FileNotFoundError:
            # Replaced or removed meanwhile: the next poll starts from the beginning.
            self._forget()
            return Progress()
        except StoreError as error:
            self._forget()
            return Progress(state="stopped", stopped_by=str(error))

    @property
    def behind(self) -> bool:
        """Whether there was more to read than there was time."""
        more = self._n_new or self._unseen or self._n_surveyed < self._n_variants
        return bool(more)

    @property
    def thinned(self) -> Thinned | None:
        """What the blocks read so far add up to; None before the first."""
        if self._thinned is None and self._thinner is not None and self._n_seen:
            self._thinned = self._thinner.thinned()
        return self._thinned

    @property
    def contigs(self) -> tuple[Contig, ...]:
        """The chromosomes of the whole scan, as far as they are known."""
        return self._contigs.ordered()

    @property
    def _n_variants(self) -> int:
        return self._store.n_variants if self._store is not None else 0

    @property
    def _n_seen(self) -> int:
        return len(self._done) - len(self._unseen) - self._n_damaged

    def _open(self) -> bool:
        try:
            found = (self.path / ".run" / "manifest.json").stat()
        except (FileNotFoundError, NotADirectoryError):
            self._forget()
            return False
        except PermissionError:
            raise not_readable(self.path) from None
        made = (found.st_ino, found.st_mtime_ns)
        if made != self._made:
            self._forget()
            self._store = ResultsStore.open(self.path)
            unit = phenotype_unit(self._store.fingerprint)
            self._about = {**self._store.attrs(_ATTRS), "unit": unit}
            self._chunk_rows = self._store.names_rows
            self._thinner = Thinner(
                self._store.n_variants,
                tests=tests_of(self._store.columns),
                n_bins=self._n_bins,
                cap=300,
                n_sample=800,
            )
            self._made = made
        return True

    def _read_markers(self, end: float) -> None:
        assert self._store is not None
        folder = self._store.run_dir / "blocks"
        # One listing tells what is new without a look at each.
        found = set(self._store.marked())
        if not self._done.keys() <= found:
            # Blocks were taken back, to be fitted again.
            self._forget()
            self._open()
        new = sorted(found - self._done.keys())
        for i, index in enumerate(new):
            self._n_new = len(new) - i - 1
            marker = self._store.marker(index)
            if marker is None:
                continue
            self._done[index] = _Done(
                marker["start"],
                marker["stop"],
                str(marker["worker"]),
                (folder / f"{index:07d}.json").stat().st_mtime,
                marker["counts"],
            )
            self._unseen.append(index)
            if time.perf_counter() > end:
                break
        self._unseen.sort(reverse=True)

    def _survey(self, end: float) -> None:
        """Learn the chromosomes and their lengths ahead of the results."""
        while self._n_surveyed < self._n_variants:
            self._runs_of(self._n_surveyed // self._chunk_rows)
            self._n_surveyed += self._chunk_rows
            if time.perf_counter() > end:
                break

    def _runs_of(self, chunk: int) -> list[tuple[int, str]]:
        """Where in a chunk of variants each chromosome begins; few numbers instead of names."""
        if chunk not in self._runs:
            start, contig = self._names("variant_contig", chunk)
            position = self._names("variant_position", chunk)[1]
            self._contigs.add(np.arange(start, start + len(contig)), contig, position)
            first = np.flatnonzero(np.append(True, contig[1:] != contig[:-1])).tolist()
            self._runs[chunk] = [(row, str(contig[row])) for row in first]
        return self._runs[chunk]

    def _read_blocks(self, end: float) -> None:
        assert self._store is not None
        assert self._thinner is not None
        columns = {name: i for i, name in enumerate(self._store.columns)}
        wanted = {*CARRIED, *(test.column for test in self._thinner.tests)} & columns.keys()
        while self._unseen:
            block = self._done[self._unseen.pop()]
            try:
                values = self._store.read(block.start, block.stop)
            except StoreError:
                self._n_damaged += 1
                continue
            self._thinner.add(
                block.start,
                self._variants(block.start, block.stop),
                {name: np.ascontiguousarray(values[:, columns[name]]) for name in wanted},
            )
            self._thinned = None
            if time.perf_counter() > end:
                break

    def _variants(self, start: int, stop: int) -> dict[str, npt.NDArray[Any]]:
        """Names and places of the variants of a block, which lies within one chunk of them."""
        chunk = start // self._chunk_rows
        first, ids = self._names("variant_id", chunk)
        here = slice(start - first, stop - first)
        contig = np.empty(len(ids), dtype=object)
        for row, name in self._runs_of(chunk):
            contig[row:] = name
        return {
            "variant_id": ids[here],
            "variant_contig": contig[here],
            "variant_position": self._names("variant_position", chunk)[1][here],
        }

    def _names(self, name: str, chunk: int) -> tuple[int, npt.NDArray[Any]]:
        assert self._store is not None
        start = chunk * self._chunk_rows
        stop = min(start + self._chunk_rows, self._store.n_variants)
        if (name, chunk) not in self._held:
            # A chunk holds tens of blocks, which mostly come one after the other.
            while len(self._held) >= _MOST_HELD:
                self._held.pop(next(iter(self._held)))
            self._held[name, chunk] = self._store.read_names(name, start, stop)
        return start, self._held[name, chunk]

    def _progress(self) -> Progress:
        assert self._store is not None
        now = time.time()
        owner, since = _owner(self._store.run_dir / LOCK_FILE)
        summary = self._store.summary()
        n_done = sum(done.stop - done.start for done in self._done.values())
        state: State = "running" if owner else "stopped"
        rate = left = elapsed = None
        if summary is not None:
            state = "finished"
            elapsed = summary.get("seconds")
            rate = summary.get("variants_per_second")
        elif owner:
            elapsed = now - since
            begin = max(since, now - _RATE_WINDOW)
            recent = sum(d.stop - d.start for d in self._done.values() if d.time >= begin)
            rate = recent / max(now - begin, 1e-3) or None
            left = (self._store.n_variants - n_done) / rate if rate else None
        counts: Counter[str] = Counter()
        for done in self._done.values():
            counts.update(done.counts)
        failures = read_failures(self._store.run_dir)
        return Progress(
            state=state,
            stopped_by=read_stop(self._store.run_dir) if state == "stopped" else "",
            owner=owner,
            n_variants=self._store.n_variants,
            n_blocks=self._store.n_blocks,
            n_done_variants=n_done,
            n_done_blocks=len(self._done),
            n_fitted=counts[Status.OK.label],
            rate=rate,
            seconds_left=left,
            elapsed=elapsed,
            workers=self._shares(),
            failures=tuple(f for f in failures if f.block not in self._done),
            counts=dict(counts),
            n_seen_blocks=self._n_seen,
            about=self._about,
        )

    def _shares(self) -> tuple[WorkerShare, ...]:
        blocks: dict[str, list[tuple[float, int, int]]] = {}
        for index, done in self._done.items():
            blocks.setdefault(done.worker, []).append((done.time, index, done.stop - done.start))
        shares = []
        for name, own in sorted(blocks.items()):
            when, last, _ = max(own)
            shares.append(WorkerShare(name, len(own), sum(n for *_, n in own), last, when))
        return tuple(shares)


def _owner(lock: Path) -> tuple[str, float]:
    """Who holds a lock and lives, and since when; nothing if nobody does."""
    holder = read_lock(lock)
    if holder is None:
        return "", 0.0
    try:
        refuse_if_held(lock, watch=False)
    except StoreError:
        return f"process {holder['pid']} on {holder['host']}", float(holder["since"])
    return "", 0.0
