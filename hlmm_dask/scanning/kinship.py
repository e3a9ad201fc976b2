"""Realised relationship matrices of whole genomes, on this machine's threads or on a cluster."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.arguments import check_filters, choice
from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.contigs import (
    HUMAN_AUTOSOMES,
    contig_runs,
    is_left_out,
    on_autosomes,
    plain_contig,
)
from hlmm_dask.genotypes.paths import Paths
from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink
from hlmm_dask.ids import id_hints, shown_ids
from hlmm_dask.kernels.packed import FloatArray, IntArray, PackedLayout
from hlmm_dask.kernels.relationship import Kind, RelationshipModel, Tile
from hlmm_dask.relationship.kinship import Id, Kinship
from hlmm_dask.scanning.kinship_tiles import TileTask, run_tiles, tile_tasks
from hlmm_dask.text import shown

if TYPE_CHECKING:
    from distributed import Client

# Few names are in memory at a time.
_VARIANTS_A_PIECE = 4096


@dataclass(frozen=True)
class RelationshipParts:
    """Sums of a relationship matrix by chromosome, so that each can be left out.

    Attributes
    ----------
    ids : list of (str, str)
        FID and IID of the rows.
    chromosomes : tuple of str
        Names, without ``chr`` and leading zeros.
    n_variants : (k,) int64
        Variants of each.
    folder : Path
        Where the sums lie: ``total.npy`` and one file a chromosome, n x n doubles each.
    source : str
        Names the genotypes.
    notes : tuple of str
        Variants that were left out.
    """

    ids: list[Id]
    chromosomes: tuple[str, ...]
    n_variants: NDArray[np.int64]
    folder: Path
    source: str
    notes: tuple[str, ...] = ()

    def whole(self) -> Kinship:
        """Relationships from all variants."""
        return self._kinship(None)

    def without(self, chromosome: str) -> Kinship:
        """Relationships from the variants of all other chromosomes.

        On a chromosome that has no variants here, nothing is left out.

        Raises
        ------
        InputError
            If there are no others.
        """
        name = plain_contig(chromosome)
        if name not in self.chromosomes:
            return self.whole()
        if len(self.chromosomes) == 1:
            raise InputError(
                f"{self.source}: all variants are on chromosome {name}, nothing is left without it"
            )
        return self._kinship(self.chromosomes.index(name))

    def _kinship(self, left_out: int | None) -> Kinship:
        sums = np.load(self.folder / "total.npy")
        used = int(self.n_variants.sum())
        absent = self._absent("total")
        if left_out is not None:
            sums -= np.load(self.folder / f"part{left_out}.npy", mmap_mode="r")
            used -= int(self.n_variants[left_out])
            if absent is not None and (part := self._absent(f"part{left_out}")) is not None:
                absent -= part
        return _finish(self.ids, sums, absent, used, self.source, self.notes)

    def _absent(self, name: str) -> NDArray[np.float32] | None:
        path = self.folder / f"{name}_absent.npy"
        return np.load(path) if path.exists() else None


def relationship_matrix(
    genotypes: PlinkGenotypes | Paths,
    *,
    kind: Kind = "standardised",
    samples: Sequence[Id] | None = None,
    among: Sequence[Id] | None = None,
    variants: NDArray[np.bool_] | None = None,
    min_maf: float = 0.01,
    max_missing: float = 5.0,
    autosomes: int | None = HUMAN_AUTOSOMES,
    client: "Client | None" = None,
    no_workers_timeout: float = 300.0,
) -> Kinship:
    """Compute the realised relationship matrix.

    Memory is the matrix, one tile of it and a block of variants; on a cluster a tile and a block
    for each thread of a worker, and here the tiles on their way. The result does not depend on
    the number of workers.

    Parameters
    ----------
    genotypes : PlinkGenotypes or path or sequence of paths
        The genotypes, as `open_plink` takes them.
    kind : {"standardised", "centred", "scaled"}
        See `RelationshipModel`.
    samples : sequence of (str, str), optional
        FID and IID of the samples to be used; all by default. Means and frequencies are theirs.
    among : sequence of (str, str), optional
        Of these, whose relationships are computed; all by default.
    variants : (n_variants,) bool, optional
        Variants to be used, all by default.
    min_maf, max_missing : float
        Of these, use those with a minor allele frequency above, and a percentage of missing
        calls below this.
    autosomes : int or None
        And that are on the chromosomes 1 to this number; on any if None. Variants with a negative
        position (-9, unknown, excepted) are never used.
    client : distributed.Client, optional
        Cluster that computes the tiles; by default this process.
    no_workers_timeout : float
        Seconds without any worker after which it is given up.

    Returns
    -------
    Kinship
        In the order of the genotypes' samples.

    Raises
    ------
    InputError
        If no variant is left, a sample is not in the genotypes, or two have no variant in common.
    ScanError
        If the cluster is lost, or its workers fail.
    """
    source, ids, model = _prepare(genotypes, kind, samples, among, min_maf, max_missing)
    chosen, notes = _chosen(source, variants, autosomes)
    total = _Sums(len(ids))
    tasks = tile_tasks(source, len(ids), [(0, source.n_variants, chosen)])
    for task, tile in run_tiles(
        source, model, tasks, client, no_workers_timeout=no_workers_timeout
    ):
        total.add(task, tile)
    return _finish(ids, total.sums, total.absent, total.n_variants, _name(source), notes)


def relationship_parts(
    genotypes: PlinkGenotypes | Paths,
    folder: Path,
    *,
    kind: Kind = "standardised",
    samples: Sequence[Id] | None = None,
    among: Sequence[Id] | None = None,
    variants: NDArray[np.bool_] | None = None,
    min_maf: float = 0.01,
    max_missing: float = 5.0,
    autosomes: int | None = HUMAN_AUTOSOMES,
    client: "Client | None" = None,
    no_workers_timeout: float = 300.0,
) -> RelationshipParts:
    """Compute the sums of each chromosome in one pass; see `relationship_matrix`.

    Parameters
    ----------
    folder : Path
        Where the sums are put: n x n doubles for each chromosome, and their total.
    """
    source, ids, model = _prepare(genotypes, kind, samples, among, min_maf, max_missing)
    chosen, notes = _chosen(source, variants, autosomes)
    found, starts, runs = contig_runs(t["contig"].to_numpy() for t in source.iter_variants())
    label = np.repeat(runs, np.diff(starts))
    # In the order of their first variant that is used.
    codes, firsts = np.unique(label[chosen], return_index=True)
    names, spans = [], []
    for code in codes[np.argsort(firsts)]:
        mine = chosen & (label == code)
        at = np.flatnonzero(mine)
        first, last = int(at[0]), int(at[-1]) + 1
        names.append(found[code])
        spans.append((first, last, mine[first:last].copy()))
    total = _Sums(len(ids))
    counts = np.zeros(len(names), dtype=np.int64)
    part, part_of = _Sums(0), -1
    tasks = tile_tasks(source, len(ids), spans)
    for task, tile in run_tiles(
        source, model, tasks, client, no_workers_timeout=no_workers_timeout
    ):
        if task.part != part_of:
            part.close()
            part_of = task.part
            part = _Sums(len(ids), folder / f"part{part_of}")
        part.add(task, tile)
        total.add(task, tile)
        counts[part_of] = part.n_variants
    part.close()
    if not total.n_variants:
        raise _nothing_left(_name(source))
    np.save(folder / "total.npy", total.sums)
    if total.absent is not None:
        np.save(folder / "total_absent.npy", total.absent)
    return RelationshipParts(ids, tuple(names), counts, folder, _name(source), notes)


class _Sums:
    """Sums of n x n pairs, in memory or in files, that tiles are added to."""

    def __init__(self, n: int, path: Path | None = None) -> None:
        self._path = path
        self._n = n
        self.n_variants = 0
        self.sums = self._zeros("", np.float64)
        self.absent: NDArray[np.float32] | None = None

    def _zeros(self, suffix: str, dtype: Any) -> NDArray[Any]:
        shape = (self._n, self._n)
        if self._path is None:
            return np.zeros(shape, dtype)
        path = self._path.with_name(f"{self._path.name}{suffix}.npy")
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)

    def add(self, task: TileTask, tile: Tile) -> None:
        rows, columns = task.rows, task.columns
        _add(self.sums, rows, columns, tile.sums)
        if tile.absent is not None:
            if self.absent is None:
                self.absent = self._zeros("_absent", np.float32)
            _add(self.absent, rows, columns, tile.absent)
        if rows.start == columns.start == 0:
            self.n_variants += tile.n_variants

    def close(self) -> None:
        for array in (self.sums, self.absent):
            if isinstance(array, np.memmap):
                array.flush()


def _add(out: NDArray[Any], rows: slice, columns: slice, tile: NDArray[Any]) -> None:
    out[rows, columns] += tile
    if rows != columns:
        out[columns, rows] += tile.T


def _prepare(
    genotypes: PlinkGenotypes | Paths,
    kind: Kind,
    samples: Sequence[Id] | None,
    among: Sequence[Id] | None,
    min_maf: float,
    max_missing: float,
) -> tuple[PlinkGenotypes, list[Id], RelationshipModel]:
    kind = choice("kind", kind, get_args(Kind))
    check_filters(min_maf, max_missing)
    source = genotypes if isinstance(genotypes, PlinkGenotypes) else open_plink(genotypes)
    everyone = list(zip(source.samples["fid"], source.samples["iid"], strict=True))
    index = np.arange(len(everyone), dtype=np.int64)
    rows = index
    if samples is not None:
        index = rows = _places(samples, everyone, source)
    if among is not None:
        rows = np.intersect1d(_places(among, everyone, source), index)
        if len(rows) < len(set(among)):
            raise InputError(
                f"{_name(source)}: {len(set(among)) - len(rows)} of the samples asked for are not "
                "among those whose frequencies are taken; give both the same"
            )
    if len(rows) < 2:
        raise InputError(f"{_name(source)}: {len(rows)} samples, a matrix needs at least 2")
    layout = PackedLayout(source.n_samples, index)
    model = RelationshipModel(layout, rows, kind, min_maf, max_missing)
    return source, [everyone[i] for i in rows], model


def _places(wanted: Sequence[Id], everyone: list[Id], source: PlinkGenotypes) -> IntArray:
    """Where samples stand in the file, in its order."""
    names = set(wanted)
    if absent := sorted(names - set(everyone)):
        raise InputError(
            f"{_name(source)}: {len(absent)} of {len(names)} samples are not in it "
            f"(first: {shown_ids(absent)}); "
            + ("; ".join(id_hints(absent, everyone)) or "leave them out")
        )
    return np.array([i for i, key in enumerate(everyone) if key in names], dtype=np.int64)


def _chosen(
    source: PlinkGenotypes, variants: NDArray[np.bool_] | None, autosomes: int | None
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Which variants are used, and notes on those that are left out."""
    chosen = np.ones(source.n_variants, dtype=bool) if variants is None else variants.copy()
    assert chosen.shape == (source.n_variants,)
    elsewhere, n_withdrawn = Counter[str](), 0
    for table in source.iter_variants(chunk_size=_VARIANTS_A_PIECE):
        mine = chosen[table.index[0] : table.index[-1] + 1]
        contigs = table["contig"].to_numpy()
        inside = on_autosomes(contigs, autosomes)
        elsewhere.update(contigs[mine & ~inside].tolist())
        mine &= inside
        withdrawn = is_left_out(table["position"].to_numpy())
        n_withdrawn += int((mine & withdrawn).sum())
        mine &= ~withdrawn
    notes = []
    if elsewhere:
        names = ", ".join(shown(name) for name in [*elsewhere][:5])
        more = ", ..." if len(elsewhere) > 5 else ""
        notes.append(
            f"{elsewhere.total():,} of {source.n_variants:,} variants are not used: chromosomes "
            f"{names}{more}, which are none of the autosomes 1 to {autosomes}"
        )
    if n_withdrawn:
        notes.append(f"{n_withdrawn:,} of {source.n_variants:,} variants are not used: a negative "
                     "position")  # fmt: skip
    if not chosen.any():
        raise _nothing_left(_name(source), "".join(f"; {note}" for note in notes))
    return chosen, tuple(f"relationship matrix of {_name(source)}: {note}" for note in notes)


def _finish(
    ids: list[Id],
    sums: FloatArray,
    absent: NDArray[np.float32] | None,
    n_variants: int,
    source: str,
    notes: tuple[str, ...],
) -> Kinship:
    if not n_variants:
        raise _nothing_left(source)
    if absent is None:
        sums /= n_variants
        return Kinship(ids, sums, float(n_variants), source, notes)
    counts = np.subtract(n_variants, absent, out=absent)
    if not counts.all():
        i, j = np.unravel_index(int(np.argmin(counts)), counts.shape)
        raise InputError(
            f"{source}: {shown(ids[i][1])} and {shown(ids[j][1])} have no variant with calls of "
            "both; leave one of them out, or use kind centred, which imputes"
        )
    sums /= counts
    return Kinship(ids, sums, counts, source, notes)


def _name(source: PlinkGenotypes) -> str:
    return f"{source.paths[0]}{', ...' if len(source.paths) > 1 else ''}"


def _nothing_left(source: str, why: str = "") -> InputError:
    return InputError(
        f"{source}: no variant is left for the relationship matrix{why}; check --extract, "
        "--min-maf, --max-missing and --autosome-num, or take all chromosomes"
    )
