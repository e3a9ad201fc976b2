"""Benchmarks by group; ``bench.py`` is their command line."""

from hlmm_dask.program import prepare_blas

# As the commands do, before numpy is imported.
prepare_blas()
