"""Pedigrees from PLINK's .fam, or from FID, IID, father, mother, sex."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from hlmm_dask.errors import InputError
from hlmm_dask.ids import Id, require_unique, shown_ids
from hlmm_dask.models.pedigree import FEMALE, MALE, UNKNOWN_SEX, Males, Pedigree, in_cycle
from hlmm_dask.people import iter_people
from hlmm_dask.sex_codes import sex_code
from hlmm_dask.text import shown

_NOBODY = "0"
_FIELDS = "FID, IID, father, mother, sex, and as in a .fam perhaps a phenotype"


@dataclass(frozen=True)
class PedigreeFile:
    """People of a file, and how they are related.

    Attributes
    ----------
    path : Path
        The file.
    ids : list of (str, str)
        FID and IID of the people in the file, in its order.
    pedigree : Pedigree
        These people, then the parents who have no line of their own, as founders.
    notes : tuple of str
        What was found and taken care of.
    """

    path: Path
    ids: list[Id]
    pedigree: Pedigree
    notes: tuple[str, ...]

    def x_linked(self, *, males: Males = "equal") -> sparse.csr_array:
        """X-linked additive relationships, as `Pedigree.x_linked`.

        Raises
        ------
        InputError
            If the sex of someone is unknown.
        """
        unknown = [
            key for key, sex in zip(self.ids, self.pedigree.sex, strict=False) if sex == UNKNOWN_SEX
        ]
        if unknown:
            raise InputError(
                f"{self.path}: {len(unknown)} people have no known sex (first: "
                f"{shown_ids(unknown)}), which X-linked relationships need; give it in column 5"
            )
        return self.pedigree.x_linked(males=males)

    def select(self, matrix: sparse.csr_array, ids: Sequence[Id]) -> sparse.csr_array:
        """Take the rows and columns of some people from a matrix of the pedigree.

        Raises
        ------
        InputError
            If someone is not in the file.
        """
        row_of = {key: row for row, key in enumerate(self.ids)}
        if absent := [key for key in ids if key not in row_of]:
            raise InputError(
                f"{self.path}: {len(absent)} of {len(ids)} people are not in it "
                f"(first: {shown_ids(absent)}); add a line for each, with parents 0 0 if unknown"
            )
        rows = np.array([row_of[key] for key in ids], dtype=np.int64)
        return sparse.csr_array(matrix[rows][:, rows])


def read_pedigree(
    path: str | os.PathLike[str], *, sex_codes: tuple[str, str] | None = None
) -> PedigreeFile:
    """Read a pedigree.

    Header, separators and quotes are as in tables. Parents are people of the same FID, ``0``
    where unknown. Lines may be in any order, relatives may have children, and a parent may have
    no line.

    Parameters
    ----------
    path : path
        FID, IID, father, mother, sex; a sixth field is not read. A header FID IID ... may
        come first.
    sex_codes : (str, str), optional
        Codes of male and female; by default 1, M or male, and 2, F or female, in any case.
        Anything else is unknown. Who is a parent has the sex that this needs.

    Returns
    -------
    PedigreeFile

    Raises
    ------
    InputError
        If a person comes twice, is his own ancestor or parent, is father and mother, or a
        father is female or a mother male; the message names the line.
    """
    path = Path(path)
    ids: list[Id] = []
    parents: list[tuple[str, str]] = []
    sexes: list[str] = []
    numbers: list[int] = []
    for rows in iter_people(path, values=False):
        n_fields = rows.layout.n_fields
        if n_fields < rows.layout.first + 3:
            raise InputError(
                f"{path}, line {rows.numbers[0]}: {n_fields} fields, expected 5 ({_FIELDS})"
            )
        father, mother, sex = (rows.strings(j) for j in range(3))
        ids += rows.ids
        parents += zip(father, mother, strict=True)
        sexes += sex
        numbers += rows.numbers
    if not ids:
        raise InputError(f"{path}: no people, expected one a line ({_FIELDS})")
    return _linked(path, ids, parents, sexes, numbers, sex_codes)


def _linked(
    path: Path,
    ids: list[Id],
    parents: list[tuple[str, str]],
    sexes: list[str],
    numbers: list[int],
    sex_codes: tuple[str, str] | None,
) -> PedigreeFile:
    require_unique(path, ids, numbers, "")
    index = {key: row for row, key in enumerate(ids)}
    people = list(ids)
    if sex_codes is None:
        sex = [sex_code(text) or UNKNOWN_SEX for text in sexes]
    else:
        code = dict(zip(sex_codes, (MALE, FEMALE), strict=True))
        sex = [code.get(text, UNKNOWN_SEX) for text in sexes]
    expected = sex_codes or ("1", "2")
    role: dict[int, tuple[int, int]] = {}
    links = np.full((2, len(ids)), -1, dtype=np.int64)
    for row, ((fid, _), names) in enumerate(zip(ids, parents, strict=True)):
        for which, name in enumerate(names):
            if name == _NOBODY:
                continue
            key = (fid, name)
            if key not in index:
                index[key] = len(people)
                people.append(key)
                sex.append(UNKNOWN_SEX)
            parent, needed = index[key], (MALE, FEMALE)[which]
            links[which, row] = parent
            earlier, line = role.setdefault(parent, (needed, numbers[row]))
            where = f"{path}, line {numbers[row]}: FID {shown(fid)} IID {shown(name)}"
            words = ("father", "mother")
            if earlier != needed:
                raise InputError(
                    f"{where} is a {words[which]}, but a {words[1 - which]} on line {line}; "
                    "a parent has one sex, correct one of the lines"
                )
            if sex[parent] not in (needed, UNKNOWN_SEX):
                raise InputError(
                    f"{where} is a {words[which]}, but has sex {sexes[parent]} "
                    f"({'female' if which == 0 else 'male'}) on line {numbers[parent]}; correct "
                    f"it, or say what the codes mean (expected {expected[0]} male, "
                    f"{expected[1]} female)"
                )
    for parent, (needed, _) in role.items():
        sex[parent] = needed
    added = people[len(ids) :]
    father, mother = (np.append(link, np.full(len(added), -1, dtype=np.int64)) for link in links)
    if (person := in_cycle(father, mother)) >= 0:
        fid, iid = people[person]
        raise InputError(
            f"{path}, line {numbers[person]}: FID {shown(fid)} IID {shown(iid)} is among the "
            "ancestors of its own parents; correct the parents of one of them"
        )
    notes = (
        (f"{path}: {len(added)} parents have no line of their own, they are taken for unrelated "
         f"founders (first: {shown_ids(added)})",) if added else ()
    )  # fmt: skip
    return PedigreeFile(path, ids, Pedigree(father, mother, np.array(sex, dtype=np.int8)), notes)
