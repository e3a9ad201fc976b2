"""The simulation that measures false calls: its genotypes, its counts, and the command itself."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from calibration.count import LEVELS, Counts  # noqa: E402  # beside the script
from calibration.simulate import (  # noqa: E402
    DISTRIBUTIONS,
    family_genotypes,
    packed_variants,
    phenotype,
)

from hlmm_dask.genotypes.packed import decode  # noqa: E402


@pytest.mark.parametrize("maf", [0.005, 0.3])
def test_genotypes_are_drawn_in_hardy_weinberg_proportions(maf: float) -> None:
    m, n = 400, 2_000
    copies = decode(packed_variants(maf, m, n, seed=3), n)
    seen = np.bincount(copies.ravel(), minlength=3)
    expected = m * n * np.array([(1 - maf) ** 2, 2 * maf * (1 - maf), maf**2])
    assert stats.chisquare(seen, expected).pvalue > 1e-4
    # Neither variants nor samples go together.
    centred = copies[:, :8] - 2 * maf
    assert np.abs(np.corrcoef(centred.T)[np.triu_indices(8, 1)]).max() < 5 * m**-0.5
    assert (decode(packed_variants(maf, m, n, seed=4), n) != copies).any()


def test_siblings_share_half_of_their_genes() -> None:
    copies = family_genotypes(0.3, 200, 500, 4, np.random.default_rng(1)).reshape(-1, 4)
    np.testing.assert_allclose(np.corrcoef(copies.T)[np.triu_indices(4, 1)], 0.5, atol=0.02)
    assert copies.mean() == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_residuals_have_mean_0_and_variance_1(name: str) -> None:
    y = phenotype(name, 400_000, np.random.default_rng(0))
    assert y.mean() == pytest.approx(0.0, abs=0.01)
    assert y.var() == pytest.approx(1.0, rel=0.03)


def test_counts_of_uniform_p_values() -> None:
    p = np.random.default_rng(5).random(300_000)
    counts, halves = Counts(), Counts()
    counts.add(np.append(p, np.nan))
    for half in np.split(p, 2):
        part = Counts()
        part.add(half)
        halves += part
    assert counts.n == halves.n == len(p)
    assert counts.inflation == halves.inflation == pytest.approx(1.0, abs=0.02)
    for i, level in enumerate(LEVELS):
        rate, low, high = counts.rate(i)
        assert rate == pytest.approx(np.sum(p < level) / len(p) / level)
        exact = stats.binomtest(int(np.sum(p < level)), len(p)).proportion_ci(0.95, "exact")
        assert (low, high) == pytest.approx((exact.low / level, exact.high / level))
        assert low < 1.0 < high


@pytest.mark.slow
def test_the_command_measures_every_setting(tmp_path: Path) -> None:
    sizes = {"samples": 400, "maf": 0.3, "variants": 400, "draw": 100, "fewer": 40, "workers": 1}
    options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, SCRIPTS / "calibrate.py", tmp_path / "cal", *options],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "cal.tsv", sep="\t")
    assert set(table["setting"]) == {"alone", "mean-effect", "covariates", "families", "power"}
    alone = table[(table["setting"] == "alone") & (table["phenotype"] == "gamma")]
    rates = alone.set_index("test")
    assert (rates["variants"] == 400).all()
    assert rates.loc["var, classical", "lambda_gc"] > 1.5 > rates.loc["var, headline", "lambda_gc"]
    power = table[table["setting"] == "power"].set_index("test")["0.001"] * 1e-3
    assert power["var, headline"] > 0.3
    assert power["var, headline"] == pytest.approx(power["var, classical"], abs=0.3)
    assert (tmp_path / "cal.png").stat().st_size > 10_000
