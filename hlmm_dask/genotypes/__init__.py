"""Readers of genotypes: PLINK 1 files as packed bytes or as a lazy Dataset."""
