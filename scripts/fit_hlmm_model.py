#!/usr/bin/env python3
"""See ``fit_hlmm_model.py --help``."""

import sys

from hlmm_dask.cli import fit_main

if __name__ == "__main__":
    sys.exit(fit_main())
