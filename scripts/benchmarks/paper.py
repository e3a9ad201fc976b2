"""A large scan on paper, from rates measured on a small one."""

import contextlib
import shutil
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from distributed import Client
from threadpoolctl import threadpool_limits

from benchmarks.cluster import Finished, Watch, empty_records, watched
from benchmarks.inputs import model_of, simulated_bed, simulated_table
from benchmarks.report import Options, Report, alternate, say
from benchmarks.schedule import Rates, schedule
from hlmm_dask.export import write_tsv
from hlmm_dask.genotypes.plink import open_plink
from hlmm_dask.kernels.block import fit_packed
from hlmm_dask.kernels.packed import class_sums
from hlmm_dask.scanning.cluster import ClusterOptions, connect
from hlmm_dask.scanning.null_input import fit_null
from hlmm_dask.scanning.plan import choose_block_size
from hlmm_dask.schema import CLASS_DOC, INDEX, N_COLUMNS, Status
from hlmm_dask.store import ResultsStore


def plan(options: Options, report: Report) -> None:
    """Simulate the schedule of a large scan on 10 to 1,000 cores, from measured rates."""
    rates = measured_rates(options, report)
    given = {name: getattr(options, name) for name in Rates.__dataclass_fields__}
    rates = replace(rates, **{name: x for name, x in given.items() if x is not None})
    report.figures |= {f"rate: {name}": value for name, value in asdict(rates).items()}
    samples, variants = options.samples, options.variants
    block = options.block_size or choose_block_size(variants, samples)
    report.figures["variants a block"] = block
    found = schedule(rates, samples, variants, block, options.cores)
    report.figures |= found
    say(f"\n  {'cores':>6} {'hours':>10} {'core-hours':>11} {'efficiency':>11}")
    for row in found["schedule"]:
        say(f"  {row['cores']:>6} {row['hours']:>10.3f} {row['core_hours']:>11.1f} "
            f"{row['efficiency']:>11.0%}")  # fmt: skip


def measured_rates(options: Options, report: Report) -> Rates:
    """Measure on this machine, on a small part, what `simulate` needs."""
    samples, variants = options.measure_samples, options.measure_variants
    bed = simulated_bed(options.work, samples, variants, options.missing)
    genotypes = open_plink(bed)
    model = model_of(fit_null(genotypes, simulated_table(options.work, samples, 1)))
    packed = genotypes.read_packed(0, variants)
    block = options.block_size or choose_block_size(options.variants, options.samples)
    folder = Path(tempfile.mkdtemp(dir=options.work))
    n_stored = max(4, options.measure_rows // block)
    n_rows = n_stored * block
    table = pd.DataFrame(
        {
            "contig": "1",
            "variant_id": [f"v{j}" for j in range(n_rows)],
            "position": np.arange(n_rows),
            "allele1": "A",
            "allele2": "G",
        }
    )
    store = ResultsStore.create(
        folder / "out.zarr",
        n_variants=n_rows,
        block_size=block,
        variants=iter([table]),
        fingerprint={},
    )
    results = np.random.default_rng(0).standard_normal((block, N_COLUMNS))
    results[:, INDEX["status"]] = Status.OK
    results[:, INDEX["n_samples"]] = samples
    for name in CLASS_DOC:
        results[:, INDEX[f"n_{name}"]] = samples // 3

    def write() -> None:
        for index in range(n_stored):
            store.write_block(index, results, record={"n_fitted": block, "seconds": 0.0})

    with threadpool_limits(1):
        report.seconds |= alternate(
            {
                "reading": lambda: genotypes.read_packed(0, variants),
                "class sums": lambda: class_sums(packed, model.phenotype),
                "sums, fit, statistics": lambda: fit_packed(model, packed),
                "writing blocks": write,
            },
            options.repeats,
        )
    report.seconds |= alternate(
        {"table": lambda: write_tsv(store, folder / "out.models.gz")}, options.repeats
    )
    shutil.rmtree(folder)
    # The first tasks load the model and the code: the rate is that of the blocks after them.
    began = time.perf_counter()
    with connect(ClusterOptions(workers=2)) as client:
        start = time.perf_counter() - began
        few, many = (
            _scheduling(options, client, n) for n in (options.blocks // 10, options.blocks)
        )
    report.seconds["scheduling, a tenth"] = [few]
    report.seconds["scheduling"] = [many]
    fit = report.median("sums, fit, statistics") - report.median("class sums")
    return Rates(
        start=start + few,
        read=packed.size / report.median("reading"),
        storage=2e9,
        kernel_per_genotype=report.median("class sums") / (samples * variants),
        kernel_per_variant=max(0.0, fit) / variants,
        schedule_per_block=max(0.0, many - few) / (options.blocks - options.blocks // 10),
        write_per_block=report.median("writing blocks") / n_stored,
        table_rows=n_rows / report.median("table"),
    )


def _scheduling(options: Options, client: Client, n_blocks: int) -> float:
    bed = simulated_bed(options.work, 64, n_blocks, 0.0)
    null = fit_null(bed, simulated_table(options.work, 64, 1))
    watch = Watch(stop=True)
    with (
        patch("hlmm_dask.scanning.dispatch.lazy_records", empty_records),
        contextlib.suppress(Finished),
    ):
        watched(options.work, bed, null, client, 1, watch)
    return watch.seconds
