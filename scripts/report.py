#!/usr/bin/env python3
"""See ``report.py --help``."""

import sys

from hlmm_dask.program import report

if __name__ == "__main__":
    sys.exit(report())
