"""Benchmarks by group; ``bench.py`` is their command line."""

from hlmm_dask.scanning.prestart import choose_blas_kernels

# As the commands do, before numpy is imported.
choose_blas_kernels()
