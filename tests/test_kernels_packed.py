"""Class sums off packed bytes against a plain loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hlmm_dask.genotypes.packed import encode
from hlmm_dask.kernels.packed import (
    ClassSums,
    Engine,
    PackedLayout,
    Powers,
    class_sums,
    count_codes,
    look_up,
    pack_phenotype,
    unpack,
)

Codes = NDArray[np.int8]
FloatArray = NDArray[np.float64]
NAMES = ("counts", "sums", "squares", "cubes", "fourths")

ENGINES: tuple[Engine, Engine] = ("numba", "numpy")


def random_codes(rng: np.random.Generator, m: int, n: int) -> Codes:
    return rng.choice(np.array([-1, 0, 1, 2], np.int8), (m, n), p=[0.1, 0.4, 0.3, 0.2])


def plain(codes: Codes, index: NDArray[np.int64], y: FloatArray) -> ClassSums:
    out = np.zeros((5, 3, len(codes)))
    for j, row in enumerate(codes):
        for value, code in zip(y, row[index], strict=True):
            if code >= 0:
                out[:, code, j] += value ** np.arange(5)
    return ClassSums(*out)


def assert_same(a: ClassSums, b: ClassSums, *, scale: float = 1.0) -> None:
    np.testing.assert_array_equal(a.counts, b.counts)
    for name in NAMES[1:]:
        one, other = getattr(a, name), getattr(b, name)
        if one is not None and other is not None:
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12 * scale)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n", [1, 4, 37, 38, 39, 40])
@pytest.mark.parametrize("share", [1.0, 0.6])
@pytest.mark.parametrize("powers", [2, 4])
def test_sums_are_the_plain_loops(engine: Engine, n: int, share: float, powers: Powers) -> None:
    rng = np.random.default_rng(n)
    codes = random_codes(rng, 25, n)
    codes[::3] = np.maximum(codes[::3], 0)  # no missing calls: a loop of its own
    index = np.sort(rng.choice(n, max(1, round(share * n)), replace=False))
    y = rng.standard_normal(len(index))
    phenotype = pack_phenotype(PackedLayout(n, index), y)
    sums = class_sums(encode(codes), phenotype, powers=powers, engine=engine)
    assert (sums.cubes is None) == (sums.fourths is None) == (powers == 2)
    assert_same(sums, plain(codes, index, y), scale=10 * n)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 70), st.integers(0, 6), st.integers(0, 10_000))
def test_engines_agree(n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    index = np.flatnonzero(rng.random(n) < 0.7)
    phenotype = pack_phenotype(PackedLayout(n, index), rng.standard_normal(len(index)))
    packed = rng.integers(0, 256, (m, (n + 3) // 4), dtype=np.uint8)
    four, other = (class_sums(packed, phenotype, powers=4, engine=e) for e in ENGINES)
    assert_same(four, other, scale=10 * n)
    assert_same(class_sums(packed, phenotype), four, scale=10 * n)


def test_more_than_one_chunk_of_bytes() -> None:
    rng = np.random.default_rng(0)
    n = 4 * 2500 + 3
    codes = random_codes(rng, 9, n)
    index = np.flatnonzero(rng.random(n) < 0.9)
    y = rng.standard_normal(len(index))
    phenotype = pack_phenotype(PackedLayout(n, index), y)
    codes[::2] = np.maximum(codes[::2], 0)
    sums, other = (class_sums(encode(codes), phenotype, powers=4, engine=e) for e in ENGINES)
    assert_same(sums, other, scale=n)
    expected = np.array([[(row[index] == k).sum() for row in codes] for k in range(3)])
    np.testing.assert_array_equal(sums.counts, expected)
    direct = np.array([[y[row[index] == k].sum() for row in codes] for k in range(3)])
    np.testing.assert_allclose(sums.sums, direct, atol=1e-10)


def test_padding_and_other_samples_do_not_count() -> None:
    n, index = 6, np.array([1, 4])
    phenotype = pack_phenotype(PackedLayout(n, index), np.array([2.0, -3.0]))
    codes = np.array([[0, 2, 1, 2, 1, 0]], np.int8)
    packed = encode(codes)
    for padding in (0x00, 0x50, 0xA0, 0xF0):
        packed[:, 1] = (packed[:, 1] & 0x0F) | padding
        sums = class_sums(packed, phenotype)
        np.testing.assert_array_equal(sums.counts[:, 0], [0, 1, 1])
        np.testing.assert_array_equal(sums.sums[:, 0], [0, -3, 2])
        np.testing.assert_array_equal(sums.squares[:, 0], [0, 9, 4])


def test_empty_class_zero_is_exactly_empty() -> None:
    """It comes by difference, of which no rounding error may be left."""
    rng = np.random.default_rng(1)
    codes = rng.integers(1, 3, (4, 999)).astype(np.int8)
    y = rng.standard_normal(999) * 1e5
    phenotype = pack_phenotype(PackedLayout(999, np.arange(999)), y)
    sums = class_sums(encode(codes), phenotype, powers=4)
    for name in NAMES:
        assert (getattr(sums, name)[0] == 0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_views_are_read_right(engine: Engine) -> None:
    rng = np.random.default_rng(2)
    codes = random_codes(rng, 12, 50)
    phenotype = pack_phenotype(PackedLayout(50, np.arange(50)), rng.standard_normal(50))
    packed = encode(codes)
    read_only = packed.copy()
    read_only.flags.writeable = False
    expected = class_sums(packed[::3].copy(), phenotype, engine=engine)
    assert_same(class_sums(packed[::3], phenotype, engine=engine), expected)
    assert_same(class_sums(np.asfortranarray(packed)[::3], phenotype, engine=engine), expected)
    whole = class_sums(packed, phenotype, engine=engine)
    assert_same(class_sums(read_only, phenotype, engine=engine), whole)


def test_some_of_the_variants() -> None:
    rng = np.random.default_rng(3)
    codes = random_codes(rng, 12, 50)
    phenotype = pack_phenotype(PackedLayout(50, np.arange(50)), rng.standard_normal(50))
    rows = np.array([7, 2, 3])
    for powers in (2, 4):
        sums = class_sums(encode(codes), phenotype, powers=powers)
        taken = sums.take(rows)
        assert_same(taken, class_sums(encode(codes[rows]), phenotype, powers=powers))
        assert (taken.cubes is None) == (sums.cubes is None) == (powers == 2)


@pytest.mark.parametrize("n", [1, 5, 64, 67])
def test_unpack_inverts_packing(n: int) -> None:
    rng = np.random.default_rng(n)
    codes = random_codes(rng, 7, n)
    index = np.flatnonzero(rng.random(n) < 0.8)
    np.testing.assert_array_equal(unpack(encode(codes), PackedLayout(n, index)), codes[:, index])


@pytest.mark.parametrize(("m", "n"), [(25, 3), (25, 37), (3000, 200)])
@pytest.mark.parametrize("share", [1.0, 0.6, 0.05])
def test_codes_are_counted_and_looked_up(m: int, n: int, share: float) -> None:
    rng = np.random.default_rng(n)
    codes = random_codes(rng, m, n)
    index = np.sort(rng.choice(n, max(1, round(share * n)), replace=False))
    packed, layout = encode(codes), PackedLayout(n, index)
    chosen = codes[:, index]
    expected = [(chosen == code).sum(axis=1) for code in (2, -1, 1)]
    np.testing.assert_array_equal(count_codes(packed, layout), expected)
    table = rng.standard_normal((m, 4))
    place = np.array([1, 3, 2, 0])[chosen + 1]  # by -1, 0, 1, 2
    found = look_up(packed, index, table)
    np.testing.assert_array_equal(found, np.take_along_axis(table, place, axis=1))
    np.testing.assert_array_equal(look_up(packed, index, table[0]), table[0][place])
