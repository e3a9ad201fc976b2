"""All refits of one lead variant."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.errors import InputError
from hlmm_dask.followup.inputs import Study, design_of
from hlmm_dask.followup.leads import Lead, Window
from hlmm_dask.followup.linkage import linkage
from hlmm_dask.followup.random_part import RandomPart
from hlmm_dask.followup.refit import Design, Refit, refit
from hlmm_dask.followup.sex import SEXES
from hlmm_dask.followup.verdict import Check, Checks

FloatArray = NDArray[np.float64]

# Variants with more of r² with the lead can't be told apart from it.
_SAME = 0.98
_MAX_CANDIDATES = 300
_MAX_NEIGHBOURS = 10


@dataclass(frozen=True)
class Neighbour:
    """A variant near a lead: index in the window, r² and |D′| with the lead."""

    row: int
    r2: float
    d_prime: float


@dataclass(frozen=True)
class Found:
    """What the refits of a lead found.

    Attributes
    ----------
    checks : Checks
    strongest : Neighbour or None
        The variant in the window, besides the lead, with the strongest effect on the mean.
    """

    checks: Checks
    strongest: Neighbour | None


@dataclass(frozen=True)
class Refitter:
    """Refits the leads of a scan.

    Attributes
    ----------
    study : Study
    designs : mapping of str to Design
        By transform, the scan's own first; with what random effects predict.
    random : mapping of str to RandomPart
        Likewise, where there are random effects.
    sex : (n,) int64 or None
        Of the analysed samples: 1, 2, 0 where not known.
    neighbour_p : float
        Largest p-value of a lead variant for the mean that is taken into the models.
    r2 : float
        Largest squared correlation between two of them.
    """

    study: Study
    designs: Mapping[str, Design]
    random: Mapping[str, RandomPart]
    sex: NDArray[np.int64] | None
    neighbour_p: float
    r2: float

    @classmethod
    def of(
        cls, study: Study, scales: tuple[str, ...], sex: NDArray[np.int64] | None, *,
        neighbour_p: float, r2: float,
    ) -> "tuple[Refitter, list[str]]":  # fmt: skip
        """Fit the null models under each transform; also say which could not be had."""
        designs = {study.scale: design_of(study.null)}
        own = RandomPart.of(study.null)
        random = {} if own is None else {study.scale: own}
        notes = []
        for scale in scales:
            if scale in designs:
                continue
            try:
                null = study.null_on(scale)
            except InputError as error:
                notes.append(f"not refitted under the transform {scale}: {error}")
                continue
            designs[scale] = design_of(null)
            if (part := RandomPart.of(null, own)) is not None:
                random[scale] = part
        return cls(study, designs, random, sex, neighbour_p, r2), notes

    def follow(self, lead: Lead, window: Window) -> Found:
        """Refit a lead variant."""
        g = self.study.counts(lead.index)
        offsets = {
            scale: part.predicted(lead.contig, lead.position, self.study.left_out)
            for scale, part in self.random.items()
        }
        designs = {
            s: Design(d.y - offsets[s], d.X, d.V) if s in offsets else d
            for s, d in self.designs.items()
        }
        design = designs[self.study.scale]
        base = refit(design, g)
        chosen = self._neighbours(g, lead, window)
        columns = self._columns([int(window.index[row]) for row in chosen])
        alone = tuple(
            (str(window.id[row]), refit(design, g, columns[:, i : i + 1]))
            for i, row in enumerate(chosen)
        )
        together = None
        if chosen:
            fit = alone[0][1] if len(chosen) == 1 else refit(design, g, columns)
            together = Check(fit, base)
        het = np.nan_to_num(np.rint(g) == 1.0).astype(np.float64)[:, None]
        carriers = int(np.nansum(g > 0.5)), int(np.nansum(g < 1.5))
        checks = Checks(
            base=base,
            carriers=min(carriers),
            neighbours=alone,
            together=together,
            dominance=Check(refit(design, g, het), base),
            covariates=self._covariates(g, design, offsets.get(self.study.scale)),
            scale=self.study.scale,
            scales={s: refit(d, g) for s, d in designs.items() if s != self.study.scale},
            sexes=self._sexes(design, g),
        )
        return Found(checks, self._strongest(g, lead, window))

    def _neighbours(self, g: FloatArray, lead: Lead, window: Window) -> list[int]:
        """Rows of the window that lead for the mean, without the variant itself and its like."""
        y = window.values["add_neg_log10_p"]
        rows = np.flatnonzero((y >= -np.log10(self.neighbour_p)) & (window.index != lead.index))
        rows = rows[np.argsort(-y[rows], kind="stable")][:_MAX_CANDIDATES]
        own = np.nan_to_num(g - np.nanmean(g))
        own /= max(float(np.linalg.norm(own)), 1e-300)
        chosen: list[int] = []
        kept: list[NDArray[np.float32]] = []
        for row in rows.tolist():
            other = self.study.standardised(int(window.index[row]))
            if float(other @ own) ** 2 > _SAME or any(
                float(other @ k) ** 2 > self.r2 for k in kept
            ):
                continue
            chosen.append(row)
            kept.append(other)
            if len(chosen) == _MAX_NEIGHBOURS:
                break
        return chosen

    def _columns(self, indices: list[int]) -> FloatArray:
        """Genotypes side by side, missing ones at the mean."""
        columns = [self.study.counts(index) for index in indices]
        filled = [np.where(np.isfinite(c), c, np.nanmean(c)) for c in columns]
        return np.column_stack(filled) if filled else np.empty((self.study.null.n_samples, 0))

    def _strongest(self, g: FloatArray, lead: Lead, window: Window) -> Neighbour | None:
        y = np.where(window.index == lead.index, np.nan, window.values["add_neg_log10_p"])
        if np.all(np.isnan(y)):
            return None
        row = int(np.nanargmax(y))
        return Neighbour(row, *linkage(g, self.study.counts(int(window.index[row]))))

    def _covariates(self, g: FloatArray, design: Design, offset: FloatArray | None) -> Check | None:
        given = self.study.with_covariates()
        if given is None:
            return None
        rows, full, unit = given
        if offset is not None:
            full = Design(full.y - unit * offset[rows], full.X, full.V)
        return Check(refit(full, g[rows]), refit(design.rows(rows), g[rows]))

    def _sexes(self, design: Design, g: FloatArray) -> dict[str, Refit]:
        if self.sex is None:
            return {}
        # The values themselves: with the covariates projected out none is constant.
        values = self.study.given.aligned.y
        fits = {}
        for code, name in SEXES.items():
            rows = (self.sex == code) & np.isfinite(g)
            n = int(rows.sum())
            if n > 1 and np.ptp(values[rows]) == 0.0:
                fits[name] = Refit(n, reason="the phenotype is constant")
            else:
                fits[name] = refit(design.rows(rows), g[rows])
        return fits
