"""Heteroskedastic linear (mixed) models for whole genomes, on Dask."""
