"""One model without variants: ``hlmm-fit``."""

from pathlib import Path

import numpy as np

from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink
from hlmm_dask.models.hlm import HLM, HLMFit
from hlmm_dask.models.hlmm import HLMM, HLMMFit
from hlmm_dask.printable import say
from hlmm_dask.random_effects import random_effects
from hlmm_dask.samples import align
from hlmm_dask.scanning.null import converged, effects_per_unit, refused
from hlmm_dask.scanning.null_input import check_h2_init, table_notes
from hlmm_dask.scanning.outputs import check_outprefix, write_effects, write_estimate
from hlmm_dask.tables import read_table


def fit_model(
    *,
    phenofile: str,
    outprefix: str,
    mean_covar: str | None = None,
    var_covar: str | None = None,
    random_gts: str | None = None,
    random_gts_txt: bool = False,
    h2_init: float = 0.05,
    phen_index: str = "1",
    missing_char: str = "NA",
    no_h2_estimate: bool = False,
) -> None:
    """Fit one model without variants and write its estimates; names as the command's options.

    Without random effects HLM, with them HLMM of all parameters jointly. Writes
    ``OUTPREFIX.mean_effects.txt``, ``OUTPREFIX.variance_effects.txt`` and, with random effects,
    ``OUTPREFIX.h2.txt``.
    """
    missing = (missing_char,)
    check_outprefix(outprefix)
    check_h2_init(h2_init)
    require_random_file(random_gts, random_gts_txt)
    source = None
    if random_gts is not None:
        source = (
            read_table(random_gts, missing=missing) if random_gts_txt else open_plink(random_gts)
        )
    traits = read_table(phenofile, missing=missing)
    mean, variance = (
        None if path is None else read_table(path, missing=missing)
        for path in (mean_covar, var_covar)
    )
    aligned = align(
        source.samples if isinstance(source, PlinkGenotypes) else None,
        traits,
        phenotype_column=phen_index,
        mean_covariates=mean,
        variance_covariates=variance,
        genotypes_name=str(random_gts),
    )
    ones = np.ones((aligned.n_samples, 1))
    X = np.column_stack([ones, aligned.standardised_mean_covariates()])
    V = np.column_stack([ones, aligned.standardised_variance_covariates()])
    what = f"phenotype '{aligned.phenotype_name}'"
    notes = table_notes([traits, mean, variance]) + aligned.notes
    if source is None:
        with refused(what):
            fit: HLMFit | HLMMFit = converged(HLM(aligned.y, X, V).fit(), what)
    else:
        columns = random_effects(aligned.ids, source)
        notes = (*notes, *source.notes, *columns.notes)
        with refused(what):
            mixed = HLMM(aligned.y, X, V, columns.G)
            random = converged(mixed.fit(h2_init=h2_init * mixed.mean_square), what)
        fit = random
        say(f"h2 {random.h2:.6g} (SE {random.h2_se:.3g})")
        if not no_h2_estimate:
            write_estimate(Path(f"{outprefix}.h2.txt"), random.h2, random.h2_se)
    for note in notes:
        say(note)
    for suffix, names, effects, errors, unit in (
        ("mean", aligned.mean_names, fit.alpha, fit.alpha_se, aligned.mean_scale),
        ("variance", aligned.variance_names, fit.beta, fit.beta_se, aligned.variance_scale),
    ):
        table = effects_per_unit(names, effects, errors, unit)
        write_effects(Path(f"{outprefix}.{suffix}_effects.txt"), table)
    say(f"{aligned.n_samples:,} samples, log-likelihood {fit.loglik:.6f}")


def require_random_file(random_gts: str | None, random_gts_txt: bool) -> None:
    """Raise an `InputError` where --random_gts_txt stands alone."""
    if random_gts_txt and random_gts is None:
        raise InputError("--random_gts_txt says how to read --random_gts, which is not given")
