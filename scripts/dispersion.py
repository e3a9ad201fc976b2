#!/usr/bin/env python3
"""See ``dispersion.py --help``."""

import sys

from hlmm_dask.program import dispersion

if __name__ == "__main__":
    sys.exit(dispersion())
