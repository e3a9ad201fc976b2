"""``python -m hlmm_dask`` is ``hlmm-scan``."""

import sys

from hlmm_dask.cli import scan_main

if __name__ == "__main__":
    sys.exit(scan_main())
