#!/usr/bin/env python3
"""See ``dispersion.py --help``."""

import sys

from hlmm_dask.cli import dispersion_main

if __name__ == "__main__":
    sys.exit(dispersion_main())
