"""One model without variants: ``hlmm-fit``."""

from pathlib import Path

import numpy as np

from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink
from hlmm_dask.missing import MissingLike
from hlmm_dask.models.hlm import HLM, HLMFit
from hlmm_dask.models.hlmm import HLMM, HLMMFit
from hlmm_dask.option_rules import require
from hlmm_dask.printable import say
from hlmm_dask.random_effects import random_effects
from hlmm_dask.samples import align
from hlmm_dask.scanning.null import H2_INIT, converged, effects_per_unit, refused
from hlmm_dask.scanning.null_input import check_h2_init, table_notes
from hlmm_dask.scanning.outputs import check_outprefix, write_effects, write_estimate
from hlmm_dask.tables import Table, read_column, read_table


def fit_model(
    *,
    phenofile: str,
    outprefix: str,
    mean_covar: str | None = None,
    var_covar: str | None = None,
    random_gts: str | None = None,
    random_gts_txt: bool = False,
    h2_init: float = H2_INIT,
    phen_index: str = "1",
    missing_char: MissingLike = (),
    no_minus9: bool = False,
    mean_covar_cols: str = "all",
    var_covar_cols: str = "all",
    no_h2_estimate: bool = False,
) -> None:
    """Fit one model without variants and write its estimates; names as the command's options.

    Without random effects HLM, with them HLMM of all parameters jointly. Writes
    ``OUTPREFIX.mean_effects.txt``, ``OUTPREFIX.variance_effects.txt`` and, with random effects,
    ``OUTPREFIX.h2.txt``.
    """
    check_outprefix(outprefix)
    check_h2_init(h2_init)
    require(
        {
            "random_gts": random_gts, "random_gts_txt": random_gts_txt, "h2_init": h2_init,
            "no_h2_estimate": no_h2_estimate,
        },
        {"random_gts_txt": False, "h2_init": H2_INIT, "no_h2_estimate": False},
    )  # fmt: skip
    source: PlinkGenotypes | Table | None = None
    if random_gts is not None and random_gts_txt:
        source = read_table(random_gts, missing=missing_char)
    elif random_gts is not None:
        source = open_plink(random_gts)
    traits = read_column(phenofile, phen_index, missing=missing_char)
    mean, variance = (
        None if path is None else read_table(path, columns=columns, missing=missing_char)
        for path, columns in ((mean_covar, mean_covar_cols), (var_covar, var_covar_cols))
    )
    aligned = align(
        source.samples if isinstance(source, PlinkGenotypes) else None,
        traits,
        mean_covariates=mean,
        variance_covariates=variance,
        genotypes_name=str(random_gts),
        no_minus9=no_minus9,
        extra_parameters=int(source is not None),
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
    say(f"{what}: {aligned.n_samples:,} samples, log-likelihood {fit.loglik:.6f}")
