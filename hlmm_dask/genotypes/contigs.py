"""Names of chromosomes."""


def plain_contig(name: str) -> str:
    """Name of a chromosome without ``chr`` and leading zeros: chr01, Chr1 and 1 are the same."""
    bare = name[3:] if name[:3].lower() == "chr" and len(name) > 3 else name
    return bare.lstrip("0") or bare[-1:]
