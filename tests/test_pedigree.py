"""Pedigrees: relationship matrices against known values, and files with their errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pedigrees import families

from hlmm_dask.errors import InputError
from hlmm_dask.models.pedigree import Pedigree
from hlmm_dask.relationship.pedigree import read_pedigree


def drop_genes(pedigree: Pedigree, n_loci: int, x_linked: bool) -> np.ndarray:
    """Alleles (n, 2, loci), every founder's different; a male's second X is his first, once."""
    rng = np.random.default_rng(0)
    n = pedigree.n_people
    genes = np.empty((n, 2, n_loci), dtype=np.int64)
    pick = np.arange(n_loci)
    for i in pedigree.order:
        male = pedigree.sex[i] == 1
        for which, parent in enumerate((pedigree.father[i], pedigree.mother[i])):
            if x_linked and which == 0 and male:
                continue
            if parent < 0:
                genes[i, which] = 2 * i + which
            elif x_linked and which == 0:
                genes[i, 0] = genes[parent, 1]
            else:
                genes[i, which] = genes[parent][rng.integers(0, 2, n_loci), pick]
        if x_linked and male:
            genes[i, 0] = genes[i, 1]
    return genes


def kinship_by_dropping(genes: np.ndarray) -> np.ndarray:
    """Probability that an allele drawn of one is that drawn of the other."""
    pairs = [(a, b) for a in (0, 1) for b in (0, 1)]
    return sum((genes[:, None, a] == genes[None, :, b]).mean(axis=2) for a, b in pairs) / 4


@pytest.fixture(scope="module")
def inbred() -> Pedigree:
    """Children of sibs, of half sibs, of a father and his daughter; a person marrying twice."""
    father = [-1, -1, 0, 0, 2, 4, 0, -1, 7, 4, -1, 6]
    mother = [-1, -1, 1, 1, 3, 3, 5, -1, 5, 10, -1, 8]
    sex = [1, 2, 1, 2, 1, 2, 1, 1, 2, 2, 2, 0]
    return Pedigree(np.array(father), np.array(mother), np.array(sex, dtype=np.int8))


def test_additive_relationships_against_dropped_genes(inbred: Pedigree) -> None:
    A = inbred.additive().toarray()
    expected = 2 * kinship_by_dropping(drop_genes(inbred, 40_000, False))
    np.testing.assert_allclose(A, expected, atol=0.02)
    np.testing.assert_allclose(inbred.inbreeding()[[0, 4, 5]], [0.0, 0.25, 0.375])


def test_x_linked_relationships_against_dropped_genes(inbred: Pedigree) -> None:
    sex = np.where(inbred.sex == 0, 2, inbred.sex).astype(np.int8)
    pedigree = Pedigree(inbred.father, inbred.mother, sex)
    phi = kinship_by_dropping(drop_genes(pedigree, 40_000, True))
    scale = np.where(sex == 1, 1.0, 2**0.5)
    X = pedigree.x_linked().toarray()
    np.testing.assert_allclose(X, phi * np.outer(scale, scale), atol=0.02)
    assert X[0, 0] == X[1, 1] == 1.0
    # A father and his son have no X in common; a father and his daughter all that he has.
    assert X[0, 2] == 0.0
    assert X[0, 3] == pytest.approx(0.5**0.5)
    male = sex == 1
    for males, factor in (("compensated", 2**0.5), ("single", 0.5**0.5)):
        other = np.where(male, factor, 1.0)
        np.testing.assert_allclose(
            pedigree.x_linked(males=males).toarray(), X * np.outer(other, other)
        )


def test_known_relationships() -> None:
    """Parents 0 1, their children 2 3, spouse 4, grandchild 5, and double first cousins 8 10."""
    father = [-1, -1, 0, 0, -1, 2, -1, 6, 2, 6, 3]
    mother = [-1, -1, 1, 1, -1, 4, -1, 4, 7, 4, 9]
    sex = np.array([1, 2, 1, 1, 2, 1, 1, 2, 1, 2, 1], dtype=np.int8)
    pedigree = Pedigree(np.array(father), np.array(mother), sex)
    A, D = pedigree.additive().toarray(), pedigree.dominance().toarray()
    M = pedigree.mitochondrial().toarray()
    for i, j, additive, dominance in (
        (0, 0, 1.0, 1.0), (0, 1, 0.0, 0.0), (0, 2, 0.5, 0.0), (2, 3, 0.5, 0.25),
        (0, 5, 0.25, 0.0), (3, 5, 0.25, 0.0), (7, 9, 0.5, 0.25), (8, 10, 0.25, 0.0625),
    ):  # fmt: skip
        assert A[i, j] == A[j, i] == additive, (i, j)
        assert D[i, j] == D[j, i] == dominance, (i, j)
    assert [j for j in range(11) if M[4, j]] == [4, 5, 7, 8, 9, 10]
    assert [j for j in range(11) if M[0, j]] == [0]


@pytest.mark.parametrize("matrix", ["additive", "dominance", "mitochondrial", "x_linked"])
def test_order_and_other_families_change_nothing(matrix: str) -> None:
    pedigree = families(5, seed=2, shuffle=False)
    whole = getattr(pedigree, matrix)()
    order = np.random.default_rng(1).permutation(pedigree.n_people)
    new = np.append(np.argsort(order), -1)
    shuffled = Pedigree(
        new[pedigree.father][order], new[pedigree.mother][order], pedigree.sex[order]
    )
    again = getattr(shuffled, matrix)()
    assert (again != whole[order][:, order]).nnz == 0
    # Blocks: nothing between families, and what is there is positive definite but for rank.
    family = np.empty(pedigree.n_people, dtype=int)
    for number, people in enumerate(pedigree.families):
        family[people] = number
    assert len(pedigree.families) == 5
    i, j = whole.nonzero()
    assert (family[i] == family[j]).all()
    assert np.linalg.eigvalsh(whole.toarray())[0] > -1e-12


def test_a_cycle_is_an_error() -> None:
    with pytest.raises(ValueError, match="own ancestor"):
        Pedigree(np.array([-1, 2, 1]), np.array([-1, -1, -1]), np.ones(3, dtype=np.int8))


def test_unknown_sex_is_an_error_for_x() -> None:
    alone = Pedigree(np.array([-1]), np.array([-1]), np.zeros(1, dtype=np.int8))
    with pytest.raises(ValueError, match="no sex"):
        alone.x_linked()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def to_file(text: str) -> Path:
        path = tmp_path / "family.ped"
        path.write_text(text)
        return path

    return to_file


def test_read_in_any_order_with_parents_who_have_no_line(write: Callable[[str], Path]) -> None:
    path = write("#FID IID PAT MAT SEX\nf c2 p m 1\nf c1 p m 2\nf p 0 0 1\ng c1 0 x 0\n")
    people = read_pedigree(path)
    assert people.ids == [("f", "c2"), ("f", "c1"), ("f", "p"), ("g", "c1")]
    assert people.pedigree.n_people == 6
    assert people.pedigree.sex.tolist() == [1, 2, 1, 0, 2, 2]
    A = people.pedigree.additive()
    chosen = people.select(A, [("f", "c1"), ("g", "c1"), ("f", "c2")])
    np.testing.assert_array_equal(chosen.toarray(), [[1, 0, 0.5], [0, 1, 0], [0.5, 0, 1]])
    assert "2 parents have no line of their own" in people.notes[0]
    with pytest.raises(InputError, match=r"1 of 1 people are not in it \(first: 'f' 'zz'\)"):
        people.select(A, [("f", "zz")])


def test_x_linked_relationships_of_a_file_name_whose_sex_is_unknown(
    write: Callable[[str], Path],
) -> None:
    people = read_pedigree(write("f a 0 0 0\nf b a x 1\nf c 0 0 2\n"))
    assert people.x_linked()[0, 0] == 1.0
    people = read_pedigree(write("f a 0 0 1\nf b a x 0\nf c 0 0 -9\n"))
    with pytest.raises(InputError, match=r"2 people have no known sex \(first: 'f' 'b', 'f' 'c'\)"):
        people.x_linked()


def test_read_a_fam(write: Callable[[str], Path]) -> None:
    people = read_pedigree(write("f a 0 0 1 -9\nf b 0 0 2 -9\nf c a b 2 1.5\n"))
    assert people.pedigree.father.tolist() == [-1, -1, 0]
    assert people.notes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f a b 0 1\nf b a 0 1\n", r"line 1: .*'a' is among the ancestors of its own parents"),
        ("f a a 0 1\n", r"line 1: .* is among the ancestors"),
        ("f a 0 0 1\nf b a 0 1\nf c 0 a 1\n", r"line 3: .*'a' is a mother, but a father on line 2"),
        ("f b x 0 1\nf c 0 x 1\n", r"line 2: .*'x' is a mother, but a father on line 1"),
        ("f c a a 1\n", r"line 1: .*'a' is a mother, but a father on line 1"),
        ("f b a 0 1\nf a 0 0 2\n", r"line 1: .*'a' is a father, but has sex 2 .* on line 2"),
        ("f a 0 0 1\nf a 0 0 1\n", r"line 2: .*'a' is also on line 1"),
        ("f a 0 0\n", "line 1: 4 fields, expected 5"),
        ("f a 0 0 1 2\nf a 0 0 1\n", "line 2: 5 fields, expected 6"),
        ("FID IID a b c\n", "no people"),
        ("", "no people"),
    ],
)  # fmt: skip
def test_errors_name_the_line(text: str, message: str, write: Any) -> None:
    path = write(text)
    with pytest.raises(InputError, match=message) as error:
        read_pedigree(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_relationships_of_the_reference_families(reference: Path) -> None:
    people = read_pedigree(reference / "pedigree/families.ped", sex_codes=("0", "1"))
    assert len(people.pedigree.families) == 100
    A = people.pedigree.additive()
    assert A.shape == (1200, 1200)
    first = A[:12][:, :12].toarray()
    at = {iid: i for i, (_, iid) in enumerate(people.ids[:12])}
    assert first[at["301"], at["302"]] == 0.5
    assert first[at["301"], at["304"]] == 0.125
    with pytest.raises(InputError, match="say what the codes mean"):
        read_pedigree(reference / "pedigree/families.ped")
