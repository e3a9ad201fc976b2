"""Where the time of a whole scan goes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.inputs import model_of, random_bed, simulated_bed, simulated_table
from benchmarks.processes import in_folder, scan_command
from benchmarks.report import Options, Report, alternate
from hlmm_dask.genotypes.plink import open_plink
from hlmm_dask.kernels.block import fit_packed
from hlmm_dask.kernels.block_model import BlockModel
from hlmm_dask.kernels.class_moments import ClassMoments
from hlmm_dask.kernels.hlm import fit_class_sums
from hlmm_dask.kernels.packed import Packed, class_sums, unpack
from hlmm_dask.kernels.score import Scores, score_columns, tails_of
from hlmm_dask.kernels.score_null import general_columns
from hlmm_dask.scanning.null_input import fit_null
from hlmm_dask.scanning.plan import choose_block_size
from hlmm_dask.scanning.strips import PackedBlock

Parts = dict[str, Callable[[], object]]


def profile(options: Options, report: Report) -> None:
    """Share of each part in a scan: HLM of many samples, of few, linear HLMM (rows 1, 4 and 8)."""
    many = simulated_bed(options.work, options.samples, options.variants, options.missing)
    few = simulated_bed(options.work, options.few_samples, options.few_variants, options.missing)
    tested = simulated_bed(options.work, options.samples, options.random_variants, options.missing)
    random = random_bed(options)
    for label, bed, phenotype, g in (
        ("HLM, many samples", many, simulated_table(options.work, options.samples, 1), None),
        ("HLM, few samples", few, simulated_table(options.work, options.few_samples, 1), None),
        ("linear HLMM", tested, simulated_table(options.work, options.samples, 1, random), random),
    ):
        _profile(options, report, label, bed, phenotype, g)


def _profile(
    options: Options, report: Report, label: str, bed: Path, phenotype: Path, random: Path | None
) -> None:
    more = [] if random is None else ["--random_gts", str(random.resolve()), "--method", "linear"]
    command = scan_command([bed], phenotype, "--workers", "1", "--min_maf", "0", *more)
    run = in_folder(options.work, command)
    runs: list[dict[str, float]] = []
    for i in range(-1 if options.warm_up else 0, options.repeats):
        seconds = alternate({label: run}, 1, warm_up=False)[label]
        if i >= 0:
            report.seconds.setdefault(label, []).extend(seconds)
            log = json.loads((run.folder / "out.run.json").read_text())
            runs.append(log["runs"][-1]["seconds"])
    total = report.median(label)
    phases = {name: float(np.median([x[name] for x in runs])) for name in runs[-1]}
    blocks = phases.pop("blocks")
    inner = _inner(options, bed, phenotype, random)
    # What is known of a block by itself; the rest of the time in which blocks ran is Dask's.
    parts = {"imports and end": total - blocks - sum(phases.values()), **phases, **inner}
    parts["blocks: Dask, stores, waiting"] = blocks - sum(inner.values())
    for name, seconds in parts.items():
        report.figures[f"{label}, {name}: s"] = seconds
        report.figures[f"{label}, {name}: % of the whole"] = 100.0 * seconds / total


def _inner(options: Options, bed: Path, phenotype: Path, random: Path | None) -> dict[str, float]:
    """Seconds of what a worker computes for all variants, from those of a first few."""
    genotypes = open_plink(bed)
    choice = {} if random is None else {"method": "linear"}
    model = model_of(fit_null(bed, phenotype, random_genotypes=random), **choice)
    size = choose_block_size(genotypes.n_variants, genotypes.n_samples)
    block = PackedBlock(genotypes, 0, min(size, options.some, genotypes.n_variants))
    packed = np.concatenate([np.array(strip) for strip in block.strips()])
    sums = class_sums(packed, model.phenotype, powers=4 if model.from_sums else 2)
    parts: Parts = {
        "blocks: reading": lambda: [0 for _ in block.strips()],
        "blocks: class sums": lambda: class_sums(
            packed, model.phenotype, powers=4 if model.from_sums else 2
        ),
        "blocks: score tests": _scores(model, packed),
    }
    if model.from_sums:
        parts["blocks: Newton and statistics"] = lambda: fit_class_sums(sums)
    known = list(parts)[1:]
    parts["blocks: everything else of a fit"] = lambda: fit_packed(model, packed)
    with threadpool_limits(1):
        seconds = {
            name: float(np.median(found))
            for name, found in alternate(parts, max(3, options.repeats)).items()
        }
    # The last is a whole fit; what is left of it is linear algebra, or filling the table.
    seconds["blocks: everything else of a fit"] -= sum(seconds[name] for name in known)
    return {name: x * genotypes.n_variants / len(packed) for name, x in seconds.items()}


def _scores(model: BlockModel, packed: Packed) -> Callable[[], object]:
    rows = np.arange(len(packed))
    if not model.from_sums:
        return lambda: general_columns(model.score_null, unpack(packed, model.layout))
    sums = class_sums(packed, model.phenotype, powers=4)

    def score() -> None:
        scores = Scores.of(ClassMoments.of(sums))
        tails = tails_of(
            scores, packed, rows, model.nodes, model.y, lambda some: unpack(some, model.layout)
        )
        score_columns(scores, tails)

    return score
