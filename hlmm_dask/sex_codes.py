"""Codes of sex in .fam files, pedigrees and tables."""

from collections.abc import Sequence

from hlmm_dask.missing import Missing

UNKNOWN, MALE, FEMALE = 0, 1, 2
EXPECTED = "expected 1 or M (male), 2 or F (female), 0 or NA (unknown)"
_CODES = {
    "1": MALE, "m": MALE, "male": MALE, "2": FEMALE, "f": FEMALE, "female": FEMALE,
    "0": UNKNOWN, "-9": UNKNOWN, "u": UNKNOWN, "unknown": UNKNOWN,
}  # fmt: skip
# In a first line they are no names of columns.
WORDS = frozenset(code.encode() for code in _CODES)


def sex_code(text: str, missing: Missing | None = None) -> int | None:
    """Understand a code in any case: 1 male, 2 female, 0 unknown; None for any other text."""
    if (missing or Missing()).means(text.encode(errors="surrogateescape")):
        return UNKNOWN
    # R and pandas may write numbers as 1.0.
    return _CODES.get(text.lower().removesuffix(".0"))


def zero_or_one(texts: Sequence[str]) -> str | None:
    """Say that the codes are 0 and 1, which leaves open who is male; None if they aren't."""
    codes = [text.lower().removesuffix(".0") for text in texts]
    zeros, ones = codes.count("0"), codes.count("1")
    if not zeros or not ones or FEMALE in map(_CODES.get, codes):
        return None
    return (
        f"sex is 0 for {zeros} people, 1 for {ones} and 2 for none, {EXPECTED}; recode it, or "
        "write NA in place of 0 if all others are male"
    )
