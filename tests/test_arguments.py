"""Arguments are checked in one way: names, values and bounds."""

from collections.abc import Callable

import numpy as np
import pytest

import hlmm_dask
from hlmm_dask import (
    HLM,
    HLMM,
    InputError,
    LinearMixedModel,
    RandomEffect,
    VarianceComponents,
    simulate,
)
from hlmm_dask.arguments import bounds, choice, flag, number, whole_number
from hlmm_dask.in_memory import variant_tests
from hlmm_dask.models import fit_heritability, fit_phenotypes, profile_loglik, rotation_of_kinship
from hlmm_dask.models.dispersion import DispersionOptions
from hlmm_dask.models.huber import huber_slope
from hlmm_dask.models.pedigree import Pedigree
from hlmm_dask.relationship.files import kinship_paths, write_kinship
from hlmm_dask.relationship.kinship import Kinship
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.transforms import chosen_transforms
from hlmm_dask.view.style import theme

N = 60
RNG = np.random.default_rng(5)
X = np.ones((N, 1))
Y = RNG.standard_normal(N)
Z = RNG.standard_normal((N, 2 * N))
K = Z @ Z.T / (2 * N)
DATA = rotation_of_kinship(K).rotate(Y, X)
LMM = LinearMixedModel.from_kinship(Y, X, K)[0]
VC = VarianceComponents(Y, X, [RandomEffect.from_covariance("K", K)])
STATE = VC.state(VC.default_start())
HETERO = HLM(Y, X, X)
MIXED = HLMM(Y, X, X, Z[:, :5] / 5**0.5)
PEDIGREE = Pedigree(np.array([-1, -1, 0]), np.array([-1, -1, 1]), np.array([1, 2, 1], np.int8))
GENOTYPES = RNG.integers(0, 3, (4, N)).astype(np.int8)

CALLS: list[tuple[str, Callable[[object], object], str]] = [
    ("method", lambda v: fit_heritability(DATA, method=v), "reml or ml"),
    ("method", lambda v: fit_phenotypes(Y[:, None], X, K, method=v), "reml or ml"),
    ("method", lambda v: profile_loglik(DATA, 0.5, method=v), "reml or ml"),
    ("information", lambda v: VC.fit(information=v), "observed, expected or average"),
    ("information", lambda v: VC.information(STATE, v), "observed, expected or average"),
    ("maximiser", lambda v: VC.fit(maximiser=v), "average, fisher, newton, em or grid"),
    ("males", lambda v: PEDIGREE.x_linked(males=v), "equal, compensated or single"),
    ("file_format", lambda v: kinship_paths("x", v), "npz, grm or text"),
    ("file_format", lambda v: write_kinship(Kinship([], np.empty((0, 0))), "x", v), "npz, grm"),
    ("h2", lambda v: ScanConfig(h2=v), "refit or null"),
    ("method", lambda v: ScanConfig(method=v), "auto, exact or linear"),
    ("engine", lambda v: ScanConfig(engine=v), "numba or numpy"),
    ("test", lambda v: ScanConfig(tests=(v,)), "levene"),
    ("method", lambda v: variant_tests(GENOTYPES, Y, method=v), "auto, exact or linear"),
    ("style", theme, "light or dark"),
    ("missing", lambda v: RandomEffect.from_levels("h", ["a", "b"], missing=v), "refuse or own"),
]


@pytest.mark.parametrize(("name", "call", "allowed"), CALLS)
@pytest.mark.parametrize("value", ["nonsense", "restricted", "", True, 1, None])
def test_choices_name_argument_value_and_what_is_allowed(name, call, allowed, value) -> None:
    with pytest.raises(InputError) as caught:
        call(value)
    assert str(caught.value).startswith(f"{name} {value!r}: expected {allowed}")


