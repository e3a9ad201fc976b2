"""Transforms of a phenotype before anything is fitted to it.

An effect on the variance may be one of the scale: on the logarithm, or on normal scores of the
ranks, it is gone. What holds on each scale is no matter of the scale.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from hlmm_dask.arguments import choice
from hlmm_dask.errors import InputError
from hlmm_dask.samples import AlignedSamples
from hlmm_dask.text import shown

TRANSFORMS = ("none", "log", "rint")


def chosen_transforms(text: str) -> list[str]:
    """Return the transforms named in a list such as ``none,log,rint``, each once, in order.

    Raises
    ------
    InputError
        If there is no such transform.
    """
    return list(dict.fromkeys(known_transform(name.strip()) for name in text.split(",")))


def known_transform(name: object) -> str:
    """Return the transform of that name, or raise an `InputError`."""
    return choice("transform", name, TRANSFORMS)


def title_of(phenotype: str, transform: str) -> str:
    """Name of a phenotype with its transform."""
    return phenotype if transform == "none" else f"{phenotype}, {transform}"


def rank_normal(values: ArrayLike) -> NDArray[np.float64]:
    """Return normal scores of the ranks: Φ⁻¹((rank - 3/8) / (n + 1/4)), after Blom.

    Parameters
    ----------
    values : (n,) array_like
        Finite values; equal ones share the mean of their ranks.
    """
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - 0.5 * (counts - 1)
    return np.asarray(special.ndtri((ranks[place] - 0.375) / (place.size + 0.25)))


def transformed(aligned: AlignedSamples, transform: str, path: Path) -> AlignedSamples:
    """Transform the phenotype of the analysed samples as it is, covariates not regressed out.

    Parameters
    ----------
    aligned : AlignedSamples
        With a phenotype that varies.
    transform : str
        One of `TRANSFORMS`; ``log`` is the natural logarithm.
    path : Path
        The phenotype's file, for messages.

    Raises
    ------
    InputError
        If a value has no logarithm.
    """
    if transform == "log":
        if (bad := np.flatnonzero(aligned.y <= 0.0)).size:
            fid, iid = aligned.ids.iloc[bad[0]]
            raise InputError(
                f"{path}, phenotype {shown(aligned.phenotype_name)}: {bad.size} of "
                f"{aligned.n_samples} analysed samples have values without a logarithm, first "
                f"{aligned.y[bad[0]]:g} of FID {fid} IID {iid}; --transform log takes values "
                "above 0: shift the phenotype, or leave log out"
            )
        return replace(aligned, y=np.log(aligned.y))
    return replace(aligned, y=rank_normal(aligned.y)) if transform == "rint" else aligned
