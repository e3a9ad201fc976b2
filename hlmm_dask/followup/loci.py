"""The loci of a finished scan, each looked at again: ``hlmm-loci``."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask import printable
from hlmm_dask.durable import sweep
from hlmm_dask.errors import InputError
from hlmm_dask.followup.checks import Refitter
from hlmm_dask.followup.chosen import consecutive
from hlmm_dask.followup.finished import open_finished
from hlmm_dask.followup.inputs import Files, Study
from hlmm_dask.followup.leads import (
    TEST_NAMES,
    Selection,
    find_leads,
    tests_in,
    windows_of,
)
from hlmm_dask.followup.sex import sex_notes, sex_of_fam, sex_of_table
from hlmm_dask.followup.table import row_of, write_loci
from hlmm_dask.followup.verdict import Rules, Slope
from hlmm_dask.ids import ids_of
from hlmm_dask.models.dispersion import DispersionResult
from hlmm_dask.models.inference import genomic_control_lambda
from hlmm_dask.option_rules import require_of
from hlmm_dask.scanning.dispersion import estimate_dispersion
from hlmm_dask.schema import nothing_fitted
from hlmm_dask.transforms import chosen_transforms
from hlmm_dask.view.facts import LAMBDA, MIN_FOR_LAMBDA, Facts
from hlmm_dask.view.wording import short_id

_REPEATED = "the phenotype has repeated or nearly constant values"


@dataclass(frozen=True)
class LociOptions(Files):
    """Everything that ``hlmm-loci`` can be told, besides OUTPREFIX; see `loci`."""

    tests: str = "all"
    p: float = 5e-8
    window: float = 500.0
    r2: float = 0.1
    top: int = 100
    neighbour_p: float = 1e-5
    gone_p: float = 1e-3
    share: float = 0.5
    min_carriers: int = 20
    transform: str = "none,log,rint"
    by_sex: bool = False
    sex: str | None = None
    plots: bool = False

    @property
    def files(self) -> Files:
        """Input that is given anew."""
        return Files(**{f.name: getattr(self, f.name) for f in fields(Files)})

    @property
    def rules(self) -> Rules:
        """When an effect is explained."""
        return Rules(self.gone_p, self.share, self.min_carriers)

    def selection(self, facts: Facts) -> Selection:
        """Which variants lead; by default dispersion effects only where the run had them."""
        names = tuple(name.strip() for name in self.tests.split(","))
        if self.tests == "all":
            had = bool(facts.options.get("dispersion"))
            names = TEST_NAMES if had else TEST_NAMES[:-1]
        if not 0.0 <= self.window < float("inf"):
            raise InputError(f"--window {self.window:g}: expected kilobases, 0 or more")
        return Selection(names, self.p, round(1000 * self.window), self.r2, self.top)

    def check(self) -> None:
        """Raise an `InputError` for values that make no sense."""
        require_of(self)
        self.rules.check()
        chosen_transforms(self.transform)
        if not 0.0 < self.neighbour_p <= 1.0:
            raise InputError(f"--neighbour-p {self.neighbour_p:g}: expected a p-value, 0 < p <= 1")


def loci(
    outprefix: str | os.PathLike[str],
    *,
    say: Callable[[str], None] | None = None,
    **options: object,
) -> pd.DataFrame:
    """Refit the lead variants of a finished scan and judge them; write OUTPREFIX.loci.tsv.

    Parameters
    ----------
    outprefix : path
        Of a scan; its results store is OUTPREFIX.zarr, its record OUTPREFIX.run.json.
    say : callable, optional
        Is told notes, one line each; they go to standard error by default.
    options
        As of ``hlmm-loci``, with underscores: fields of `LociOptions`.

    Returns
    -------
    DataFrame
        What was written: one row a lead variant, in the order of the file.

    Raises
    ------
    InputError, StoreError
        If the scan is not complete, or its input not at hand.
    """
    names = {field.name for field in fields(LociOptions)}
    if unknown := [name for name in options if name not in names]:
        raise InputError(
            f"loci: no option {unknown[0]}, expected some of {', '.join(sorted(names))}"
        )
    return follow_up(os.fspath(outprefix), LociOptions(**options), say=say or printable.say)  # type: ignore[arg-type]  # checked there


def follow_up(outprefix: str, options: LociOptions, *, say: Callable[[str], None]) -> pd.DataFrame:
    """Do what `loci` does, with all options in one."""
    outprefix = outprefix.removesuffix("/").removesuffix(".zarr")
    options.check()
    if options.plots:
        from hlmm_dask.view.pictures import require_matplotlib

        require_matplotlib()
    scan = open_finished(outprefix, options.files)
    store, facts, study = scan.store, scan.facts, scan.study
    selection = options.selection(facts)
    selection.check()
    sex = _sex(study, options)
    for note in () if sex is None else sex_notes(sex, ids_of(study.given.aligned.ids)):
        say(note)
    dispersion, slope = None, Slope()
    # A variance effect may follow from the mean effect, regardless of the tests asked for.
    if "dispersion" in selection.tests or facts.options.get("dispersion"):
        estimated = estimate_dispersion(store, facts.dispersion_options)
        if isinstance(estimated, DispersionResult):
            dispersion = estimated
            slope = Slope(
                dispersion.r_av,
                "the slope of var on add is not reliable" if dispersion.cautions else "",
            )
            for caution in dispersion.cautions:
                say(caution)
        else:
            say(f"no dispersion effects: {estimated.reason}")
            slope = Slope(caution="no slope of var on add could be estimated")
    cautions = _inflated(facts, dispersion)
    for note in study.given.aligned.cautions:
        say(note)
    if study.given.aligned.cautions:
        for name in ("variance", "dispersion"):
            cautions[name] = (*cautions.get(name, ()), _REPEATED)
    leads = find_leads(store, study, selection, dispersion)
    if not leads:
        reason = nothing_fitted(facts.counts) or f"no variant has a p-value below {options.p:g}"
        say(f"no leads: {reason}")
    refitter, notes = Refitter.of(
        study, tuple(chosen_transforms(options.transform)) if leads else (), sex,
        neighbour_p=options.neighbour_p, r2=options.r2,
    )  # fmt: skip
    for note in notes:
        say(note)
    if refitter.random:
        say(
            "random effects: predictions of the null model are taken off the phenotype, then "
            "refits are without"
        )
    windows = windows_of(store, leads, selection.window, dispersion)
    for window in windows if options.plots else ():
        # Refused before the table is written.
        for start, stop in consecutive(window.index):
            study.scanned.require_same(start, stop)
    found = [refitter.follow(lead, window) for lead, window in zip(leads, windows, strict=True)]
    rows = [
        row_of(store, lead, window, each, options.rules, slope, cautions)
        for lead, window, each in zip(leads, windows, found, strict=True)
    ]
    path = Path(f"{outprefix}.loci.tsv")
    sweep(path.absolute().parent, path.name)
    table = write_loci(rows, path)
    if options.plots:
        from hlmm_dask.followup.pictures import draw_loci

        verdicts = [str(row["verdict"]) for row in rows]
        tests = tests_in(store, dispersion)
        draw_loci(Path(f"{outprefix}.loci"), study, tests, leads, windows, verdicts)
    return table


def _inflated(facts: Facts, dispersion: DispersionResult | None) -> dict[str, tuple[str, ...]]:
    """Caution of each effect whose test has p-values that are too small throughout the genome."""
    values = {name: facts.summary.get(f"lambda_gc_{name}") for name in ("mean", "variance")}
    if dispersion is not None:
        values["dispersion"] = genomic_control_lambda(dispersion.dispersion_neg_log10_p, 1)
    if int(facts.summary.get("n_fitted", 0)) < MIN_FOR_LAMBDA:
        return {}
    return {
        name: (f"λ_GC of the test is {value:.2f}",)
        for name, value in values.items()
        if value is not None and value > LAMBDA[1]
    }


def _sex(study: Study, options: LociOptions) -> NDArray[np.int64] | None:
    if options.sex is not None:
        sex = sex_of_table(options.sex, study.genotypes.samples, study.missing)
    elif options.by_sex:
        sex = sex_of_fam(study.genotypes.files[0].fam)
    else:
        return None
    return sex[study.null.sample_index]


def verdict_lines(table: pd.DataFrame) -> Sequence[str]:
    """Say each locus and its verdict in a line."""
    return [
        f"{short_id(str(row['SNP']))}  {short_id(str(row['chrom']))}:{row['pos']}  "
        f"{row['tests']}: {row['verdict']}"
        for row in table.to_dict("records")
    ]
