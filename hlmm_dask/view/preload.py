"""Adds the page of hlmm_dask to a scheduler's dashboard.

Clusters that a scan starts load it; others with
``dask scheduler --preload hlmm_dask.view.preload``.
"""

import dask
from distributed import Scheduler

from hlmm_dask.view import dask_page

_ROUTES = "distributed.scheduler.http.routes"

# The scheduler reads its routes after it has imported its preloads.
_routes = dask.config.get(_ROUTES)
if dask_page.__name__ not in _routes:
    dask.config.set({_ROUTES: [*_routes, dask_page.__name__]})


def dask_setup(scheduler: Scheduler) -> None:
    """Name the page in the navigation bar of the others, if they are there."""
    if scheduler.http_application.applications:
        dask_page.navigation(scheduler)
