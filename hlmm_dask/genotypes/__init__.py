"""Genotype files: lazy readers behind one contract."""