def test_upper_and_lower_case_are_understood() -> None:
    one, other = fit_heritability(DATA, method="ml"), fit_heritability(DATA, method="ML")  # type: ignore[arg-type]
    assert (one.h2, one.loglik, one.method) == (other.h2, other.loglik, other.method)
    reml = fit_phenotypes(Y[:, None], X, K, method="REML")[0]  # type: ignore[arg-type]
    assert reml.method == "reml"
    assert reml.loglik == fit_phenotypes(Y[:, None], X, K)[0].loglik
    assert reml.loglik != fit_heritability(DATA, method="ml").loglik
    assert ScanConfig(h2="Null", method="EXACT").fingerprint()["method"] == "exact"  # type: ignore[arg-type]
    assert np.allclose(
        VC.fit(information="Expected").se,  # type: ignore[arg-type]
        VC.fit(information="expected").se,
    )
    assert chosen_transforms("RINT,none") == ["rint", "none"]
    assert DispersionOptions("Chromosomes") == DispersionOptions("chromosomes")  # type: ignore[arg-type]
    design = np.random.default_rng(5).standard_normal((len(Y), 2))
    upper, lower = (
        variant_tests(GENOTYPES, Y, random_effects=design, method=method)  # type: ignore[arg-type]
        for method in ("EXACT", "exact")
    )
    assert upper.equals(lower)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VC.fit(reml="ml"), "reml 'ml': expected True or False"),
        (lambda: VC.loglik([1.0, 1.0], reml=0), "reml 0: expected True or False"),
        (lambda: VC.score(STATE, reml="REML"), "reml 'REML'"),
        (lambda: VC.fit(tolerance=-1e-8), "tolerance -1e-08: expected a number above 0"),
        (lambda: VC.fit(max_iterations=2.5), "max_iterations 2.5: expected a whole number"),
        (lambda: VarianceComponents(Y, X, [], residual="no"), "residual 'no'"),
        (lambda: fit_heritability(DATA, bounds=(0.9, 0.1)), "bounds .*lower, upper"),
        (lambda: fit_heritability(DATA, bounds=(0.1, np.nan)), "bounds nan"),
        (lambda: fit_heritability(DATA, bounds=(-0.5, 0.5)), "bounds -0.5: expected .* at least 0"),
        (lambda: fit_heritability(DATA, tolerance=0.0), "tolerance 0: expected a number above 0"),
        (lambda: LMM.fit(bounds=(8.0, -8.0)), r"bounds \(8.0, -8.0\): expected two numbers"),
        (lambda: LMM.fit(bounds=(-np.inf, 8.0)), "bounds -inf"),
        (lambda: LMM.fit(bounds=4.0), "bounds 4"),
        (lambda: LMM.fit(tol=-1.0), "tolerance -1"),
        (lambda: LMM.fit(maxiter=0), "max_iterations 0"),
        (lambda: LMM.fit(log_gamma=np.nan), "log_gamma nan"),
        (lambda: LMM.fit(log_gamma=True), "log_gamma True"),
        (lambda: LMM.compute_neg_log_reml(0.0, "yes"), "return_parameters 'yes'"),
        (lambda: LMM.truncated(True), "rank True"),
        (lambda: LMM.truncated(N + 1), f"rank {N + 1}: expected at most {N}"),
        (
            lambda: LinearMixedModel.from_random_effects(Y, X, Z, max_condition_number=-1.0),
            "max_condition_number -1",
        ),
        (lambda: HETERO.fit(tolerance=np.inf), "tolerance inf"),
        (lambda: HETERO.fit(max_iterations=-3), "max_iterations -3"),
        (lambda: MIXED.fit(fix_h2="null"), "fix_h2 'null'"),
        (lambda: MIXED.fit(h2_init=-0.1), "h2_init -0.1"),
        (lambda: MIXED.fit(h2_min=np.nan), "h2_min nan"),
        (lambda: simulate(10, 0, [1.0], [0.0], 0.5), "n_random 0"),
        (lambda: simulate(10, 5, [1.0], [0.0], -0.5), "h2 -0.5"),
        (lambda: huber_slope(Y, Y, tol=-1.0), "tol -1"),
        (lambda: ScanConfig(min_maf=0.5), "--min-maf 0.5: expected .* below 0.5"),
        (lambda: ScanConfig(min_maf="0.05"), "--min-maf '0.05'"),
        (lambda: ScanConfig(max_missing=np.nan), "--max-missing nan: expected a percentage"),
        (lambda: ScanConfig(count_a2="no"), "count_a2 'no'"),
        (lambda: ScanConfig(start=1.5), "start 1.5"),
        (lambda: ScanConfig(exclude_window=np.inf), "--exclude-window inf"),
        (lambda: ScanConfig(spa_threshold=np.nan), "--spa-threshold nan"),
        (lambda: DispersionOptions(blocks=True), "dispersion blocks True"),
        (lambda: DispersionOptions(slope_error=1), "slope_error 1"),
        (lambda: variant_tests(GENOTYPES, Y, fit_covariates="no"), "fit_covariates 'no'"),
    ],
)
def test_numbers_and_flags_outside_their_bounds_are_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_numpy_scalars_are_taken() -> None:
    assert flag("x", np.bool_(True)) is True
    assert number("x", np.float32(0.5)) == number("x", np.int64(1)) / 2 == 0.5
    assert whole_number("x", np.int8(3), least=3) == 3
    assert bounds("x", (np.float64(0.0), 1)) == (0.0, 1.0)
    assert bounds("x", np.array([0.0, 1.0])) == (0.0, 1.0)
    assert number("x", np.array(0.5)) == 0.5
    assert whole_number("x", np.array(3), least=3) == 3
    with pytest.raises(InputError, match="expected a number"):
        number("x", np.array([0.5]))
    assert choice("x", np.str_("B"), ("a", "b")) == "b"
    with pytest.raises(InputError, match=r"x np.True_: expected a number"):
        number("x", np.True_)


def test_a_name_of_the_package_stays_a_function() -> None:
    """No module of the package has the name of a public function."""
    for _ in range(2):
        for name in hlmm_dask.__all__:
            assert callable(getattr(hlmm_dask, name)), name
