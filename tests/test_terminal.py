import io
import re
import urllib.request

import pytest
from rich.console import Console

from hlmm_dask import fit_null, scan
from hlmm_dask.scanning.cluster import ClusterOptions
from hlmm_dask.scanning.events import (
    BlockDone,
    BlockFailed,
    Note,
    Observer,
    PageServed,
    ScanFinished,
    ScanStarted,
    tell,
)
from hlmm_dask.scanning.log import RunLog
from hlmm_dask.view.terminal import TerminalProgress, duration, print_summary


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def console(*, terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def run(watcher, clock, n_blocks=10, failed=()):
    tell([watcher], ScanStarted(1000, 10, n_samples=50, n_workers=2, model="HLM"))
    for block in range(n_blocks):
        clock.now += 7.0
        if block in failed:
            watcher(BlockFailed(block, "worker died\u00a0[3]", 100))
        else:
            watcher(BlockDone(block, 100, 90, 7.0, "w1"))
    clock.now += 1.0
    watcher(ScanFinished(clock.now - 100.0))


def test_plain_lines_come_first_last_and_at_most_every_interval(clock):
    out = console(terminal=False)
    watcher: Observer = TerminalProgress(out, 20.0, clock=clock)
    run(watcher, clock)
    assert out.file.getvalue().splitlines() == [
        "HLM: 1,000 variants x 50 samples in 10 blocks on 2 workers",
        "300/1,000 variants, 14 variants/s, 49 s left, 2 workers",
        "600/1,000 variants, 14 variants/s, 28 s left, 2 workers",
        "900/1,000 variants, 14 variants/s, 7.0 s left, 2 workers",
        "1,000/1,000 variants, 14 variants/s, 1 min 11 s",
    ]


def test_failed_blocks_are_named_then_counted(clock):
    out = console(terminal=False)
    run(TerminalProgress(out, 1e9, clock=clock), clock, n_blocks=20, failed=range(3, 20))
    text = out.file.getvalue().splitlines()
    assert "block 3 failed: worker died\u00a0[3]" in text
    assert sum("failed:" in line for line in text) == 10
    assert "only counted" in text[-2]
    assert text[-1].startswith("300/1,000 variants")
    assert text[-1].endswith("17 blocks failed")


def test_resumed_scan_counts_its_own_speed_alone(clock):
    out = console(terminal=False)
    watcher = TerminalProgress(out, 1.0, clock=clock)
    watcher(ScanStarted(1000, 10, n_done_variants=500, n_done_blocks=5))
    clock.now += 10.0
    watcher(BlockDone(5, 100, 100, 10.0))
    text = out.file.getvalue().splitlines()
    assert text[1] == "500 variants are done from an earlier run"
    assert text[2] == "600/1,000 variants, 10 variants/s, 40 s left, 1 worker"


def test_notes_pass_unchanged(clock):
    out = console(terminal=False)
    TerminalProgress(out, clock=clock)(Note("a [bold]word[/bold] " + "long " * 60))
    assert out.file.getvalue() == "a [bold]word[/bold] " + "long " * 60 + "\n"


def test_bar_on_a_terminal_ends_and_gives_the_cursor_back(clock):
    out = console(terminal=True)
    with TerminalProgress(out, clock=clock) as watcher:
        run(watcher, clock, failed=(2,))
    text = out.file.getvalue()
    assert "variants/s" in text
    assert "block 2 failed: worker died" in text
    assert "1 block failed" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_bar_is_taken_away_when_the_run_raises(clock):
    out = console(terminal=True)

    def stop():
        with TerminalProgress(out, clock=clock) as watcher:
            watcher(ScanStarted(10, 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    text = out.file.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_summary_lists_what_was_left_out_by_reason():
    out = console(terminal=False)
    print_summary(
        {
            "n_variants": 12226,
            "n_fitted": 9000,
            "counts": {"ok": 9000, "monomorphic": 1230, "low_maf": 1996, "missing": 0},
            "lambda_gc_mean": 1.23456,
            "lambda_gc_variance": float("nan"),
            "seconds": 75.2,
            "variants_per_second": 162.6,
            "table": "out.models.gz",
        },
        console=out,
    )
    text = " ".join(out.file.getvalue().split())
    assert text.startswith("Summary variants read 12,226 fitted 9,000 left out: ")
    assert "left out: low_maf 1,996 (minor allele frequency not above min_maf)" in text
    assert text.index("low_maf") < text.index("monomorphic")
    assert "left out: missing" not in text
    assert "lambda_GC, mean effect 1.235 lambda_GC, variance effect –" in text
    assert "time 1 min 15 s variants/s 163 table out.models.gz" in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (7620, "2 h 07 min"),
        (273600, "3 d 04 h"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words


def test_the_address_of_the_page_is_said(tmp_path, clock):
    out = console(terminal=False)
    log = RunLog(str(tmp_path / "out"), command=["hlmm-scan"], options={})
    event = PageServed("http://127.0.0.1:8787/hlmm")
    with log:
        for observer in (TerminalProgress(out, clock=clock), log):
            observer(event)
        log(ScanStarted(n_variants=1, n_blocks=1))
    line = f"page of the scan: {event.address}"
    assert out.file.getvalue() == f"{line}\n"
    assert line in (tmp_path / "out.log").read_text("utf-8")


def test_a_scan_says_where_its_page_is(study, capsys):
    """On a cluster of its own the page is that of the scan, and it is there."""
    found = []

    def look(event):
        if isinstance(event, PageServed):
            with urllib.request.urlopen(event.address) as page:
                found.append((event.address, page.status, page.read()))

    null = fit_null(study.bed, study.pheno)
    scan(study.bed, null, cluster=ClusterOptions(workers=1), observers=[look])
    ((address, status, text),) = found
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/hlmm", address)
    assert status == 200
    assert b"hlmm-view" in text
