"""Relationship matrices that follow from a pedigree: sparse, one block a family."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from hlmm_dask.arguments import choice

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Males = Literal["equal", "compensated", "single"]
MALE, FEMALE, UNKNOWN_SEX = 1, 2, 0


@dataclass(frozen=True)
class Pedigree:
    """Parents and sex of n people, in any order.

    Attributes
    ----------
    father, mother : (n,) int64
        Index of each person's parents, -1 where unknown. Unknown parents are related to nobody.
    sex : (n,) int8
        1 male, 2 female, 0 unknown.

    Raises
    ------
    ValueError
        If someone is his own ancestor.
    """

    father: IntArray
    mother: IntArray
    sex: NDArray[np.int8]

    def __post_init__(self) -> None:
        assert self.father.shape == self.mother.shape == self.sex.shape
        if len(self.order) < self.n_people:
            raise ValueError(f"person {in_cycle(self.father, self.mother)} is his own ancestor")

    @property
    def n_people(self) -> int:
        """Number of people n."""
        return len(self.father)

    @cached_property
    def order(self) -> IntArray:
        """People with their parents before them."""
        return parents_first(self.father, self.mother)

    @cached_property
    def families(self) -> tuple[IntArray, ...]:
        """People who are connected through parents and children, parents first."""
        n = self.n_people
        child = np.arange(n)
        links = [(child[p >= 0], p[p >= 0]) for p in (self.father, self.mother)]
        rows, columns = (np.concatenate(part) for part in zip(*links, strict=True))
        graph = sparse.coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), (n, n))
        label = connected_components(graph, directed=False)[1][self.order]
        grouped = self.order[np.argsort(label, kind="stable")]
        return tuple(np.split(grouped, np.cumsum(np.bincount(label))[:-1])) if n else ()

    def additive(self) -> sparse.csr_array:
        """Additive relationships A, (n, n): twice the kinship, 1 + F on the diagonal.

        A_ij = ½ (A_fj + A_mj) for a person i with parents f, m who is no ancestor of j, and
        A_ii = 1 + ½ A_fm (the tabular method, Lynch & Walsh 1998, chapter 26).
        """
        return self._blocks(self._additive)

    def inbreeding(self) -> FloatArray:
        """Inbreeding coefficients F, (n,)."""
        return np.asarray(self.additive().diagonal()) - 1.0

    def dominance(self) -> sparse.csr_array:
        """Dominance relationships D, (n, n).

        D_ij = ¼ (A_fk A_ml + A_fl A_mk) for people i, j with parents f, m and k, l, zero where
        a parent is unknown; D_ii = 1. Exact without inbreeding (Lynch & Walsh 1998, chapter 7).
        """

        def block(people: IntArray) -> FloatArray:
            # One more row, of zeros: the unknown parent.
            A = np.pad(self._additive(people), (0, 1))
            f, m = self._parents(people)
            D = A[np.ix_(f, f)] * A[np.ix_(m, m)] + A[np.ix_(f, m)] * A[np.ix_(m, f)]
            D *= 0.25
            np.fill_diagonal(D, 1.0)
            return D

        return self._blocks(block)

    def mitochondrial(self) -> sparse.csr_array:
        """1 for people of one maternal line, else 0, (n, n)."""
        line = np.arange(self.n_people)
        for i in self.order:
            if self.mother[i] >= 0:
                line[i] = line[self.mother[i]]
        founder, label = np.unique(line, return_inverse=True)
        at = (np.arange(self.n_people), label.reshape(-1))
        Z = sparse.csr_array((np.ones(self.n_people), at), shape=(self.n_people, len(founder)))
        return sparse.csr_array(Z @ Z.T)

    def x_linked(self, *, males: Males = "equal") -> sparse.csr_array:
        """Additive relationships for loci on the X chromosome, (n, n).

        From the kinship φ for X: a male has his mother's X alone. Entries are s_i s_j φ_ij with
        s = √2 for females, so that they have 1 + F on the diagonal.

        Parameters
        ----------
        males : {"equal", "compensated", "single"}
            Variance of males beside that of females who are not inbred: equal (s = 1), twice,
            as one X in full use gives (s = √2), or half, one copy of two (s = 1/√2).

        Raises
        ------
        ValueError
            If a sex is unknown.
        """
        if np.any(self.sex == UNKNOWN_SEX):
            unknown = int(np.argmax(self.sex == UNKNOWN_SEX))
            raise ValueError(f"person {unknown} has no sex, which X-linked relationships need")
        males = choice("males", males, get_args(Males))
        # s_i s_j of two males, and of a male and a female.
        both, one = {"equal": (1.0, 2.0**0.5), "compensated": (2.0, 2.0), "single": (0.5, 1.0)}[
            males
        ]

        def block(people: IntArray) -> FloatArray:
            f, m = self._parents(people)
            male = self.sex[people] == MALE
            phi = np.zeros((len(people) + 1,) * 2)
            for i, (father, mother) in enumerate(zip(f, m, strict=True)):
                if male[i]:
                    row, own = phi[mother, :i], 1.0
                else:
                    row = 0.5 * (phi[father, :i] + phi[mother, :i])
                    own = 0.5 * (1.0 + phi[father, mother])
                phi[i, :i] = phi[:i, i] = row
                phi[i, i] = own
            n_males = male[:, None].astype(np.int64) + male
            return np.asarray(phi[:-1, :-1] * np.array([2.0, one, both])[n_males])

        return self._blocks(block)

    def _additive(self, people: IntArray) -> FloatArray:
        f, m = self._parents(people)
        A = np.zeros((len(people) + 1,) * 2)
        for i, (father, mother) in enumerate(zip(f, m, strict=True)):
            A[i, :i] = A[:i, i] = 0.5 * (A[father, :i] + A[mother, :i])
            A[i, i] = 1.0 + 0.5 * A[father, mother]
        return A[:-1, :-1]

    def _parents(self, people: IntArray) -> tuple[IntArray, IntArray]:
        """Positions of the parents within a family; -1, the last, where unknown."""
        position = {int(person): i for i, person in enumerate(people)}
        position[-1] = -1
        return (
            np.array([position[int(i)] for i in self.father[people]], dtype=np.int64),
            np.array([position[int(i)] for i in self.mother[people]], dtype=np.int64),
        )

    def _blocks(self, block: Callable[[IntArray], FloatArray]) -> sparse.csr_array:
        rows, columns, values = [], [], []
        for people in self.families:
            dense = block(people)
            i, j = np.nonzero(dense)
            rows.append(people[i])
            columns.append(people[j])
            values.append(dense[i, j])
        n = self.n_people
        if not n:
            return sparse.csr_array((0, 0), dtype=np.float64)
        at = (np.concatenate(rows), np.concatenate(columns))
        return sparse.csr_array(sparse.coo_array((np.concatenate(values), at), shape=(n, n)))


def parents_first(father: IntArray, mother: IntArray) -> IntArray:
    """Order people so that parents come before children; who descends from himself is left out."""
    n = len(father)
    children: list[list[int]] = [[] for _ in range(n)]
    waiting = np.zeros(n, dtype=np.int64)
    for parents in (father, mother):
        for child, parent in enumerate(parents.tolist()):
            if parent >= 0:
                children[parent].append(child)
                waiting[child] += 1
    order = [i for i in range(n) if waiting[i] == 0]
    for parent in order:
        for child in children[parent]:
            waiting[child] -= 1
            if waiting[child] == 0:
                order.append(child)
    return np.array(order, dtype=np.int64)


def in_cycle(father: IntArray, mother: IntArray) -> int:
    """Find someone who is his own ancestor; -1 if nobody is."""
    ordered = set(parents_first(father, mother).tolist())
    rest = set(range(len(father))) - ordered
    if not rest:
        return -1
    # Whoever is left has a parent who is left: going up, one comes round.
    seen: set[int] = set()
    person = min(rest)
    while person not in seen:
        seen.add(person)
        person = int(father[person] if father[person] in rest else mother[person])
    return person
