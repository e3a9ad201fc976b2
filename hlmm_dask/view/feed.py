"""What a live view shows, in pieces of plain values; only those that changed are sent."""

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from hlmm_dask.printable import printable
from hlmm_dask.scanning.worker_state import WorkerState
from hlmm_dask.view.progress import Progress
from hlmm_dask.view.terminal import duration
from hlmm_dask.view.thinned import Thinned
from hlmm_dask.view.thinning import TESTS
from hlmm_dask.view.watch import Watcher

# The genome in so many tiles, each sent when a point in it is new.
N_TILES = 24
TILES = tuple(f"tile{i:02d}" for i in range(N_TILES))
PIECES = ("progress", "workers", "failures", "axis", "qq", "loci", *TILES)

# Below this -log10 p the points are thinned again, to steps of ...
_BEND, _STEP = 4.0, 0.25
N_BINS = 120
_N_QUANTILES = 200
_MAX_FAILURES = 50
_N_LOCI = 10
# Share of the machine's time that a view takes from a scan that runs.
_SHARE = 0.01

_COLUMNS = {
    "af": "minor_allele_frequency",
    "add": "add",
    "add_se": "add_se",
    "var": "var",
    "var_se": "var_se",
}
# Bits of a point's "in": the plots that show it.
_PLOTS = {"mean": 1, "variance": 2, "joint": 4}
_EFFECTS = 8


