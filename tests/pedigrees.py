"""Pedigrees that several test modules use."""

import numpy as np

from hlmm_dask.models.pedigree import Pedigree


def families(
    n_families: int, seed: int = 0, shuffle: bool = True, sibs: int | None = None
) -> Pedigree:
    """Three generations: grandparents, two children with spouses, 1 to 4 (or `sibs`) of theirs."""
    rng = np.random.default_rng(seed)
    father: list[int] = []
    mother: list[int] = []
    sex: list[int] = []

    def person(f: int, m: int, s: int) -> int:
        father.append(f)
        mother.append(m)
        sex.append(s)
        return len(sex) - 1

    for _ in range(n_families):
        old = person(-1, -1, 1), person(-1, -1, 2)
        for _ in range(2):
            child_sex = int(rng.integers(1, 3))
            child, spouse = person(*old, child_sex), person(-1, -1, 3 - child_sex)
            couple = (child, spouse) if child_sex == 1 else (spouse, child)
            for _ in range(sibs or int(rng.integers(1, 5))):
                person(*couple, int(rng.integers(1, 3)))
    order = rng.permutation(len(sex)) if shuffle else np.arange(len(sex))
    new = np.append(np.argsort(order), -1)
    return Pedigree(
        new[np.array(father)][order],
        new[np.array(mother)][order],
        np.array(sex, dtype=np.int8)[order],
    )


def draw(rng: np.random.Generator, pedigree: Pedigree, components: list[float]) -> np.ndarray:
    """Phenotypes with variance that is additive, of the maternal line, and residual."""
    additive, line = pedigree.additive().toarray(), pedigree.mitochondrial().toarray()
    n = pedigree.n_people
    sigma = components[0] * additive + components[1] * line + components[2] * np.eye(n)
    return np.linalg.cholesky(sigma) @ rng.standard_normal(n)
