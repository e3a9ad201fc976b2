#!/usr/bin/env python3
"""See ``kinship.py --help``."""

import sys

from hlmm_dask.cli import kinship_main

if __name__ == "__main__":
    sys.exit(kinship_main())
