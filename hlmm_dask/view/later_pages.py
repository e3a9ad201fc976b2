"""Adds Dask's own pages to a scheduler when one of them is asked for: they import half a second.

Clusters that a scan starts on this machine load it.
"""

from typing import Any

from distributed import Scheduler
from distributed.http.utils import get_handlers
from tornado.httputil import HTTPServerRequest
from tornado.web import Application

from hlmm_dask.view import dask_page

_MEASUREMENTS = ["distributed.http.scheduler.prometheus"]


class LaterPages(Application):
    """Stands for the pages until it has to give one."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> Any:
        """Put the pages in its place, and ask them."""
        pages = self._scheduler.http_application
        if self in pages.applications:
            pages.applications.remove(self)
            pages.add_handlers(r".*", get_handlers(self._scheduler, _MEASUREMENTS))
            dask_page.navigation(self._scheduler)
            try:
                from distributed.dashboard.scheduler import connect
            except ImportError:
                missing = ["distributed.http.scheduler.missing_bokeh"]
                pages.add_handlers(r".*", get_handlers(self._scheduler, missing))
            else:
                connect(pages, self._scheduler.http_server, self._scheduler)
        return pages.find_handler(request, **options)


def dask_setup(scheduler: Scheduler) -> None:
    """Add them."""
    scheduler.http_application.add_application(LaterPages(scheduler))
