"""The command hlmm-kinship: genotypes in, relationship matrices out."""

import glob
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.durable import sweep, working_folder
from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.contigs import HUMAN_AUTOSOMES, autosomes_of
from hlmm_dask.genotypes.paths import Paths
from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink
from hlmm_dask.ids import ids_of, with_fids
from hlmm_dask.kernels.relationship import Kind
from hlmm_dask.people import read_ids
from hlmm_dask.relationship.files import Format, kinship_paths, write_kinship
from hlmm_dask.relationship.kinship import Kinship
from hlmm_dask.scanning.kinship import relationship_matrix, relationship_parts
from hlmm_dask.text import iter_rows, shown

if TYPE_CHECKING:
    from hlmm_dask.scanning.cluster import ClusterOptions


@dataclass(frozen=True)
class KinshipJob:
    """The command line of ``hlmm-kinship``; see its help."""

    genofile: Paths
    outprefix: str
    kind: Kind = "standardised"
    file_format: Format = "npz"
    loco: bool = False
    keep: str | None = None
    extract: str | None = None
    min_maf: float = 0.01
    max_missing: float = 5.0
    autosome_num: int = HUMAN_AUTOSOMES
    all_chromosomes: bool = False
    overwrite: bool = False
    cluster: "ClusterOptions | None" = None


def run_kinship(job: KinshipJob) -> Iterator[str]:
    """Compute and write the matrices; say what was written, a line for each.

    Raises
    ------
    InputError
        If input is wrong or output exists; then nothing is written.
    ScanError
        If the cluster is lost, or its workers fail.
    """
    autosomes = autosomes_of(job.autosome_num, all_chromosomes=job.all_chromosomes)
    _check_output(job)
    source = open_plink(job.genofile)
    yield from source.notes
    samples = None
    if job.keep is not None:
        listed = read_ids(job.keep)
        samples = listed.ids
        if not listed.has_fid:
            there = (str(source.files[0].fam), ids_of(source.samples))
            samples = with_fids(job.keep, samples, [there])
    variants = None if job.extract is None else _extracted(source, job.extract)
    with ExitStack() as stack:
        client, patience = None, 0.0
        if job.cluster is not None:
            # Imported where it is needed: one process starts in half the time.
            from hlmm_dask.scanning.connection import Connection
            from hlmm_dask.scanning.probe import probe_workers

            connection = Connection(job.cluster, remedy="run it again")
            client = stack.enter_context(connection).client()
            patience = job.cluster.patience
            probe_workers(client, source.bed_sizes, [])

        def write(kinship: Kinship, prefix: str) -> str:
            path = write_kinship(kinship, prefix, job.file_format)
            used = int(np.max(kinship.n_variants))
            return f"{path}: {len(kinship.ids):,} samples, {used:,} variants"

        if not job.loco:
            kinship = relationship_matrix(
                source, kind=job.kind, samples=samples, variants=variants,
                min_maf=job.min_maf, max_missing=job.max_missing, client=client,
                autosomes=autosomes, no_workers_timeout=patience,
            )  # fmt: skip
            yield from kinship.notes
            yield write(kinship, job.outprefix)
            return
        beside = Path(f"{job.outprefix}.parts").absolute()
        sweep(beside.parent, beside.name)
        folder = stack.enter_context(working_folder(beside))
        parts = relationship_parts(
            source, folder, kind=job.kind, samples=samples, variants=variants,
            min_maf=job.min_maf, max_missing=job.max_missing, client=client,
            autosomes=autosomes, no_workers_timeout=patience,
        )  # fmt: skip
        yield from parts.notes
        if len(parts.chromosomes) == 1:
            parts.without(parts.chromosomes[0])
        yield write(parts.whole(), job.outprefix)
        for name in parts.chromosomes:
            yield write(parts.without(name), f"{job.outprefix}.loco_{name.replace(os.sep, '_')}")


def _check_output(job: KinshipJob) -> None:
    folder = Path(job.outprefix).absolute().parent
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder for the output; create it")
    found = [str(path) for path in kinship_paths(job.outprefix, job.file_format) if path.exists()]
    if job.loco:
        suffix = kinship_paths("", job.file_format)[0]
        found += glob.glob(f"{glob.escape(job.outprefix)}.loco_*{suffix}")
    if found and not job.overwrite:
        raise InputError(f"{found[0]}: exists; give --overwrite, or another OUTPREFIX")


def _extracted(source: PlinkGenotypes, path: str) -> NDArray[np.bool_]:
    wanted: dict[str, int] = {}
    for rows in iter_rows(path):
        names = rows.split(1, "one variant ID").strings(0)
        wanted.update(zip(names, rows.numbers, strict=True))
    chosen = np.concatenate(
        [table["variant_id"].isin(wanted.keys()).to_numpy() for table in source.iter_variants()]
    )
    if not chosen.any():
        first = next(iter(wanted.items()), None)
        listed = "it is empty" if first is None else f"line {first[1]}: {shown(first[0])}"
        raise InputError(
            f"{path}: none of its {len(wanted)} variants is in {source.paths[0]} ({listed}); "
            "expected IDs as in column 2 of the .bim"
        )
    return chosen
