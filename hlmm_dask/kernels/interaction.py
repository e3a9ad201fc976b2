"""Interaction of variants with one covariate: many variants at once, all covariates in each model.

    y ~ N(Sα + g α_g + gE α_gE, diag(exp(Tβ + g β_g)))

with S = (1, covariates, E) and T = (1, covariates of the variance, E) the same for all variants.
g and E are centred: g and E have their effects at each other's mean. Standard errors of least
squares are HC3's (MacKinnon & White 1985), those of the heteroskedastic model (XᵀD⁻¹X)⁻¹ and
2(VᵀV)⁻¹. A missing call has weight 0.

Both kinds of standard errors rely on many carriers of the rarer allele at low and at high values of
E. Samples with E at or below its mean and above it are counted apart: for an E of two values these
are its two groups.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.table import UNBOUNDED_SPAN, convergence_status
from hlmm_dask.models.hlm import HLM, HLMFit
from hlmm_dask.schema import Status

FloatArray = NDArray[np.float64]

TERMS = ("g", "e", "gxe")
VARIANCE_TERMS = ("g", "e")

# Doubles of a batch.
_BATCH = 1_000_000
_MAX_STEPS = 40
# Steps smaller than this many standard errors end the search.
_TOLERANCE = 1e-7
# Of the correlation matrix of the designs' columns.
_SMALLEST_EIGENVALUE = 1e-9


@dataclass(frozen=True)
class InteractionModel:
    """What the models of all variants share.

    Attributes
    ----------
    y : (n,) float64
        Phenotype.
    covariates : (n, c) float64
        Covariates of the mean without E and intercept, standardised.
    variance_covariates : (n, v) float64
        Those of the log variance, likewise.
    environment : (n,) float64
        E as in its file.
    bounded : bool
        Whether the likelihood without a variant has a maximum, see `has_maximum`; without one all
        variants are unbounded.
    """

    y: FloatArray
    covariates: FloatArray
    variance_covariates: FloatArray
    environment: FloatArray
    bounded: bool = True


@dataclass(frozen=True)
class InteractionFit:
    """Fits of ``m`` variants; effects per allele, per unit of E, and of both.

    Attributes
    ----------
    ols, hc3_se : (3, m) float64
        Least squares effects of g, E and gE on the mean, and HC3's standard errors.
    mean, mean_se : (3, m) float64
        The same in the heteroskedastic model.
    variance, variance_se : (2, m) float64
        Effects of g and E on the log variance.
    n : (m,) int64
        Samples with a call.
    carriers : (m,) int64
        Carriers of the rarer allele on the side of E's mean that has fewer of them.
    status : (m,) int64
        A `Status` code.
    """

    ols: FloatArray
    hc3_se: FloatArray
    mean: FloatArray
    mean_se: FloatArray
    variance: FloatArray
    variance_se: FloatArray
    n: NDArray[np.int64]
    carriers: NDArray[np.int64]
    status: NDArray[np.int64]


def fit_interactions(
    model: InteractionModel, dosage: FloatArray, *, min_carriers: int = 0
) -> InteractionFit:
    """Fit variants, a batch at a time.

    A variant that can't be fitted has NaN and a status, and has no influence on the others.

    Parameters
    ----------
    model : InteractionModel
        Of n samples; E varies.
    dosage : (m, n) float64
        Copies of the effect allele, NaN where missing.
    min_carriers : int
        Fewest carriers of the rarer allele on each side of the mean of E.
    """
    step = max(1, _BATCH // len(model.y))
    parts = [_fit(model, dosage[i : i + step], min_carriers) for i in range(0, len(dosage), step)]
    names = InteractionFit.__dataclass_fields__
    return InteractionFit(
        **{name: np.concatenate([getattr(p, name) for p in parts], axis=-1) for name in names}
    )


def has_maximum(model: InteractionModel) -> bool:
    """Return whether the likelihood without a variant has a maximum.

    It has none where the phenotype is constant in one of two groups of E: the variance of that
    group falls to zero. With a variant it has none either.
    """
    ones = np.ones(len(model.y))
    V = np.column_stack([ones, model.variance_covariates, model.environment])
    try:
        null = HLM(model.y, np.column_stack([ones, model.covariates, model.environment]), V)
    except ValueError:
        # Dependent columns, or too few samples: each variant gets its own status.
        return True
    try:
        found = null.fit()
    except ValueError:
        return False
    return _status(found, V) != Status.UNBOUNDED


class _Batch:
    """Designs of some variants; the columns are those of S, then g and gE."""

    def __init__(self, model: InteractionModel, dosage: FloatArray) -> None:
        e = model.environment - model.environment.mean()
        self.unit = float(np.sqrt(np.mean(e * e)))
        e = e / self.unit
        ones = np.ones_like(e)
        self.S = np.column_stack([ones, model.covariates, e])
        self.T = np.column_stack([ones, model.variance_covariates, e])
        # Searched about least squares without a variant: no digits are lost to the mean.
        self.origin = np.linalg.lstsq(self.S, model.y)[0]
        self.y = model.y - self.S @ self.origin
        self.mask = (~np.isnan(dosage)).astype(np.float64)
        self.n = self.mask.sum(axis=1)
        with np.errstate(invalid="ignore"):
            centre = np.nansum(dosage, axis=1) / self.n
        self.g = np.where(self.mask > 0, dosage - centre[:, None], 0.0)
        self.ge = self.g * e
        self.at_e = self.S.shape[1] - 1
        self.terms = (-2, self.at_e, -1)
        self.unit_of = np.array([1.0, self.unit, self.unit])[:, None]

    def mean_gram(self, weight: FloatArray) -> FloatArray:
        """XᵀWX, (m, p, p)."""
        return _gram(self.S, (self.g, self.ge), weight)

    def mean_fit(self, gram: FloatArray, weight: FloatArray) -> FloatArray:
        """Weighted least squares, (m, p)."""
        wy = weight * self.y
        extra = [(wy * z).sum(axis=1) for z in (self.g, self.ge)]
        right = np.column_stack([wy @ self.S, *extra])
        return np.asarray(np.linalg.solve(gram, right[:, :, None])[:, :, 0])

    def rows(self, coefficients: FloatArray) -> FloatArray:
        """Multiply the design with (m, p): (m, n)."""
        shared, g, ge = coefficients[:, :-2], coefficients[:, -2:-1], coefficients[:, -1:]
        return np.asarray(shared @ self.S.T + g * self.g + ge * self.ge)

    def in_units(self, alpha: FloatArray) -> FloatArray:
        """Effects of g, E and gE, (3, m)."""
        effects = alpha[:, self.terms].T.copy()
        effects[1] += self.origin[self.at_e]
        return np.asarray(effects / self.unit_of)

    def hc3(self, inverse: FloatArray, residual: FloatArray) -> FloatArray:
        """Give the standard errors of g, E and gE, (3, m)."""
        m, c = len(self.n), self.S.shape[1]
        products = (self.S[:, :, None] * self.S[:, None, :]).reshape(-1, c * c)
        hat = inverse[:, :c, :c].reshape(m, -1) @ products.T
        of_g, of_ge = inverse[:, -2].copy(), inverse[:, -1].copy()
        of_g[:, :c], of_ge[:, :c] = 2.0 * of_g[:, :c], 2.0 * of_ge[:, :c]
        hat += self.g * self.rows(of_g) + self.ge * self.rows(of_ge)
        left = np.where(hat < 1.0 - 1e-10, 1.0 - hat, np.nan)
        scaled = self.mask * residual / left
        influence = [self.rows(inverse[:, t]) * scaled for t in self.terms]
        squares = np.stack([(z * z).sum(axis=1) for z in influence])
        return np.asarray(np.sqrt(squares) / self.unit_of)


def _fit(model: InteractionModel, dosage: FloatArray, min_carriers: int) -> InteractionFit:
    batch = _Batch(model, dosage)
    m, v = len(dosage), batch.T.shape[1]
    carriers = _carriers(model.environment, dosage)
    ordinary = batch.mean_gram(batch.mask)
    spread = _gram(batch.T, (batch.g,), batch.mask)
    few = batch.n <= ordinary.shape[1] + spread.shape[1]
    status = np.full(m, int(Status.OK))
    status[_dependent(ordinary) | _dependent(spread) | few] = Status.COLLINEAR
    status[carriers < min_carriers] = Status.FEW_CARRIERS
    if not model.bounded:
        status[:] = Status.UNBOUNDED
    status[batch.n == 0] = Status.ALL_MISSING
    bad = status != Status.OK
    ordinary[bad], spread[bad] = np.eye(ordinary.shape[1]), np.eye(v + 1)
    alpha = batch.mean_fit(ordinary, batch.mask)
    residual = batch.y - batch.rows(alpha)
    inverse: FloatArray = np.linalg.inv(ordinary).astype(np.float64, copy=False)
    hc3 = batch.hc3(inverse, residual)
    ols = batch.in_units(alpha)

    beta = np.zeros((m, v + 1))
    square = (batch.mask * residual**2).sum(axis=1)
    beta[:, 0] = np.log(np.maximum(square, 1e-300) / np.maximum(batch.n, 1.0))
    done, astray = np.zeros(m, dtype=bool), np.zeros(m, dtype=bool)
    spread_inverse = np.linalg.inv(spread)
    gram = ordinary
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(_MAX_STEPS):
            eta = beta[:, :v] @ batch.T.T + beta[:, v:] * batch.g
            # Beyond that the weighted products are singular, and one such matrix ends the batch.
            astray |= ~(np.ptp(eta, axis=1) <= UNBOUNDED_SPAN)
            eta[bad | astray] = 0.0
            weight = batch.mask * np.exp(-eta)
            gram = batch.mean_gram(weight)
            gram[bad] = np.eye(gram.shape[1])
            alpha = batch.mean_fit(gram, weight)
            excess = weight * (batch.y - batch.rows(alpha)) ** 2 - batch.mask
            slope = np.column_stack([excess @ batch.T, (excess * batch.g).sum(axis=1)])
            change = np.einsum("mij,mj->mi", spread_inverse, slope)
            size = np.sqrt(np.abs(np.einsum("mi,mi->m", slope, change)) / 2.0)
            done |= (size < _TOLERANCE) & ~astray
            if (done | bad | astray).all():
                break
            # What a variant's estimates are must not depend on those beside it.
            change[done | astray] = 0.0
            # Scoring from far away oversteps.
            beta += change / np.maximum(size / np.sqrt(batch.n), 1.0)[:, None]
    covariance = np.linalg.inv(gram)
    variance = beta[:, [v, v - 1]].T / batch.unit_of[:2]
    terms = [t % gram.shape[1] for t in batch.terms]
    fit = InteractionFit(
        ols=ols,
        hc3_se=hc3,
        mean=batch.in_units(alpha),
        mean_se=np.sqrt(covariance[:, terms, terms]).T / batch.unit_of,
        variance=variance,
        variance_se=np.sqrt(2.0 * spread_inverse[:, [v, v - 1], [v, v - 1]]).T / batch.unit_of[:2],
        n=batch.n.astype(np.int64),
        carriers=carriers,
        status=status,
    )
    for j in np.flatnonzero(~done & ~bad):
        _refit(fit, batch, int(j))
    # A sample that alone determines an effect leaves HC3 without a residual.
    alone = (status == Status.OK) & ~np.isfinite(hc3).all(axis=0)
    status[alone] = Status.FEW_CARRIERS
    for values in (fit.ols, fit.hc3_se, fit.mean, fit.mean_se, fit.variance, fit.variance_se):
        values[:, fit.status != Status.OK] = np.nan
    return fit


def _refit(fit: InteractionFit, batch: _Batch, j: int) -> None:
    """Fit a variant by Newton's method with its line search, where scoring did not arrive."""
    kept = batch.mask[j] > 0
    g, ge = batch.g[j, kept], batch.ge[j, kept]
    X = np.column_stack([batch.S[kept], g, ge])
    V = np.column_stack([batch.T[kept], g])
    try:
        found = HLM(batch.y[kept], X, V).fit()
    except ValueError:
        fit.status[j] = Status.UNBOUNDED
        return
    fit.status[j] = _status(found, V)
    if fit.status[j] != Status.OK:
        return
    fit.mean[:, j] = batch.in_units(found.alpha[None])[:, 0]
    fit.mean_se[:, j] = found.alpha_se[list(batch.terms)] / batch.unit_of[:, 0]
    at = [-1, -2]
    fit.variance[:, j] = found.beta[at] / batch.unit_of[:2, 0]
    fit.variance_se[:, j] = found.beta_se[at] / batch.unit_of[:2, 0]