class Feed:
    """Pieces of what there is to see of a run.

    Parameters
    ----------
    path : path
        The results store, which need not be there yet.
    workers : callable, optional
        Tells of the workers at present, where a cluster is at hand.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        workers: Callable[[], Sequence[WorkerState]] | None = None,
    ) -> None:
        self._watcher = Watcher(path, n_bins=N_BINS)
        self._workers = workers
        self._pieces: dict[str, Any] = {name: {} for name in PIECES}
        # Above those of any earlier feed: a page that has seen one gets all pieces of this one.
        self._begun = self.version = time.time_ns() // 1_000_000
        self._versions = dict.fromkeys(PIECES, self._begun)
        self._drawn: Thinned | None = None
        self._tiles: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._next = 0.0
        self.progress = Progress()

    def poll(self, *, every: float = 1.0, more: dict[str, Any] | None = None) -> float:
        """Look at the store unless that was done just now; return seconds until the next look.

        Parameters
        ----------
        every : float
            Least seconds between looks at a run that goes on.
        more : dict, optional
            What else to say of the run's progress.
        """
        with self._lock:
            if time.monotonic() < self._next:
                return self._next - time.monotonic()
            began = time.perf_counter()
            cores = len(os.sched_getaffinity(0))
            first = self.version == self._begun
            live = self.progress.state == "running" and not first
            self.progress = self._watcher.poll(_SHARE * cores * every if live else 0.3)
            self._update(more or {})
            spent = time.perf_counter() - began
            if self.progress.state == "running":
                # What was started late catches up when the run is done.
                wait = max(every, 0.0 if first else spent / (_SHARE * cores))
            elif self.progress.state == "finished":
                wait = 0.1 if self._watcher.behind else 10 * every
            else:
                wait = every
            self._next = time.monotonic() + wait
            return wait

    def since(self, version: int) -> dict[str, Any]:
        """Pieces by name that changed after a version."""
        with self._lock:
            changed = (name for name, at in self._versions.items() if at > version)
            return {name: self._pieces[name] for name in changed}

    @property
    def complete(self) -> bool:
        """Whether the run is finished and all of it has been read."""
        return self.progress.state == "finished" and not self._watcher.behind

    def _update(self, more: dict[str, Any]) -> None:
        new: dict[str, Any] = {
            "progress": _progress(self._watcher, self.progress) | more,
            "workers": self._worker_rows(),
            "failures": [asdict(f) for f in self.progress.failures[:_MAX_FAILURES]],
            "axis": [[printable(c.name), c.first, c.last] for c in self._watcher.contigs],
        }
        thinned = self._watcher.thinned
        if thinned is None:
            new |= {name: {} for name in ("qq", "loci", *TILES)}
            self._tiles.clear()
        elif thinned is not self._drawn:
            new |= {"qq": _quantiles(thinned), "loci": _loci(thinned)} | self._new_tiles(thinned)
        self._drawn = thinned
        self.version += 1
        for name, value in new.items():
            if value != self._pieces[name]:
                self._pieces[name] = value
                self._versions[name] = self.version

    def _worker_rows(self) -> list[dict[str, Any]]:
        shares = {share.name: share for share in self.progress.workers}
        present = {state.address: state for state in self._workers()} if self._workers else {}
        rows = []
        # Workers of a cluster that is gone are told of in the sum only.
        for name in sorted(present or shares):
            share, state = shares.get(name), present.get(name)
            row: dict[str, Any] = {"name": name, "blocks": share.n_blocks if share else 0}
            row["variants"] = share.n_variants if share else 0
            row["last"] = share.last_block if share else None
            if state is not None:
                row |= {"memory": state.memory, "limit": state.memory_limit}
                row["current"] = list(state.blocks)
            rows.append(row)
        return rows

    def _new_tiles(self, thinned: Thinned) -> dict[str, Any]:
        """Return the tiles in which other points are to be seen than before."""
        points, where = thinned.points, np.zeros(len(thinned.in_effects), dtype=np.uint8)
        tile_of = points["index"] * N_TILES // thinned.n_variants
        place = points["index"] * N_BINS // thinned.n_variants
        for name in thinned.shown:
            own = points[thinned.test(name).column]
            where[_coarse(thinned.shown[name], place, own)] |= _PLOTS[name]
        where[thinned.in_effects] |= _EFFECTS
        new = {}
        for i, name in enumerate(TILES):
            rows = np.flatnonzero((tile_of == i) & (where > 0))
            key = points["index"][rows].tobytes() + where[rows].tobytes()
            if key != self._tiles.get(name, b""):
                self._tiles[name] = key
                new[name] = {"in": where[rows].tolist()} | _described(thinned, rows)
        return new


def _coarse(
    shown: npt.NDArray[np.bool_], place: npt.NDArray[np.int64], y: npt.NDArray[np.float64]
) -> npt.NDArray[np.intp]:
    """Of the points shown, all that are high and the best of each larger cell below."""
    rows = np.flatnonzero(shown)
    low = rows[y[rows] < _BEND]
    low = low[np.argsort(-y[low], kind="stable")]
    cells = place[low] * 256 + (y[low] / _STEP).astype(np.int64)
    return np.concatenate([rows[y[rows] >= _BEND], low[np.unique(cells, return_index=True)[1]]])


def _described(thinned: Thinned, rows: npt.NDArray[Any]) -> dict[str, Any]:
    """Points by column: place and name, effects and p-values."""
    points = thinned.points
    columns = _COLUMNS | {test.name: test.column for test in (*TESTS, *thinned.tests)}
    out: dict[str, Any] = {
        "id": [printable(str(name)) for name in points["id"][rows]],
        "chrom": [printable(str(name)) for name in points["contig"][rows]],
        "pos": points["position"][rows].tolist(),
    }
    nothing = [None] * len(rows)
    return out | {
        name: _short(points[column][rows]) if column in points else nothing
        for name, column in columns.items()
    }


def _quantiles(thinned: Thinned) -> dict[str, Any]:
    found = {}
    for test in thinned.tests:
        q = thinned.quantiles(test.name, n_points=_N_QUANTILES)
        lambda_gc = thinned.lambda_gc(test.name)
        found[test.name] = {
            "expected": _short(q.expected),
            "observed": _short(q.observed),
            "n": q.n,
            "lambda": None if math.isnan(lambda_gc) else lambda_gc,
        }
    return found


def _loci(thinned: Thinned) -> dict[str, Any]:
    return {
        test.name: _described(thinned, thinned.loci(test.name, _N_LOCI)) for test in thinned.tests
    }


def _progress(watcher: Watcher, progress: Progress) -> dict[str, Any]:
    about = progress.about or {}
    words = {
        "elapsed_text": progress.elapsed,
        "left_text": progress.seconds_left,
    }
    return {
        "store": str(watcher.path),
        "model": str(about.get("model", "")),
        "phenotype": printable(str(about.get("phenotype", ""))),
        "unit": str(about.get("unit", "")),
        "samples": about.get("n_analysed_samples"),
        "state": progress.state,
        "error": printable(progress.stopped_by),
        "owner": progress.owner,
        "n_variants": progress.n_variants,
        "n_blocks": progress.n_blocks,
        "n_done_variants": progress.n_done_variants,
        "n_done_blocks": progress.n_done_blocks,
        "n_seen_blocks": progress.n_seen_blocks,
        "n_fitted": progress.n_fitted,
        "n_failed": len(progress.failures),
        "rate": progress.rate,
        "counts": dict(progress.counts or {}),
    } | {name: "" if s is None else duration(s) for name, s in words.items()}


def _short(values: npt.NDArray[np.float64]) -> list[float | None]:
    """Four digits are enough for a picture; JSON knows no NaN."""
    return [float(f"{x:.4g}") if math.isfinite(x) else None for x in values.tolist()]
