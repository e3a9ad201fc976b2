#!/usr/bin/env python3
"""See ``kinship.py --help``."""

import sys

from hlmm_dask.program import kinship

if __name__ == "__main__":
    sys.exit(kinship())
