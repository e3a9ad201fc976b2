"""Inner rates of one core."""

import inspect
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bed_reader import open_bed
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.inputs import model_of, random_bed, simulated_bed, simulated_table
from benchmarks.report import Options, Report, alternate
from hlmm_dask.genotypes.plink import open_plink
from hlmm_dask.kernels.block import fit_packed
from hlmm_dask.kernels.block_model import BlockModel, block_model
from hlmm_dask.kernels.class_moments import ClassMoments
from hlmm_dask.kernels.hlm import fit_class_sums
from hlmm_dask.kernels.packed import class_sums, unpack
from hlmm_dask.kernels.score import Scores, score_columns, tails_of
from hlmm_dask.kernels.table import empty_results, fill_estimates
from hlmm_dask.scanning.null import NullModel
from hlmm_dask.scanning.null_input import fit_null
from hlmm_dask.scanning.plan import choose_block_size
from hlmm_dask.scanning.strips import PackedBlock
from hlmm_dask.schema import INDEX, Status

Packed = NDArray[np.uint8]


def sums(options: Options, report: Report) -> None:
    """Class sums off packed bytes, one core, against decoding and numpy (row 2)."""
    bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
    null = fit_null(bed, simulated_table(options.work, options.samples, 1))
    phenotype = model_of(null).phenotype
    packed = open_plink(bed).read_packed(0, options.variants)
    words = packed.ravel()[: packed.size // 8 * 8].view(np.uint64)
    y = null.model.y
    Y = np.column_stack([np.ones_like(y), y, y * y])

    def by_decoding() -> None:
        with open_bed(bed, num_threads=1) as file:
            for start in range(0, options.variants, 64):
                index = np.s_[start : start + 64]
                counts = file.read(np.s_[:, index], dtype="int8", num_threads=1).T
                for k in range(3):
                    (counts == k).astype(np.float64) @ Y

    with threadpool_limits(1):
        report.seconds |= alternate(
            {
                "touch every byte": lambda: np.bitwise_xor.reduce(words),
                "packed, numba": lambda: class_sums(packed, phenotype),
                "packed, numpy": lambda: class_sums(packed, phenotype, engine="numpy"),
                "bed-reader int8, one-hot numpy": by_decoding,
            },
            options.repeats,
        )
    n_genotypes = options.samples * options.variants
    for label in report.seconds:
        report.figures[f"ns per genotype: {label}"] = 1e9 * report.median(label) / n_genotypes


def solver(options: Options, report: Report) -> None:
    """Newton and all statistics from class sums, and the score tests, one core (row 3)."""
    bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
    model = model_of(fit_null(bed, simulated_table(options.work, options.samples, 1)))
    packed = open_plink(bed).read_packed(0, options.variants)
    block = class_sums(packed, model.phenotype, powers=4)
    rows = np.flatnonzero((block.counts > 0).sum(axis=0) > 1)

    def fit() -> None:
        results = empty_results(options.variants)
        fill_estimates(results, rows, fit_class_sums(block.take(rows)), count_a2=False)

    def score() -> None:
        scores = Scores.of(ClassMoments.of(block.take(rows)))
        tails = tails_of(
            scores, packed, rows, model.nodes, model.y, lambda some: unpack(some, model.layout)
        )
        score_columns(scores, tails)

    with threadpool_limits(1):
        runs = {"fit and statistics": fit, "score tests": score}
        report.seconds |= alternate(runs, max(20, options.repeats))
    for label in runs:
        per_variant = 1e6 * report.median(label) / options.variants
        report.figures[f"microseconds per variant: {label}"] = per_variant


def hlm(options: Options, report: Report) -> None:
    """HLM of many samples: reading, sums, fit, statistics, one core (row 2b)."""
    bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
    genotypes = open_plink(bed)
    model = model_of(fit_null(genotypes, simulated_table(options.work, options.samples, 1)))
    # As large as those of a scan; each costs as much again, however small.
    size = choose_block_size(max(options.variants, 100_000), options.samples)
    starts = range(0, options.variants, size)
    blocks = [(start, min(start + size, options.variants)) for start in starts]

    def read() -> None:
        for start, stop in blocks:
            for _ in PackedBlock(genotypes, start, stop).strips():
                pass

    def whole() -> None:
        for start, stop in blocks:
            for strip in PackedBlock(genotypes, start, stop).strips():
                fit_packed(model, strip)

    with threadpool_limits(1):
        runs = {"reading alone": read, "reading, sums, fit": whole}
        report.seconds |= alternate(runs, options.repeats)
    for label in report.seconds:
        per_variant = 1e6 * report.median(label) / options.variants
        report.figures[f"microseconds per variant: {label}"] = per_variant


def covariates(options: Options, report: Report) -> None:
    """HLM with covariates kept in every model, one core (row 5)."""
    bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
    table = simulated_table(options.work, options.samples, options.covariates)
    null = fit_null(
        bed,
        simulated_table(options.work, options.samples, 1),
        mean_covariates=table,
        variance_covariates=table,
        fit_covariates=True,
    )
    _fit(options, report, bed, {"exact": model_of(null)})


def hlmm(options: Options, report: Report) -> None:
    """HLMM, exact, h2 fitted at every variant, one core (rows 6 and 7)."""
    bed, null = _random_null(options)
    choice = {"method": "exact"} if has_methods() else {}
    _fit(options, report, bed, {"exact": model_of(null, **choice)})


def hlmm_linear(options: Options, report: Report) -> None:
    """HLMM, linear in the number of random effects, one core (row 8)."""
    if not has_methods():
        report.skipped["linear"] = "block_model has no argument 'method'"
        return
    bed, null = _random_null(options)
    exact = model_of(null, method="exact")
    found = _fit(options, report, bed, {"linear": model_of(null, method="linear")})["linear"]
    packed = open_plink(bed).read_packed(0, options.compare)
    with threadpool_limits(1):
        began = time.perf_counter()
        expected = fit_packed(exact, packed)
        took = time.perf_counter() - began
    report.seconds["exact, for comparison"] = [took]
    report.figures["ms per variant: exact"] = 1e3 * took / options.compare
    for name in ("add", "var"):
        j, se = INDEX[name], expected[:, INDEX[f"{name}_se"]]
        away = np.abs(found[: options.compare, j] - expected[:, j]) / se
        report.figures[f"largest difference of {name} in SE"] = float(np.nanmax(away))


def has_methods() -> bool:
    """Whether there is a choice of methods for random effects."""
    return "method" in inspect.signature(block_model).parameters


def _random_null(options: Options) -> tuple[Path, NullModel]:
    bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
    random = random_bed(options)
    phenotype = simulated_table(options.work, options.samples, 1, random)
    return bed, fit_null(bed, phenotype, random_genotypes=random, h2_init=0.2)


def _fit(
    options: Options, report: Report, bed: Path, models: dict[str, BlockModel]
) -> dict[str, NDArray[np.float64]]:
    packed = open_plink(bed).read_packed(0, options.variants)
    found: dict[str, NDArray[np.float64]] = {}

    def run(label: str) -> Callable[[], None]:
        def fit() -> None:
            found[label] = fit_packed(models[label], packed)

        return fit

    with threadpool_limits(1):
        for model in models.values():
            fit_packed(model, packed[:2])
        runs = {label: run(label) for label in models}
        report.seconds |= alternate(runs, options.repeats, warm_up=False)
    for label, results in found.items():
        per_variant = 1e3 * report.median(label) / options.variants
        report.figures[f"ms per variant: {label}"] = per_variant
        fitted = int(np.sum(results[:, INDEX["status"]] == Status.OK))
        report.figures[f"variants fitted: {label}"] = fitted
    return found
