"""What decides the numbers of a scan, besides its input."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from hlmm_dask.arguments import check_filters, choice, flag, number, whole_number
from hlmm_dask.errors import InputError
from hlmm_dask.kernels.block_model import Method
from hlmm_dask.kernels.packed import Engine
from hlmm_dask.kernels.score import SPA_THRESHOLD
from hlmm_dask.kernels.table import Filters
from hlmm_dask.option_rules import require_of
from hlmm_dask.schema import RESULT_NAMES, TEST_COLUMNS

H2 = Literal["refit", "null"]


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
    h2: H2 = "refit"
    method: Method = "auto"
    engine: Engine = "numba"
    loco: bool = False
    exclude_window: float | None = None
    spa_threshold: float = SPA_THRESHOLD
    tests: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise an `InputError` for values that make no sense."""
        whole_number("start", self.start, least=0)
        if self.stop is not None:
            whole_number("stop", self.stop, least=0)
        check_filters(self.min_maf, self.max_missing)
        for name, allowed in (("h2", get_args(H2)), ("method", get_args(Method)),
                              ("engine", get_args(Engine))):  # fmt: skip
            object.__setattr__(self, name, choice(name, getattr(self, name), allowed))
        for name in ("count_a2", "loco"):
            flag(name, getattr(self, name))
        if self.exclude_window is not None:
            expected = "kilobases, 0 or more"
            number("--exclude-window", self.exclude_window, least=0.0, expected=expected)
        expected = "standard deviations, 0 or more, or inf"
        number("--spa-threshold", self.spa_threshold, least=0.0, infinite=True, expected=expected)
        tests = tuple(self._test(test) for test in self.tests)
        for test in tests:
            if tests.count(test) > 1:
                raise InputError(f"test {test!r} is given twice; give it once")
        object.__setattr__(self, "tests", tests)
        require_of(self)

    @staticmethod
    def _test(test: object) -> str:
        if test == "quail":
            raise InputError(
                "test 'quail': needs quantile regressions on all covariates before the scan; "
                f"give some of {', '.join(TEST_COLUMNS)}"
            )
        return choice("test", test, tuple(TEST_COLUMNS))

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
