"""The effects that other programs are given, and which columns of a store they are made of."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from hlmm_dask.errors import InputError
from hlmm_dask.store import ResultsStore

_LN2, _LN10 = float(np.log(2.0)), float(np.log(10.0))


@dataclass(frozen=True)
class Effect:
    """One effect of every variant: what a table of summary statistics holds.

    Attributes
    ----------
    name : str
        Name on the command line and in file names.
    test : str
        What regenie's column TEST says.
    stem : str
        Start of the names of its columns.
    doc : str
        What one unit of it is.
    """

    name: str
    test: str
    stem: str
    doc: str

    @property
    def required(self) -> tuple[str, str, str]:
        """Columns without which the effect can't be written."""
        return self.stem, f"{self.stem}_se", f"{self.stem}_neg_log10_p"

    @property
    def headline(self) -> tuple[str, str]:
        """-log10 p of the test to rely on, and the standard error that goes with it."""
        return f"{self.stem}_best_neg_log10_p", f"{self.stem}_robust_se"


EFFECTS = {
    effect.name: effect
    for effect in (
        Effect("mean", "ADD", "add", "effect of one copy of effect_allele on the mean"),
        Effect("variance", "VAR", "var", "effect of one copy of effect_allele on the log variance"),
        Effect(
            "dispersion",
            "DISP",
            "dispersion",
            "effect of one copy of effect_allele on the log variance, less what the relation of "
            "variance to mean explains",
        ),
    )
}


def effects_in(columns: Iterable[str]) -> list[Effect]:
    """Return the effects that can be written from these columns."""
    there = set(columns)
    return [effect for effect in EFFECTS.values() if there.issuperset(effect.required)]


def columns_for(effects: Iterable[Effect], columns: Iterable[str]) -> list[str]:
    """Return which of a store's columns the effects need."""
    wanted = {"status", "n_samples", "effect_allele_frequency"}
    for effect in effects:
        wanted |= {*effect.required, *effect.headline}
    return [name for name in columns if name in wanted]


def require_columns(store: ResultsStore) -> None:
    """Raise an `InputError` unless the store says how many samples and which frequency."""
    lacking = {"status", "n_samples", "effect_allele_frequency"}.difference(store.columns)
    if lacking:
        raise InputError(
            f"{store.path}: no column {', '.join(sorted(lacking))}, expected the store of a scan"
        )


@dataclass(frozen=True)
class Statistics:
    """Numbers of one effect, (n,) float64 each.

    Attributes
    ----------
    beta, se : ndarray
        Effect and standard error.
    neg_log10_p : ndarray
        -log10 p.
    z : ndarray
        Normal statistic with that p and the sign of the effect.
    usable : (n,) bool
        Where all of them are finite.
    """

    beta: NDArray[np.float64]
    se: NDArray[np.float64]
    neg_log10_p: NDArray[np.float64]
    z: NDArray[np.float64]
    usable: NDArray[np.bool_]


def statistics_of(effect: Effect, frame: pd.DataFrame) -> Statistics:
    """Take the numbers of an effect from rows of a store.

    Where the test to rely on was done, its p is taken, and the robust standard error, which
    doesn't assume what that test doesn't assume either; else those of the classical test.
    """
    beta, se, p = (_numbers(frame[name]) for name in effect.required)
    best, robust = effect.headline
    if best in frame:
        headline = np.isfinite(_numbers(frame[best]))
        p = np.where(headline, _numbers(frame[best]), p)
        if robust in frame:
            sturdy = _numbers(frame[robust])
            se = np.where(headline & np.isfinite(sturdy), sturdy, se)
    usable = np.isfinite(beta) & np.isfinite(se) & (se > 0) & np.isfinite(p)
    # From the logarithm of the tail: p may be smaller than the smallest double.
    size = -special.ndtri_exp(np.where(usable, p, 0.0) * -_LN10 - _LN2)
    return Statistics(beta, se, p, np.copysign(size, beta), usable)


def _numbers(column: "pd.Series[Any]") -> NDArray[np.float64]:
    return column.to_numpy(dtype=np.float64)
