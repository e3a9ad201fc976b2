"""What is raised where a cluster's futures are cancelled."""

import asyncio
import concurrent.futures

# A future's, and that of calls to a client that is closed meanwhile.
CANCELLED = (concurrent.futures.CancelledError, asyncio.CancelledError)
