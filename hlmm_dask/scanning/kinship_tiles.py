"""Realised relationship matrices cut into tasks: tiles of pairs, and ranges of variants."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hlmm_dask.errors import ClusterLostError, InputError, ScanError
from hlmm_dask.genotypes.plink import PlinkGenotypes
from hlmm_dask.kernels.relationship import RelationshipModel, Tile, tile_sums
from hlmm_dask.scanning.cancelled import CANCELLED

if TYPE_CHECKING:
    from distributed import Client

# Samples on a tile's side: what a task returns is at most 128 MiB.
_TILE = 4096
# A block of variants: larger ones are no faster, and new pages of memory take time.
_BLOCK_BYTES = 32 * 2**20
# Pairs times variants of one task, some seconds of one core, where tiles alone are too few.
_TASK = 1e10
_MOST_TASKS = 64


@dataclass(frozen=True)
class TileTask:
    """A tile's sums over the variants [start, stop) that `chosen` has."""

    part: int
    rows: slice
    columns: slice
    start: int
    stop: int
    chosen: NDArray[np.bool_]


def tile_tasks(
    source: PlinkGenotypes, n: int, spans: Sequence[tuple[int, int, NDArray[np.bool_]]]
) -> Iterator[TileTask]:
    """Cut into tasks, from the data alone: sums are the same on every cluster.

    Each span is a part's range of variants, and which of them are used.
    """
    edges = [*range(0, n, _TILE), n]
    sides = [slice(a, b) for a, b in pairwise(edges)]
    tiles = [(a, b) for i, a in enumerate(sides) for b in sides[i:]]
    wanted = min(_MOST_TASKS, n * n * source.n_variants / _TASK)
    for part, (first, last, chosen) in enumerate(spans):
        share = wanted * (last - first) / source.n_variants / len(tiles)
        pieces = max(1, round(share))
        at = [first + (last - first) * i // pieces for i in range(pieces + 1)]
        for start, stop in pairwise(at):
            for rows, columns in tiles:
                mine = chosen[start - first : stop - first]
                yield TileTask(part, rows, columns, start, stop, mine)


def run_tiles(
    source: PlinkGenotypes,
    model: RelationshipModel,
    tasks: Iterator[TileTask],
    client: "Client | None",
    *,
    no_workers_timeout: float = 300.0,
) -> Iterator[tuple[TileTask, Tile]]:
    """Compute tasks, a few ahead, and give them in their order: sums never depend on timing.

    Raises
    ------
    InputError
        If the genotypes can't be read, or have changed.
    ScanError
        If there is no worker for longer than ``no_workers_timeout`` seconds, the scheduler is
        gone, or workers fail.
    """
    if client is None:
        yield from ((task, _compute(source, model, task)) for task in tasks)
        return
    # Imported where they are needed, as a command of one process does without.
    from hlmm_dask.scanning.watch import WorkerWatch

    n_threads = sum(client.nthreads().values())
    # A task, not data: that is gone with the last worker that has it.
    shared = client.submit(_pair, source, model, pure=False)
    ahead = _Ahead(client)
    with WorkerWatch(client, ahead, no_workers_timeout) as watch:
        try:
            for task in tasks:
                ahead.submit(task, shared)
                if len(ahead) > n_threads:
                    yield ahead.result()
            while len(ahead):
                yield ahead.result()
        except CANCELLED:
            silent = f"no worker for {no_workers_timeout:g} s"
            gone = silent if watch.gave_up else "the scheduler is gone, or forgot its tasks"
            raise ClusterLostError(f"relationship matrix: {gone}; run it again") from None
        finally:
            ahead.cancel()


class _Ahead:
    """Tasks on their way, in their order."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._waiting: deque[tuple[TileTask, Any]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, task: TileTask, shared: Any) -> None:
        future = self._client.submit(_on_worker, shared, task, pure=False, retries=2)
        self._waiting.append((task, future))

    def result(self) -> tuple[TileTask, Tile]:
        """Wait for the first."""
        task, future = self._waiting[0]
        try:
            tile: Tile = future.result()
        except (InputError, *CANCELLED):
            raise
        except Exception as error:  # whatever it is on the worker, here it is one line
            from distributed import KilledWorker

            text = "workers died, mostly for lack of memory; give them more"
            if not isinstance(error, KilledWorker):
                text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ScanError(f"relationship matrix: {text}") from error
        self._waiting.popleft()
        future.release()
        return task, tile

    def cancel_stranded(self, there: Iterable[str]) -> None:
        """None is bound to a worker."""

    def cancel(self) -> None:
        self._client.cancel([future for _, future in self._waiting])


def _pair(
    source: PlinkGenotypes, model: RelationshipModel
) -> tuple[PlinkGenotypes, RelationshipModel]:
    return source, model


def _on_worker(shared: tuple[PlinkGenotypes, RelationshipModel], task: TileTask) -> Tile:
    with threadpool_limits(1):
        return _compute(*shared, task)


def _compute(source: PlinkGenotypes, model: RelationshipModel, task: TileTask) -> Tile:
    side = max(task.rows.stop - task.rows.start, task.columns.stop - task.columns.start)
    size = max(1, _BLOCK_BYTES // (8 * side))
    total: Tile | None = None
    for start in range(task.start, task.stop, size):
        stop = min(start + size, task.stop)
        chosen = task.chosen[start - task.start : stop - task.start]
        if not chosen.any() and total is not None:
            continue
        packed = source.read_packed(start, stop)[chosen]
        tile = tile_sums(packed, model, task.rows, task.columns)
        total = tile if total is None else _joined(total, tile)
    assert total is not None
    return total


def _joined(total: Tile, tile: Tile) -> Tile:
    np.add(total.sums, tile.sums, out=total.sums)
    absent = total.absent if tile.absent is None else tile.absent
    if total.absent is not None and tile.absent is not None:
        absent = total.absent + tile.absent
    return replace(total, absent=absent, n_variants=total.n_variants + tile.n_variants)
