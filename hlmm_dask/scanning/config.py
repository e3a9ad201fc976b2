"""What decides the numbers of a scan, besides its input."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hlmm_dask.errors import InputError
from hlmm_dask.kernels.block_model import Method
from hlmm_dask.kernels.packed import Engine
from hlmm_dask.kernels.score import SPA_THRESHOLD
from hlmm_dask.kernels.table import Filters
from hlmm_dask.schema import RESULT_NAMES, TEST_COLUMNS


@dataclass(frozen=True)
class ScanConfig:
    """Options of a scan.

    Attributes
    ----------
    start, stop : int or None
        Variants start..stop-1 are scanned; None stands for the end.
    min_maf : float
        Variants with a minor allele frequency above this are fitted.
    max_missing : float
        Variants with a percentage of missing calls below this are fitted.
    count_a2 : bool
        Effects are per copy of allele 2 (.bim column 6) instead of allele 1.
    h2 : {"refit", "null"}
        Estimate h2 again for every variant, or keep that of the null model.
    method : {"auto", "exact", "linear"}
        How random effects are fitted: exactly for every variant; at a cost linear in their number,
        to about 1e-3 standard errors; or exactly where that is cheap or matters.
    engine : {"numba", "numpy"}
        How class sums are computed.
    loco : bool
        Leave the columns of G on a variant's chromosome out of its random effects.
    exclude_window : float, optional
        Leave out those at most so many kilobases from it.
    spa_threshold : float
        Scores above this many standard deviations have saddlepoint tails; those below it, up to
        three, have a series.
    tests : tuple of str
        Further tests of the variance, names as in ``schema.TEST_COLUMNS``.
    """

    start: int = 0
    stop: int | None = None
    min_maf: float = 0.05
    max_missing: float = 5.0
    count_a2: bool = False
    h2: Literal["refit", "null"] = "refit"
    method: Method = "auto"
    engine: Engine = "numba"
    loco: bool = False
    exclude_window: float | None = None
    spa_threshold: float = SPA_THRESHOLD
    tests: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise an `InputError` for values that make no sense."""
        if not 0.0 <= self.min_maf < 0.5:
            raise InputError(f"min_maf {self.min_maf}: expected 0 <= min_maf < 0.5")
        if not 0.0 < self.max_missing <= 100.0:
            raise InputError(
                f"max_missing {self.max_missing}: expected a percentage, 0 < max_missing <= 100"
            )
        if self.h2 not in ("refit", "null"):
            raise InputError(f"h2 '{self.h2}': expected refit or null")
        if self.method not in ("auto", "exact", "linear"):
            raise InputError(f"method '{self.method}': expected auto, exact or linear")
        if self.engine not in ("numba", "numpy"):
            raise InputError(f"engine '{self.engine}': expected numba or numpy")
        if self.loco and self.exclude_window is not None:
            raise InputError(
                "--loco leaves out whole chromosomes, --exclude-window parts of them; give one"
            )
        if self.exclude_window is not None and not 0.0 <= self.exclude_window < math.inf:
            raise InputError(
                f"exclude_window {self.exclude_window:g}: expected kilobases, 0 or more"
            )
        for test in self.tests:
            if test == "quail":
                raise InputError(
                    "test 'quail': needs quantile regressions on all covariates before the scan; "
                    f"give some of {', '.join(TEST_COLUMNS)}"
                )
            if test not in TEST_COLUMNS or self.tests.count(test) > 1:
                raise InputError(
                    f"test '{test}': expected each at most once of {', '.join(TEST_COLUMNS)}"
                )
        if not self.spa_threshold >= 0.0:
            raise InputError(
                f"spa_threshold {self.spa_threshold:g}: expected standard deviations, 0 or more"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the results' columns."""
        further = [column.name for test in self.tests for column in TEST_COLUMNS[test]]
        return (*RESULT_NAMES, *further)

    @property
    def leaves_out(self) -> bool:
        """Whether columns of G are left out for some variants."""
        return self.loco or self.exclude_window is not None

    @property
    def filters(self) -> Filters:
        """Which variants are fitted."""
        return Filters(self.min_maf, self.max_missing, self.count_a2)

    def fingerprint(self) -> dict[str, Any]:
        """Return the options by name."""
        return asdict(self)
