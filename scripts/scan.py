#!/usr/bin/env python3
"""See ``scan.py --help``."""

import sys

from hlmm_dask.program import scan

if __name__ == "__main__":
    sys.exit(scan())
