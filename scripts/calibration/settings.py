"""One draw of each setting: p-values of variants without effect on the variance, or a known one.

Every function takes the sizes and a seed, and gives for each label the p-values by test.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calibration.count import p_values
from calibration.simulate import DISTRIBUTIONS, family_genotypes, packed_variants, phenotype
from hlmm_dask.genotypes.packed import decode, encode
from hlmm_dask.kernels.block import fit_packed
from hlmm_dask.kernels.block_model import BlockModel, block_model
from hlmm_dask.kernels.dense import DenseModel
from hlmm_dask.kernels.packed import PackedLayout
from hlmm_dask.kernels.table import Filters
from hlmm_dask.models.random_design import RandomDesign
from hlmm_dask.samples import AlignedSamples
from hlmm_dask.scanning.null import fit_null_arrays

FloatArray = NDArray[np.float64]
PValues = dict[str, FloatArray]

_ALL = Filters(min_maf=0.0, max_missing=100.0)
# Share of the phenotype's variance that a variant with an effect on the mean explains.
MEAN_EFFECT = 0.01
# Variants with such an effect on a phenotype.
SHARING = 10
# Standard deviation of one sex over that of the other.
SEX_SD = 1.5
SIBLINGS = 4
CAUSAL = 200
HERITABILITY = 0.5


def alone(n: int, maf: float, m: int, seed: int) -> dict[str, PValues]:
    """Give nothing an effect: one set of variants against a phenotype of each distribution."""
    rng = np.random.default_rng((seed, n, int(maf * 1e6)))
    packed = packed_variants(maf, m, n, int(rng.integers(2**62)))
    return {name: _fitted(phenotype(name, n, rng), packed) for name in DISTRIBUTIONS}


def mean_effect(n: int, maf: float, m: int, seed: int) -> dict[str, PValues]:
    """Give each variant an effect on the mean of a phenotype, together with a few others."""
    rng = np.random.default_rng((seed, n, int(maf * 1e6), 1))
    packed = packed_variants(maf, m, n, int(rng.integers(2**62)))
    own = MEAN_EFFECT / (1.0 - SHARING * MEAN_EFFECT)
    size = np.sqrt(own / (2.0 * maf * (1.0 - maf)))
    copies = decode(packed, n)
    parts: dict[str, list[PValues]] = {name: [] for name in DISTRIBUTIONS}
    for row in range(0, m, SHARING):
        effects = size * copies[row : row + SHARING].sum(axis=0)
        for name in DISTRIBUTIONS:
            y = phenotype(name, n, rng) + effects
            parts[name].append(_fitted(y, packed[row : row + SHARING]))
    return {name: _joined(each) for name, each in parts.items()}


def power(n: int, maf: float, m: int, seed: int, size: float) -> dict[str, PValues]:
    """Give each variant an effect on the log variance of a normal phenotype of its own."""
    rng = np.random.default_rng((seed, n, int(maf * 1e6), 2))
    packed = packed_variants(maf, m, n, int(rng.integers(2**62)))
    copies = decode(packed, n)
    each = [
        _fitted(np.exp(0.5 * size * copies[row]) * rng.standard_normal(n), packed[row : row + 1])
        for row in range(m)
    ]
    return {"normal": _joined(each)}


def covariates(n: int, maf: float, m: int, seed: int) -> dict[str, PValues]:
    """Let a covariate change the variance, in the model and left out."""
    rng = np.random.default_rng((seed, n, int(maf * 1e6), 3))
    packed = packed_variants(maf, m, n, int(rng.integers(2**62)))
    sex = rng.integers(0, 2, n).astype(np.float64)
    out = {}
    for name in ("normal", "gamma"):
        y = np.where(sex == 1.0, SEX_SD, 1.0) * phenotype(name, n, rng)
        for label, columns in (("modelled", sex[:, None]), ("left out", np.empty((n, 0)))):
            model = fit_null_arrays(_aligned(y, columns), None).model
            out[f"{name}, {label}"] = p_values(fit_packed(_block(model), packed))
    return out


def families(n: int, maf: float, m: int, seed: int) -> dict[str, PValues]:
    """Draw full siblings with polygenic effects, random effects in the model and left out."""
    rng = np.random.default_rng((seed, n, int(maf * 1e6), 4))
    size = n // SIBLINGS
    packed = encode(family_genotypes(maf, m, size, SIBLINGS, rng))
    causal = np.concatenate(
        [family_genotypes(p, 1, size, SIBLINGS, rng) for p in rng.uniform(0.1, 0.5, CAUSAL)]
    ).T.astype(np.float64)
    G = (causal - causal.mean(axis=0)) / causal.std(axis=0) / np.sqrt(CAUSAL)
    polygenic = G @ rng.standard_normal(CAUSAL)
    polygenic *= np.sqrt(HERITABILITY / polygenic.var())
    out = {}
    for name in ("normal", "gamma"):
        y = polygenic + np.sqrt(1.0 - HERITABILITY) * phenotype(name, n, rng)
        for label, design in (("HLMM", RandomDesign.from_matrix(G)), ("HLM", None)):
            model = fit_null_arrays(_aligned(y, np.empty((n, 0))), design).model
            out[f"{name}, {label}"] = p_values(fit_packed(_block(model, "auto"), packed))
    return out


def _fitted(y: FloatArray, packed: NDArray[np.uint8]) -> PValues:
    ones = np.ones((len(y), 1))
    null = DenseModel(y, ones, ones, np.array([y.mean()]), np.array([np.log(y.var())]))
    return p_values(fit_packed(_block(null), packed))


def _block(model: DenseModel, method: Any = "exact") -> BlockModel:
    layout = PackedLayout(len(model.y), np.arange(len(model.y)))
    return block_model(model, layout, _ALL, method=method)


def _joined(parts: list[PValues]) -> PValues:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _aligned(y: FloatArray, columns: FloatArray) -> AlignedSamples:
    n, c = columns.shape
    names = tuple(f"covariate {i}" for i in range(c))
    text = [str(i) for i in range(n)]
    centre, scale = columns.mean(axis=0), columns.std(axis=0)
    return AlignedSamples(
        sample_index=np.arange(n),
        ids=pd.DataFrame({"fid": text, "iid": text}),
        phenotype_name="simulated",
        y=y,
        mean_covariates=columns,
        variance_covariates=columns,
        mean_names=names,
        variance_names=names,
        mean_center=centre,
        mean_scale=scale,
        variance_center=centre,
        variance_scale=scale,
        accounting=(),
        notes=(),
    )
