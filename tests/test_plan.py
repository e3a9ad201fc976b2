"""How variants are cut into blocks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hlmm_dask.scanning.plan import choose_block_size


@given(
    n_variants=st.integers(1, 10**8),
    n_samples=st.integers(1, 10**6),
    n_random=st.integers(0, 5000),
    n_covariates=st.integers(0, 50),
)
def test_block_size_is_in_range(
    n_variants: int, n_samples: int, n_random: int, n_covariates: int
) -> None:
    size = choose_block_size(n_variants, n_samples, n_random=n_random, n_covariates=n_covariates)
    assert 1 <= size <= n_variants
    assert size <= 16_384
    # A block's packed bytes are bounded.
    assert size == 1 or size * ((n_samples + 3) // 4) <= 256 * 2**20


def test_enough_blocks_for_an_even_load() -> None:
    assert -(-12_226 // choose_block_size(12_226, 1_940, n_random=100)) >= 16
    assert -(-100_000 // choose_block_size(100_000, 100_000)) >= 16
    # But none so small that its overhead is what takes the time.
    assert choose_block_size(12_226, 1_940) > 1000


def test_blocks_of_many_phenotypes_are_smaller() -> None:
    """Each block is fitted once for each of them, and costs something each time."""
    assert 600 < choose_block_size(10_000, 100_000, n_phenotypes=20) < 800
    assert choose_block_size(10_000, 100_000) > 2000


def test_blocks_of_slow_models_are_small() -> None:
    assert choose_block_size(500_000, 100_000, n_random=500) < 200


def test_blocks_of_the_linear_method_go_by_its_own_cost() -> None:
    exact, linear = (
        choose_block_size(500_000, 100_000, n_random=500, kernel=kernel)
        for kernel in ("exact", "linear")
    )
    auto = choose_block_size(500_000, 100_000, n_random=500, kernel="auto")
    assert exact < 200 < auto <= linear


@pytest.mark.parametrize("n_variants", [1, 2, 63, 64, 65])
def test_few_variants_make_one_block(n_variants: int) -> None:
    size = choose_block_size(n_variants, 100)
    assert size == n_variants
