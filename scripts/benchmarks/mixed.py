"""The homoskedastic mixed model side by side with GEMMA."""

import re
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from benchmarks.inputs import simulated_bed, simulated_table
from benchmarks.processes import InFolder, in_folder, run_process, scan_command
from benchmarks.report import Options, Report, alternate
from hlmm_dask.export import read_models_table
from hlmm_dask.genotypes.plink import open_plink
from hlmm_dask.relationship.files import write_kinship
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.kinship import relationship_matrix
from hlmm_dask.scanning.lmm import fit_lmm_null, ids_of
from hlmm_dask.scanning.lmm_model import lmm_block_model
from hlmm_dask.tables import read_table

_BLOCK = 1024
# Filters of GEMMA.
_FILTERS = ("--min_maf", "0.01", "--max_missing", "5")


def lmm(options: Options, report: Report) -> None:
    """Mixed model of every variant against GEMMA: whole process, and per variant without start."""
    bed, phenotype = options.bed, options.phenotype
    if bed is None:
        bed = simulated_bed(options.work, options.samples, options.variants, options.missing)
    if phenotype is None:
        phenotype = simulated_table(options.work, open_plink(bed).n_samples, 1)
    genotypes = open_plink(bed)
    report.sizes |= {"samples": genotypes.n_samples, "variants": genotypes.n_variants}
    k = options.threads
    limited = ["env", f"OPENBLAS_NUM_THREADS={k}"]
    if shutil.which("taskset"):
        # One thread is then one core, whatever each program does besides.
        limited += ["taskset", "--cpu-list", f"0-{k - 1}"]
    common = ["--model", "lmm", *_FILTERS, "--workers", str(k)]
    ours = [*limited, *scan_command([bed], phenotype, *common)]
    made = ["--grm-from", str(bed.resolve()), "--grm-kind", "centred"]
    runs: dict[str, InFolder] = {}
    gemma = shutil.which("gemma")
    if gemma is None:
        report.skipped["gemma"] = "not installed (Debian package gemma)"
        path = write_kinship(relationship_matrix(bed, kind="centred"), options.work / "matrix")
    else:
        values = _gemma_phenotype(bed, phenotype, options.work)
        first = [*limited, gemma, "-bfile", str(bed.with_suffix("").resolve()), "-p", str(values)]
        kinship = in_folder(options.work, [*first, "-gk", "1", "-o", "K"])
        run_process(kinship.command, kinship.folder)
        path = options.work / "matrix.txt"
        shutil.copy(kinship.folder / "output" / "K.cXX.txt", path)
        tests = in_folder(options.work, [*first, "-k", str(path), "-lmm", "4", "-o", "out"])
        runs |= {"gemma, matrix": kinship, "gemma, tests": tests}
    given = ["--kinship", str(path.resolve())]
    runs |= {
        "hlmm-scan, matrix and tests": in_folder(options.work, [*ours, *made]),
        "hlmm-scan, tests": in_folder(options.work, [*ours, *given]),
        "hlmm-scan, tests, fixed": in_folder(
            options.work, [*ours, *given, "--lmm-test", "fixed"]
        ),
    }  # fmt: skip
    report.seconds |= alternate(runs, options.repeats, warm_up=options.warm_up)
    per_variant = _per_variant(bed, phenotype, path, report, options.repeats)
    if gemma is None:
        return
    matrix, tests_only = report.median("gemma, matrix"), report.median("gemma, tests")
    report.figures |= {
        "gemma / hlmm-scan, matrix and tests": (matrix + tests_only)
        / report.median("hlmm-scan, matrix and tests"),
        "gemma / hlmm-scan, tests": tests_only / report.median("hlmm-scan, tests"),
        "gemma / hlmm-scan, fixed": tests_only / report.median("hlmm-scan, tests, fixed"),
    }
    theirs = pd.read_csv(tests.folder / "output" / "out.assoc.txt", sep="\t")
    log = (tests.folder / "output" / "out.log.txt").read_text()
    minutes = re.findall(r"time on (?:calculating UtX|optimization) *= *([\d.e+-]+) min", log)
    if minutes:
        each = 6e7 * sum(map(float, minutes)) / len(theirs)
        report.figures["gemma microseconds per variant"] = each
        for name, value in per_variant.items():
            report.figures[f"gemma / {name}, per variant"] = each / value
    found = read_models_table(runs["hlmm-scan, tests"].folder / "out.models.gz").set_index("SNP")
    both = found.loc[theirs["rs"]]
    for name, column in (("Wald", "add_pval"), ("LRT", "add_lrt_pval")):
        p = theirs["p_wald" if name == "Wald" else "p_lrt"].to_numpy()
        difference = np.abs(10.0 ** -both[column].to_numpy() / p - 1.0)
        report.figures[f"largest relative difference, p {name}"] = float(difference.max())


def _per_variant(
    bed: Path, phenotype: Path, path: Path, report: Report, repeats: int
) -> dict[str, float]:
    """Microseconds for reading, tests and statistics of a variant on one core."""
    null = fit_lmm_null(bed, phenotype, kinship=path)
    genotypes = open_plink(bed)
    found = {}
    for name, h2 in (("refit", "refit"), ("fixed", "null")):
        began = time.perf_counter()
        config = ScanConfig(min_maf=0.01, h2=h2)  # type: ignore[arg-type]  # a literal
        model = lmm_block_model(null, config)
        report.figures[f"preparing {name}, seconds"] = time.perf_counter() - began

        def inner(model: object = model) -> None:
            for start in range(0, genotypes.n_variants, _BLOCK):
                stop = min(start + _BLOCK, genotypes.n_variants)
                model.fit_packed(genotypes.read_packed(start, stop))  # type: ignore[attr-defined]  # a model

        with threadpool_limits(1):
            label = f"{name}, inner part"
            report.seconds |= alternate({label: inner}, repeats)
        table = model.fit_packed(genotypes.read_packed(0, genotypes.n_variants))
        tested = int(np.isfinite(table[:, -1]).sum() - np.sum(table[:, -1] != 0))
        found[name] = 1e6 * report.median(label) / max(tested, 1)
        report.figures[f"{name} microseconds per variant"] = found[name]
    return found


def _gemma_phenotype(bed: Path, phenotype: Path, work: Path) -> Path:
    """One value a line in the order of the .fam, as GEMMA reads it."""
    table = read_table(phenotype)
    value = dict(zip(table.ids, table.column(1)[1].tolist(), strict=True))
    values = [value.get(key, np.nan) for key in ids_of(open_plink(bed).samples)]
    path = work / "gemma_phenotype.txt"
    path.write_text("".join("NA\n" if np.isnan(x) else f"{x!r}\n" for x in values))
    return path.resolve()
