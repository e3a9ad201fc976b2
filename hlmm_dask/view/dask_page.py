"""A page for scans among those of Dask's dashboard, at ``/hlmm``.

It shows the same view as notebooks do. A scan tells the scheduler where its results store is
(`hlmm_dask.scanning.run`), which the scheduler's machine must see under the same path.
"""

import asyncio
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from distributed import Scheduler
from jinja2 import ChoiceLoader, DictLoader, Environment, PackageLoader
from tornado.web import RequestHandler, StaticFileHandler

from hlmm_dask.scanning.machine import user_at
from hlmm_dask.scanning.run import RUNS_KEY
from hlmm_dask.scanning.worker_state import workers_of_scheduler
from hlmm_dask.view.feed import Feed

NAME = "hlmm"

_PAGE = """{% extends "base.html" %}
{% block content %}
<link rel="stylesheet" href="hlmm/static/page.css" />
<link rel="stylesheet" href="hlmm/static/dashboard.css" />
<div id="hlmm-runs"></div><div id="hlmm-view"></div>
<script type="module" src="hlmm/static/page.js"></script>
{% endblock %}
"""
_templates = Environment(
    loader=ChoiceLoader(
        [DictLoader({"hlmm.html": _PAGE}), PackageLoader("distributed.http", "templates")]
    ),
    autoescape=True,
)
# Reads stores aside: the scheduler's own thread has better to do.
_reader = ThreadPoolExecutor(1, thread_name_prefix="hlmm-page")
_feeds: dict[tuple[str, str], Feed] = {}
_MAX_FEEDS = 4
_LOOPBACK = "127.0.0.1"


def navigation(scheduler: Scheduler) -> dict[str, Any]:
    """Return what Dask's template needs to draw its navigation bar, this page in it."""
    try:
        # Imported late: takes half a second.
        from distributed.dashboard.scheduler import template_variables
    except ImportError:  # without bokeh there are no others
        return {"pages": ["info", NAME], "plots": []}
    # One dictionary for all pages of this scheduler, ours as well.
    variables: dict[str, Any] = template_variables(scheduler)
    if NAME not in variables["pages"]:
        variables["pages"].append(NAME)
    return variables


class _Handler(RequestHandler):
    def initialize(self, dask_server: Any = None) -> None:
        self.scheduler = dask_server

    def prepare(self) -> None:
        """Refuse other users of this machine, where only this machine can ask.

        Dask's pages show tasks and memory, this one results.
        """
        if self.scheduler.http_server.address != _LOOPBACK or sys.platform != "linux":
            return
        peer = self.request.connection.context.address  # type: ignore[union-attr]
        if user_at(*peer[:2]) not in (os.getuid(), 0):
            self.send_error(403, reason="this page is of another user's scan")

    def runs(self) -> list[str]:
        """Return the stores that this scheduler was told of, the latest first."""
        told = self.scheduler.task_metadata.get(RUNS_KEY, {})
        return sorted(told, key=told.get, reverse=True)


class Page(_Handler):
    """The page."""

    def get(self) -> None:
        """Send it."""
        page = _templates.get_template("hlmm.html")
        self.write(page.render(**navigation(self.scheduler)))


class Runs(_Handler):
    """The scans, as JSON."""

    def get(self) -> None:
        """Send their stores, the latest first."""
        self.write({"runs": self.runs()})


class Data(_Handler):
    """What there is to see of a scan: what changed since a version, as JSON."""

    async def get(self) -> None:
        """Send the pieces of ``?run=`` since ``&since=``."""
        run, since = self.get_query_argument("run"), int(self.get_query_argument("since", "0"))
        # No other file of this machine can be asked for.
        if run not in self.runs():
            self.send_error(404)
            return
        loop = asyncio.get_running_loop()
        content = await loop.run_in_executor(_reader, _read, self.scheduler, run, since)
        self.set_header("Content-Type", "application/json")
        self.write(content)


def _read(scheduler: Any, run: str, since: int) -> bytes:
    key = (scheduler.id, run)
    feed = _feeds.pop(key, None) or Feed(run, partial(workers_of_scheduler, scheduler))
    _feeds[key] = feed
    while len(_feeds) > _MAX_FEEDS:
        del _feeds[next(iter(_feeds))]
    wait = feed.poll()
    # A page that saw the version of a later feed has nothing of this one.
    pieces = feed.since(since if since <= feed.version else 0)
    return json.dumps({"version": feed.version, "wait": wait, "pieces": pieces}).encode()


routes: list[tuple[str, type[RequestHandler], dict[str, Any]]] = [
    ("hlmm", Page, {}),
    ("hlmm/runs", Runs, {}),
    ("hlmm/data", Data, {}),
    ("hlmm/static/(.*)", StaticFileHandler, {"path": str(Path(__file__).with_name("static"))}),
]
