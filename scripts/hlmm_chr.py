#!/usr/bin/env python3
"""See ``hlmm_chr.py --help``."""

import sys

from hlmm_dask.program import chromosome

if __name__ == "__main__":
    sys.exit(chromosome())
