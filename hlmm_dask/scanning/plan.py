"""Plain arithmetic: how the variants are cut into blocks."""

# Variants a block at the most; a block is one task, one chunk and one marker.
_LARGEST = 4096
# Enough blocks for progress and for an even load, and few enough for the scheduler.
_BLOCKS = 48
# A task reads its block whole: two or three such buffers are what a worker needs for it.
_PACKED_BYTES = 64 * 2**20
# Shortest and longest that a block should take, from the rates of one core.
_SHORTEST, _SECONDS = 0.02, 20.0
_SECONDS_PER_VARIANT = 4e-6
_SECONDS_PER_SAMPLE_HLM = 3e-10
_SECONDS_PER_SAMPLE_COVARIATES = 3e-8
_RANDOM_EFFECT_RATE = 1.5e11


def choose_block_size(
    n_variants: int, n_samples: int, *, n_random: int = 0, n_covariates: int = 0
) -> int:
    """Variants a block, from the data alone, so that a resumed run gets the same.

    Parameters
    ----------
    n_variants : int
        Variants of the scan.
    n_samples : int
        Samples in the genotype file.
    n_random : int
        Random effects.
    n_covariates : int
        Covariates that stay in every model.

    Returns
    -------
    int
        Between 1 and ``n_variants``.
    """
    per_variant = _SECONDS_PER_VARIANT + _SECONDS_PER_SAMPLE_HLM * n_samples
    if n_covariates:
        per_variant += _SECONDS_PER_SAMPLE_COVARIATES * n_samples
    # Gram matrices of the carriers, then a few factorisations.
    per_variant += (n_samples * n_random**2 + 60.0 * n_random**3) / _RANDOM_EFFECT_RATE
    size = min(
        _LARGEST,
        max(int(_SHORTEST / per_variant), -(-n_variants // _BLOCKS)),
        max(1, int(_SECONDS / per_variant)),
        max(1, _PACKED_BYTES // ((n_samples + 3) // 4)),
    )
    return max(1, min(size, n_variants))
