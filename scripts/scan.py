#!/usr/bin/env python3
"""See ``scan.py --help``."""

import sys

from hlmm_dask.cli import scan_main

if __name__ == "__main__":
    sys.exit(scan_main())
