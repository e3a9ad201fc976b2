"""``python -m hlmm_dask`` is ``hlmm-scan``."""

import sys

from hlmm_dask.program import scan

if __name__ == "__main__":
    sys.exit(scan())
