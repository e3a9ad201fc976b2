"""Permutation and bootstrap of chosen variants' effects on the variance: OUTPREFIX.check.tsv."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.durable import replacing
from hlmm_dask.errors import InputError
from hlmm_dask.followup.chosen import choose, results_of
from hlmm_dask.followup.finished import FinishedScan, open_finished
from hlmm_dask.followup.inputs import Files
from hlmm_dask.followup.output import heading, labels, require_free
from hlmm_dask.kernels.block_model import block_model
from hlmm_dask.kernels.dense import DenseModel
from hlmm_dask.kernels.packed import PackedLayout
from hlmm_dask.kernels.resample import NullResiduals, Resampled, bootstrap, permute
from hlmm_dask.kernels.table import Filters
from hlmm_dask.models.hlm import HLM
from hlmm_dask.option_rules import require_of, spelled
from hlmm_dask.scanning.left_out import left_out_sets
from hlmm_dask.schema import Status, nothing_fitted
from hlmm_dask.tab_separated import text_of
from hlmm_dask.view.wording import short_id

FloatArray = NDArray[np.float64]

_TESTS = ("score", "classical")


@dataclass(frozen=True)
class CheckJob:
    """What a command line says; names as the options of ``hlmm-check``.

    Attributes
    ----------
    outprefix : str
        Of a finished scan.
    variants, top, test
        Which variants, see `choose`.
    permutations, bootstrap : int
        Permutations at the most, and phenotypes drawn.
    seed : int
        Of the random numbers; those of a variant depend on nothing else but its row.
    files : Files
        Files of the scan that lie elsewhere now, see `open_finished`.
    overwrite : bool
        Replace an existing table.
    """

    outprefix: str
    variants: str | None = None
    top: int | None = None
    test: str = "var"
    permutations: int = 100_000
    bootstrap: int = 1000
    seed: int = 1
    files: Files = field(default_factory=Files)
    overwrite: bool = False


def run_check(job: CheckJob) -> Iterator[str]:
    """Check the variants and write the table; a line about each as it is done.

    Raises
    ------
    InputError, StoreError
        Before any work, if input or output can't be used.
    """
    require_of(job)
    for name in ("permutations", "bootstrap", "seed"):
        if getattr(job, name) < 0:
            raise InputError(f"--{name} {getattr(job, name)}: expected 0 or more")
    path = Path(f"{job.outprefix}.check.tsv")
    require_free(path, overwrite=job.overwrite)
    scan = open_finished(job.outprefix, job.files)
    for name in ("mean_covar", "var_covar"):
        # Tests of variants alone have the scan's models.
        if getattr(job.files, name) and scan.facts.options and not scan.facts.options.get(name):
            raise InputError(
                f"{spelled(name)}: {scan.store.path} is a scan without these covariates; leave it "
                "out"
            )
    rows = choose(scan.store, variants=job.variants, top=job.top, test=job.test)
    results = results_of(scan.store, rows)
    models = _models(scan, results)
    lines = []
    for i, row in enumerate(rows.tolist()):
        one = results.iloc[i : i + 1]
        found: dict[str, Any] = {}
        if int(one["status"].iloc[0]) == Status.OK:
            counts = scan.counts(one)[0, scan.study.null.sample_index]
            found = _columns(*_check(models[i], counts, job, row))
            name = short_id(str(one["variant_id"].iloc[0]))
            yield (
                f"{name}: {found['permutations']:,} permutations, p "
                f"{found['score_perm_p']:.3g} (score), {found['classical_perm_p']:.3g} (classical)"
            )
        lines.append(found)
    table = pd.DataFrame(heading(results, a2=scan.store.effect_allele_is_a2))
    table["n"] = results["n_samples"].to_numpy(dtype=np.int64)
    table["status"] = labels(results["status"])
    for name, column in (
        ("var_pval", "var_neg_log10_p"), ("var_best_pval", "var_best_neg_log10_p"),
    ):  # fmt: skip
        table[name] = results[column].to_numpy()
    checked = pd.DataFrame(lines, columns=list(_columns(*_NOTHING)))
    whole = [c for c in checked if "exceed" in str(c) or c in ("permutations", "bootstraps")]
    checked = checked.astype(dict.fromkeys(whole, "Int64"))
    table = pd.concat([table, checked], axis=1)
    table["exchangeable"] = exchangeable(scan)
    table["seed"] = job.seed
    with replacing(path) as file:
        file.write(text_of(table))
    reason = nothing_fitted(scan.facts.counts)
    yield f"table: {path}" + (f" ({reason})" if reason else "")


def exchangeable(scan: FinishedScan) -> str:
    """Say whether the values that are permuted have the same distribution without an effect."""
    reasons = []
    null = scan.study.null
    if len(null.variance_effects.names) > 1:
        reasons.append("the null model's variance")
    if null.n_random:
        reasons.append("random effects")
    return f"given {' and '.join(reasons)}" if reasons else "yes"


def _models(scan: FinishedScan, results: pd.DataFrame) -> list[DenseModel]:
    """Null model of each variant: the columns of G that it is tested without are left out."""
    null = scan.study.null
    if scan.study.left_out is None:
        return [null.model] * len(results)
    layout = PackedLayout(null.n_file_samples, null.sample_index)
    model = block_model(null.model, layout, Filters())
    window = scan.facts.fingerprint["exclude_window"]
    model = replace(model, left_out=left_out_sets([results], null, window))
    out = [null.model] * len(results)
    for part, chosen in model.by_set(np.arange(len(results)), 0):
        for i in chosen.tolist():
            out[i] = part.dense
    return out


def _check(
    dense: DenseModel, counts: FloatArray, job: CheckJob, row: int
) -> tuple[Resampled, Resampled]:
    """Permute and draw for one variant, of whose genotypes (n,) some may be missing."""
    order = np.argsort(counts, kind="stable")[: np.isfinite(counts).sum()]
    g = counts[order]
    X = np.column_stack([dense.X[order], g - g.mean()])
    y, V, beta = dense.y[order], dense.V[order], dense.beta
    if V.shape[1] > 1 and dense.design is None:
        beta = HLM(y, X, V).fit(beta_start=beta).beta
    G = None if dense.design is None else dense.design.matrix(order)
    model = NullResiduals(X, np.exp(V @ beta), dense.h2, G)
    y = y - y.mean()
    n_k = np.bincount(g.astype(np.int64), minlength=3)
    w = model.residuals()(y[None])[0]
    first, second = (np.random.default_rng([job.seed, row, part]) for part in (0, 1))
    return (
        permute(w, n_k, rng=first, most=job.permutations),
        bootstrap(y, model, n_k, rng=second, n_draws=job.bootstrap),
    )


def _columns(permuted: Resampled, drawn: Resampled) -> dict[str, Any]:
    out: dict[str, Any] = {
        "score_t": float(permuted.observed[0]),
        "classical_t": float(permuted.observed[1]),
    }
    for what, count, each in (
        ("perm", "permutations", permuted), ("boot", "bootstraps", drawn),
    ):  # fmt: skip
        out[count] = each.n
        low, high = each.interval()
        for i, test in enumerate(_TESTS):
            out[f"{test}_{what}_exceed"] = int(each.exceedances[i])
            out[f"{test}_{what}_p"] = float(each.p[i])
            out[f"{test}_{what}_low"] = float(low[i])
            out[f"{test}_{what}_high"] = float(high[i])
    return out


_NOTHING = (Resampled(np.full(2, np.nan), np.zeros(2, dtype=np.int64), 0),) * 2