def _status(found: HLMFit, V: FloatArray) -> int:
    """Return the status of one fit: unbounded where the log variance runs away."""
    span = np.array([np.ptp(V @ found.beta)])
    return int(convergence_status(np.array([found.convergence]), np.ones(1), span)[0])


def _carriers(environment: FloatArray, dosage: FloatArray) -> NDArray[np.int64]:
    """Count carriers of either allele on either side of E's mean and return the fewest, (m,)."""
    above = environment > environment.mean()
    counts = [
        (carrier & side).sum(axis=1)
        # A missing call is neither above nor below.
        for carrier in (dosage > 0.5, dosage < 1.5)
        for side in (above, ~above)
    ]
    return np.asarray(np.min(counts, axis=0), dtype=np.int64)


def _gram(shared: FloatArray, own: tuple[FloatArray, ...], weight: FloatArray) -> FloatArray:
    """Weighted products (m, p, p) of the shared columns (n, c) and each variant's own (m, n)."""
    m, c = len(weight), shared.shape[1]
    out = np.empty((m, c + len(own), c + len(own)))
    products = (shared[:, :, None] * shared[:, None, :]).reshape(-1, c * c)
    out[:, :c, :c] = (weight @ products).reshape(m, c, c)
    for i, z in enumerate(own):
        weighted = weight * z
        out[:, c + i, :c] = out[:, :c, c + i] = weighted @ shared
        for j, other in enumerate(own):
            out[:, c + i, c + j] = (weighted * other).sum(axis=1)
    return out


def _dependent(gram: FloatArray) -> NDArray[np.bool_]:
    """Whether columns are linearly dependent, (m,)."""
    diagonal = np.einsum("mii->mi", gram)
    none = (diagonal <= 0.0).any(axis=1)
    scale = np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    least = np.linalg.eigvalsh(gram / scale[:, :, None] / scale[:, None, :])[:, 0]
    return np.asarray(none | (least < _SMALLEST_EIGENVALUE))
