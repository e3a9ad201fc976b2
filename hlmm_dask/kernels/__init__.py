"""Kernels: a block of variants and a null model in, a table of results out."""
