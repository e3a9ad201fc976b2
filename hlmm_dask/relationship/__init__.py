"""Relationship matrices: pedigrees and kinship files, read, checked and written."""
