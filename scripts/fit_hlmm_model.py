#!/usr/bin/env python3
"""See ``fit_hlmm_model.py --help``."""

import sys

from hlmm_dask.program import fit

if __name__ == "__main__":
    sys.exit(fit())
