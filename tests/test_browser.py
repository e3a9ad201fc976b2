"""What people see, in a real browser."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from runs import markers
from scans import columns_of, make_store, names_of

import hlmm_dask
from hlmm_dask.cli import report_main
from hlmm_dask.errors import ScanError
from hlmm_dask.genotypes.plink import open_plink
from hlmm_dask.models.inference import genomic_control_lambda
from hlmm_dask.scanning.cluster import ClusterOptions, connect
from hlmm_dask.scanning.events import Event, ScanStarted
from hlmm_dask.scanning.run import RUNS_KEY
from hlmm_dask.schema import RESULT_NAMES
from hlmm_dask.store import ResultsStore

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
N = 2000
# What Jupyter complains about without any widget, as it loads; the last on a slow machine.
NOTEBOOKS_OWN = (
    "Menu entry for command", "[yjs#509] Not same Y.Doc", "(reading 'schema')",
    "is taking too long to activate", "ms to activate",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        assert not os.environ.get("HLMM_DASK_NEEDS_CHROMIUM"), "no chromium was found"
        pytest.skip("no chromium was found (Debian: apt install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Give a function that opens a page; at the end no console has shown an error."""
    complaints: list[str] = []
    contexts = []

    def noted(message: Any) -> None:
        if message.type in ("error", "warning"):
            complaints.append(f"{message.type}: {message.text}")

    def asked(request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:", "file:")):
            complaints.append(f"asked for {request.url}")

    def start(address: str, *, dark: bool = False) -> Any:
        context = browser.new_context(
            viewport={"width": 1366, "height": 768}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", noted)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", asked)
        page.goto(address)
        return page

    yield start
    for context in contexts:
        context.close()
    assert [text for text in complaints if not any(own in text for own in NOTEBOOKS_OWN)] == []


@pytest.fixture
def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    add_t, var_t = rng.standard_normal((2, N))
    add_t[300], var_t[1500] = 9.0, 8.0
    return columns_of(add_t, var_t, rng.uniform(0.05, 0.5, N))


def write(store: ResultsStore, columns: dict[str, np.ndarray], block: int) -> None:
    rows = slice(store.block(block).start, store.block(block).stop)
    values = np.zeros((rows.stop - rows.start, len(RESULT_NAMES)))
    for name, column in columns.items():
        values[:, RESULT_NAMES.index(name)] = column[rows]
    store.write_block(block, values, record={"worker": "tcp://w", "seconds": 0.1})


def figure(page: Any, name: str) -> str:
    return str(page.locator(f"[data-figure='{name}']").last.text_content())


def wait_for(page: Any, name: str, text: str) -> None:
    selector = f"[data-figure='{name}']"
    script = "([s, t]) => [...document.querySelectorAll(s)].pop()?.textContent === t"
    page.wait_for_function(script, arg=[selector, text], timeout=60_000)


def top_point(page: Any, plot: str) -> tuple[Any, str, dict[str, float]]:
    """Canvas of a plot, and name and place of its highest point."""
    canvas = page.locator(f"canvas.hlmm-{plot}").last
    data = canvas.evaluate("node => ({...node.dataset})")
    return canvas, data["id"], {"x": float(data["x"]), "y": float(data["y"])}


def check_view(page: Any, results: dict[str, np.ndarray], ids: np.ndarray) -> None:
    """The numbers are the store's; a point tells what it is, and a click finds its locus."""
    for test, column in (("mean", "add"), ("variance", "var_best")):
        canvas, name, at = top_point(page, f"manhattan-{test}")
        neg_log10_p = results[f"{column}_neg_log10_p"]
        assert name == ids[int(np.nanargmax(neg_log10_p))]
        shown = float(page.locator(f"canvas.hlmm-qq-{test}").last.get_attribute("data-lambda"))
        assert shown == pytest.approx(genomic_control_lambda(neg_log10_p), rel=1e-3)
        canvas.hover(position=at)
        tip = page.locator(".hlmm-tip.hlmm-shown").last
        words = tip.inner_text()
        assert name in words
        assert "effect on mean" in words
        assert "on log variance" in words
        canvas.click(position=at)
        page.locator(f".hlmm-loci tr.hlmm-selected[data-id='{name}']").last.wait_for()
    page.locator(".hlmm-tabs button[data-test=variance]").last.click()
    table = page.locator(".hlmm-loci").last
    table.locator(f"tbody tr:first-child[data-id='{name}']").wait_for()


# Dask's dashboard


def test_page_in_dasks_dashboard(tmp_path, columns, open_page) -> None:
    store = make_store(tmp_path / "s.zarr", columns, names_of(N), leave_out=range(1, 20))
    with connect(ClusterOptions(workers=1)) as client, store.lock("this test"):
        page = open_page(client.dashboard_link.replace("status", "hlmm"))
        for name in ("Status", "Hlmm"):
            assert page.get_by_role("link", name=name, exact=True).is_visible()
        page.get_by_text("No scan has been started").wait_for()
        client.set_metadata([RUNS_KEY, str(store.path)], time.time())
        wait_for(page, "variants", "100 of 2,000")
        assert page.locator(".hlmm-state").text_content() == "running"
        assert "tls://127.0.0.1" in page.locator(".hlmm-workers").inner_text()
        for block in range(1, 10):
            write(store, columns, block)
        wait_for(page, "variants", "1,000 of 2,000")
        for block in range(10, 20):
            write(store, columns, block)
        store.finish({"seconds": 3.0})
        wait_for(page, "blocks", "20 of 20")
        page.wait_for_function("document.querySelector('.hlmm-note').textContent === ''")
        page.get_by_text("finished", exact=True).wait_for()
        page.wait_for_timeout(300)
        check_view(page, columns, names_of(N)["variant_id"])
        dark = open_page(client.dashboard_link.replace("status", "hlmm"), dark=True)
        dark.locator(".hlmm.hlmm-dark").wait_for()
        wait_for(dark, "blocks", "20 of 20")


def test_failures_are_shown_with_their_reason(study, open_page) -> None:
    """A block whose place is taken, then genotypes that are cut off while they are read."""
    null = hlmm_dask.fit_null(study.bed, study.pheno)
    genotypes, out = open_plink(study.bed), study.out("out.zarr")
    obstacle = out / "results" / "c.2.0" / "in the way"

    def obstruct(event: Event) -> None:
        if isinstance(event, ScanStarted):
            obstacle.mkdir(parents=True)

    def shorten(event: Event) -> None:
        if isinstance(event, ScanStarted):
            os.truncate(study.bed, study.bed.stat().st_size - 1)

    with connect(ClusterOptions(workers=1)) as client:
        page = open_page(client.dashboard_link.replace("status", "hlmm"))
        for path, observer in ((out, obstruct), (study.out("cut.zarr"), shorten)):
            with pytest.raises(ScanError):
                hlmm_dask.scan(
                    genotypes, null, client=client, out=path, block_size=10, observers=[observer]
                )
            page.locator(f".hlmm-head code:text('{path}')").wait_for()
            page.locator(".hlmm-state[data-state=stopped]").wait_for()
            if path == out:
                wait_for(page, "failed", "1")
                text = page.locator(".hlmm-failures").inner_text()
                assert "Failed blocks (1)" in text
                assert "Block 2: IsADirectoryError" in text
                assert page.locator(".hlmm-facts .hlmm-bad [data-figure=failed]").is_visible()
        note = page.locator(".hlmm-note").inner_text()
        assert f"{study.bed}: changed while it was scanned" in note


# Notebooks


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# Program, its application, path of its page; samples, variants, random effects.
LAB = ("jupyterlab", "LabApp", "lab/tree", (2_000, 4_400, 100))
NOTEBOOK = ("notebook", "JupyterNotebookApp", "notebooks", (400, 440, 20))


@pytest.fixture
def notebook(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Address of the live notebook in JupyterLab, or in Notebook 7."""
    program, application, place, sizes = request.param
    pytest.importorskip(program)
    folder = tmp_path / "notebooks"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("notebook_output"))
    text = (folder / "live_scan.ipynb").read_text("utf-8")
    smaller = ", ".join(f"{size:_}" for size in sizes)
    if sizes[0] < 1000:
        for large, small in (("1_030", "103"), ("2_750", "275"), ("[700]", "[70]"),
                             ("3_900", "390")):  # fmt: skip
            text = text.replace(large, small)
    text = text.replace("4_000, 4_400, 100", smaller)
    (folder / "live_scan.ipynb").write_text(text, "utf-8")
    port = free_port()
    own = {
        f"JUPYTER{name}_DIR": str(tmp_path / name)
        for name in ("_CONFIG", "_DATA", "_RUNTIME", "LAB_SETTINGS", "LAB_WORKSPACES")
    }
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", program, "--no-browser", "--allow-root"),
                *("--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token=secret"),
                *(f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None"),
                f"--{application}.expose_app_in_browser=True",
            ],
            env=os.environ | own | {"PYTHONPATH": str(EXAMPLES.parent)},
            stderr=log,
        )
        try:
            for _ in range(1200):
                assert server.poll() is None, (tmp_path / "server.log").read_text()
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/{place}/live_scan.ipynb?token=secret&reset"
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


class Pauses(threading.Thread):
    """Stops the workers of the notebook's scan three times, each until the page has followed."""

    def __init__(self, store: Path, n_blocks: int) -> None:
        super().__init__(daemon=True)
        self._store, self._n_blocks = store, n_blocks
        self.shown, self.ended = threading.Event(), threading.Event()

    def run(self) -> None:
        for share in (0.05, 0.35, 0.65):
            while len(markers(self._store)) < share * self._n_blocks:
                if self.ended.wait(0.01):
                    return
            here = psutil.Process().children(recursive=True)
            kernels = [p for p in here if "ipykernel_launcher" in " ".join(p.cmdline())]
            workers = [worker for kernel in kernels for worker in kernel.children(recursive=True)]
            for worker in workers:
                worker.suspend()
            self.shown.wait(60)
            self.shown.clear()
            for worker in workers:
                worker.resume()


@pytest.mark.parametrize("notebook", [LAB, NOTEBOOK], indirect=True, ids=["lab", "notebook"])
def test_the_live_notebook(notebook, request, tmp_path, open_page) -> None:
    _, n, _ = request.node.callspec.params["notebook"][3]
    page = open_page(notebook)
    page.wait_for_function(
        "window.jupyterapp?.shell.currentWidget?.content?.widgets?.length > 5", timeout=60_000
    )
    widget = "window.jupyterapp.shell.currentWidget"
    page.evaluate(f"{widget}.context.sessionContext.ready.then(() => 0)")
    # What the file shows is not what this test is about.
    page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.evaluate(
        "window.ended = window.jupyterapp.commands.execute('notebook:run-all-cells')"
        ".then(() => true), 0"
    )
    seen: list[str] = []
    pauses = Pauses(tmp_path / "notebooks" / "notebook_output" / "live_scan" / "live.zarr", n // 50)
    if n >= 1000:
        pauses.start()
    page.locator("[data-figure='variants']").wait_for(timeout=60_000, state="attached")
    while not seen or seen[-1] != f"{n:,} of {n:,}":
        now = figure(page, "variants")
        if not seen or now != seen[-1]:
            seen.append(now)
            if not now.startswith("0 "):
                pauses.shown.set()
        page.wait_for_timeout(100)
    pauses.ended.set()
    counts = [int(text.split()[0].replace(",", "")) for text in seen]
    assert counts == sorted(counts)
    # A small scan may be done before it is seen.
    assert n < 1000 or len([k for k in counts if 0 < k < n]) >= 3
    page.get_by_text("finished", exact=True).wait_for()
    wait_for(page, "blocks", f"{-(-n // 50)} of {-(-n // 50)}")
    page.wait_for_timeout(1000)
    results = hlmm_dask.open_results(
        tmp_path / "notebooks" / "notebook_output" / "live_scan" / "live.zarr"
    )
    values = {name: results[name].to_numpy() for name in RESULT_NAMES}
    check_view(page, values, results["variant_id"].to_numpy())
    assert page.evaluate("window.ended") is True
    errors = page.evaluate(
        f"{widget}.content.model.sharedModel.cells.flatMap(cell => cell.outputs ?? [])"
        ".filter(output => output.output_type === 'error').length"
    )
    assert errors == 0


# The report


def test_report(tmp_path, columns, open_page) -> None:
    store = make_store(tmp_path / "s.zarr", columns, names_of(N))
    assert report_main([str(store.path)]) == 0
    page = open_page((tmp_path / "s.report.html").as_uri())
    canvas = page.locator(".manhattan canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    tip = page.locator(".tip")
    # The best variant is the highest point, and stands alone.
    for y in range(4, 60, 6):
        for x in range(50, int(box["width"]), 10):
            page.mouse.move(box["x"] + x, box["y"] + y)
            if tip.is_visible():
                break
        else:
            continue
        break
    assert tip.inner_text().startswith("rs300\n")
    page.mouse.down()
    page.mouse.up()
    assert page.locator("tr[aria-selected=true]").first.inner_text().startswith("rs300")
