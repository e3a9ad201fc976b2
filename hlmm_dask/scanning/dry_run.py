"""A scan checked and planned, a few of its variants fitted for the speed, nothing kept."""

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from hlmm_dask.genotypes.plink import PlinkGenotypes
from hlmm_dask.kernels.block_model import BlockModel
from hlmm_dask.kernels.lmm_block import LMMBlockModel
from hlmm_dask.scanning.checks import CheckedJob, check_job
from hlmm_dask.scanning.connection import Connection
from hlmm_dask.scanning.dispatch import scan_model
from hlmm_dask.scanning.events import Observer
from hlmm_dask.scanning.graph import fit_block
from hlmm_dask.scanning.lmm import AnyNull, LMMNullModel
from hlmm_dask.scanning.lmm_job import relationships
from hlmm_dask.scanning.lmm_model import lmm_block_model
from hlmm_dask.scanning.machine import peak_bytes
from hlmm_dask.scanning.memory import model_bytes
from hlmm_dask.scanning.outputs import expected_sizes
from hlmm_dask.scanning.plan import Plan, footprint, plan_blocks
from hlmm_dask.scanning.resources import Resources
from hlmm_dask.scanning.run import run_fingerprint
from hlmm_dask.scanning.source import Source
from hlmm_dask.scanning.strips import strip_variants
from hlmm_dask.schema import INDEX, LMM_INDEX, Status
from hlmm_dask.store import ResultsStore

if TYPE_CHECKING:
    from hlmm_dask.scanning.job import ScanJob

# Seconds of the probe, for all phenotypes together, and places of the genome that it visits.
_PROBE_SECONDS, _PLACES = 2.0, 16
# Of the process that starts a scan, besides tables and null models: the scheduler, its pages, the
# results of a block.
_SERVING_BYTES = 60 * 10**6
# A null model that takes so long is timed once.
_SLOW = 10.0
# A part that takes less is made larger: what a block costs whatever its size would count too much.
_LONG_ENOUGH = 0.1
# Start of the workers, a block's way there and back, a row of the table.
_START_SECONDS, _SECONDS_PER_BLOCK, _SECONDS_PER_ROW = 3.0, 0.005, 1.5e-6


@dataclass(frozen=True)
class Probe:
    """What fitting a few variants told.

    Attributes
    ----------
    seconds : float
        For a variant, on one core.
    fitted : float
        Share of the variants that got estimates.
    n_variants : int
        Variants that were fitted.
    """

    seconds: float
    fitted: float
    n_variants: int


@dataclass(frozen=True)
class DryRun:
    """What a scan would do.

    Attributes
    ----------
    nulls : list of NullModel
        Null model of each phenotype.
    probes : list of Probe
        Speed of each.
    plan : Plan
        Blocks, memory, workers.
    kernels : tuple of str
        How the variants of each phenotype are fitted.
    n_done_blocks : int
        Blocks that an earlier run has finished.
    client_bytes : int
        Memory of the process that starts the scan, about; what it held before is part of it.
    null_seconds, seconds : float
        Time that the null models took, and that the scan will take, about.
    sizes : dict of str to int
        Bytes of the results stores and tables by suffix, about.
    free_bytes : int
        Space in the output folder.
    """

    nulls: list[AnyNull]
    probes: list[Probe]
    plan: Plan
    kernels: tuple[str, ...]
    n_done_blocks: int
    client_bytes: int
    null_seconds: float
    seconds: float
    sizes: dict[str, int]
    free_bytes: int


def dry_run(job: "ScanJob", observers: tuple[Observer, ...] = ()) -> DryRun:
    """Check a job and plan it, without writing anything.

    Parameters
    ----------
    job : ScanJob
        As for ``run_job``.
    observers : tuple of Observer
        Told about notes.

    Raises
    ------
    InputError, StoreError
        As ``run_job`` would before any work.
    """
    checked = check_job(job, observers, tidy=False)
    with Connection(job.cluster) as connection:
        resources = checked.plan(connection).resources
    with ExitStack() as stack:
        began = time.perf_counter()
        related = None
        if checked.kinship is not None:
            related = stack.enter_context(relationships(checked.kinship, None))
        related_seconds = time.perf_counter() - began
        nulls = checked.fit_nulls(observers, related)
        null_seconds = time.perf_counter() - began
        held = peak_bytes()
        if checked.kinship is not None and checked.kinship.n_matrices > 1:
            one = _another_matrix(nulls, null_seconds - related_seconds)
            null_seconds += one * (checked.kinship.n_matrices - 1)
        return _dry(checked, nulls, resources, held, null_seconds)


def _another_matrix(nulls: list[AnyNull], first: float) -> float:
    """Seconds that the matrix without one more chromosome takes, for all phenotypes."""
    if first > _SLOW:
        return first
    # The first one has loaded libraries, too.
    began = time.perf_counter()
    for null in nulls:
        assert isinstance(null, LMMNullModel)
        null.relationships.rotated(null.ids, next(iter(null.relationships.chromosomes), None))
    return time.perf_counter() - began


