#!/usr/bin/env python3
"""See ``report.py --help``."""

import sys

from hlmm_dask.cli import report_main

if __name__ == "__main__":
    sys.exit(report_main())
