"""The live view of a scan in notebooks."""

import os
import threading
from pathlib import Path
from typing import Any

import traitlets
from distributed import Client

from hlmm_dask.scanning.background import Run
from hlmm_dask.scanning.worker_state import WorkerState, workers_of_client
from hlmm_dask.view.feed import PIECES, Feed

try:
    import anywidget
except ImportError as error:
    raise ImportError("hlmm_dask.dashboard: pip install 'hlmm-dask[notebook]'") from error

_STATIC = Path(__file__).with_name("static")


class Dashboard(anywidget.AnyWidget):
    """Widget that follows a run, and what replaces its store, until the widget is closed.

    Attributes
    ----------
    selected : dict
        The variant that was clicked last: ``id``, ``chrom``, ``pos``, effects, -log10 p.
    """

    _esm = _STATIC / "dashboard.js"
    _css = _STATIC / "dashboard.css"
    selected = traitlets.Dict().tag(sync=True)
    # One trait for each piece: what has not changed is not sent again.
    locals().update({name: traitlets.Any({}).tag(sync=True) for name in PIECES})

    def __init__(
        self, source: Run | str | os.PathLike[str], *, client: Client | None, every: float
    ) -> None:
        self._run = source if isinstance(source, Run) else None
        self._given = client
        self._feed = Feed(source.store if isinstance(source, Run) else source, self._workers)
        self._every = every
        self._sent = 0
        self._closed = threading.Event()
        self._feed.poll(every=every, more=self._state())
        super().__init__(**self._feed.since(0))
        self._sent = self._feed.version
        threading.Thread(target=self._follow, name="hlmm-dashboard", daemon=True).start()

    def close(self) -> None:
        """Take the widget away and stop following."""
        self._closed.set()
        super().close()

    def _follow(self) -> None:
        wait = 0.0
        while not self._closed.wait(wait):
            wait = self._feed.poll(every=self._every, more=self._state())
            for name, value in self._feed.since(self._sent).items():
                setattr(self, name, value)
            self._sent = self._feed.version

    def _state(self) -> dict[str, Any]:
        """Tell what the store does not: how a run of this process ended."""
        if self._run is None or self._run.status in ("running", "finished"):
            return {}
        error = self._run.exception() if self._run.done() else None
        return {"ended": self._run.status, "error": "" if error is None else str(error)}

    def _workers(self) -> list[WorkerState]:
        client = self._given or (self._run.client if self._run is not None else None)
        return [] if client is None else workers_of_client(client)


def dashboard(
    run: Run | str | os.PathLike[str], *, client: Client | None = None, every: float = 1.0
) -> Dashboard:
    """Show a scan as it runs, or a finished one.

    Parameters
    ----------
    run : Run or path
        From ``scan(..., background=True)``, or the results store (``OUTPREFIX.zarr``) of any
        run, also one of another process, and one that is not there yet.
    client : distributed.Client, optional
        Of the cluster that it runs on, to show its workers' memory and current blocks; that of
        the run by default.
    every : float
        Seconds between looks; more where a look would take more than 1% of the machine's time.

    Returns
    -------
    Dashboard
        A widget for JupyterLab, Notebook 7 and VS Code.
    """
    return Dashboard(run, client=client, every=every)