def _dry(
    checked: CheckedJob,
    nulls: list[AnyNull],
    resources: Resources,
    held: int,
    null_seconds: float,
) -> DryRun:
    job = checked.job
    shapes = [footprint(null, checked.config) for null in nulls]
    n_variants = checked.source.n_variants
    plan = plan_blocks(
        shapes, n_variants, resources, given=job.block_size, kept=checked.kept_block_size
    )
    done = _done_blocks(checked, nulls, plan)
    seconds = _PROBE_SECONDS / len(nulls)
    probes = [_probe(checked, null, plan.block_size, seconds) for null in nulls]
    left = 1.0 - done / plan.n_blocks
    one_core = sum(probe.seconds for probe in probes) * n_variants * left
    n_cores = min(resources.n_workers * resources.threads, max(1, plan.n_blocks - done))
    sizes: dict[str, int] = {}
    for probe in probes:
        for suffix, size in expected_sizes(job, n_variants, probe.fitted).items():
            sizes[suffix] = sizes.get(suffix, 0) + size
    return DryRun(
        nulls=nulls,
        probes=probes,
        plan=plan,
        kernels=tuple(shape.kernel for shape in shapes),
        n_done_blocks=done,
        # Models are laid out and published one after the other.
        client_bytes=held + _SERVING_BYTES + max(map(model_bytes, shapes)),
        null_seconds=null_seconds,
        seconds=(
            _START_SECONDS
            + null_seconds
            + one_core / n_cores
            + (plan.n_blocks - done) * _SECONDS_PER_BLOCK
            + n_variants * len(nulls) * _SECONDS_PER_ROW
        ),
        sizes=sizes,
        free_bytes=shutil.disk_usage(Path(f"{job.outprefix}x").absolute().parent).free,
    )


def _done_blocks(checked: CheckedJob, nulls: list[AnyNull], plan: Plan) -> int:
    """Count the blocks that all stores of a resumed run have, if they are of the same run."""
    done = []
    for one, null in zip(checked.jobs, nulls, strict=True):
        path = one.output(".zarr")
        if not checked.job.resume or not path.exists():
            return 0
        store = ResultsStore.open(path, repair=True)
        store.check_fingerprint(
            run_fingerprint(checked.source, null, checked.config, plan.block_size)
        )
        done.append(store.done())
    return len(set.intersection(*done))


def _probe(checked: CheckedJob, null: AnyNull, block_size: int, seconds: float) -> Probe:
    """Fit variants from places spread over the genome until the time is over."""
    source, n = checked.source, checked.source.n_variants
    model: BlockModel | LMMBlockModel
    if isinstance(null, LMMNullModel):
        model = lmm_block_model(null, checked.config)
    else:
        model = scan_model(null, checked.config, source)
    assert isinstance(source.genotypes, PlinkGenotypes)
    most = min(block_size, n, strip_variants(source.genotypes.n_bytes))
    return timed(partial(_fit_part, model, source), n, most, seconds)


def timed(
    fit: Callable[[int, int], tuple[float, int]], n_variants: int, most: int, seconds: float
) -> Probe:
    """Fit variants from places spread over the genome until the time is over.

    Each is fitted twice and the shorter time counts: the first fit of a model, of a chromosome or
    of a size may compile or load something, which a scan does once and not for every variant.

    Parameters
    ----------
    fit : callable
        Fits the variants from ``start`` on, ``size`` of them; returns the seconds that it took and
        how many got estimates.
    n_variants, most : int
        Variants of the scan, and most of them at once.
    seconds : float
        Time for second fits; at least one variant is fitted.
    """
    places = np.linspace(0, n_variants, _PLACES, endpoint=False).astype(int).tolist()
    size, spent, took, rate = 1, 0.0, 0.0, 0.0
    total, n_timed, n_fitted, n_tried = 0.0, 0, 0, 0
    for place in places * 3:
        if n_tried and spent + took > seconds:
            break
        start = min(place, n_variants - size)
        first, fitted = fit(start, size)
        again, _ = fit(start, size)
        took = min(first, again)
        spent += took
        total, n_timed = total + took, n_timed + size
        rate = total / n_timed
        n_fitted, n_tried = n_fitted + fitted, n_tried + size
        if took < _LONG_ENOUGH and size < most:
            size = min(4 * size, most)
            total, n_timed = 0.0, 0
    return Probe(rate, n_fitted / n_tried, n_tried)


def _fit_part(
    model: BlockModel | LMMBlockModel, source: Source, start: int, size: int
) -> tuple[float, int]:
    """Seconds that reading and fitting variants takes, and how many of them got estimates."""
    assert isinstance(source.genotypes, PlinkGenotypes)
    began = time.perf_counter()
    first = source.start + start
    with threadpool_limits(limits=1):
        results = fit_block(model, source.genotypes.read_packed(first, first + size), first=start)
    taken = time.perf_counter() - began
    index = INDEX if isinstance(model, BlockModel) else LMM_INDEX
    return taken, int(np.sum(results[:, index["status"]] == Status.OK))
