"""Warnings in blocks: counted, and told once."""

import json
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from distributed import Client
from studies import Study

from hlmm_dask.scanning.warned import counted_warnings

Run = Callable[..., int]


def switch(client: Client, *, warn: bool) -> None:
    """Let the kernel of all workers warn three times a block, or leave that."""

    def change() -> None:
        from hlmm_dask.kernels.block import fit_packed
        from hlmm_dask.scanning import graph

        def fit_and_warn(*arguments: Any, **options: Any) -> Any:
            for _ in range(3):
                warnings.warn("mind the\n gap", RuntimeWarning, stacklevel=1)
            return fit_packed(*arguments, **options)

        graph.fit_packed = fit_and_warn if warn else fit_packed

    client.run(change)


def test_warnings_of_workers_are_told_once(
    study: Study, client: Client, run_script: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    switch(client, warn=True)
    try:
        options = [study.bed, study.pheno, study.out("out"), "--block-size", 10]
        assert run_script("scan", *options) == 0
    finally:
        switch(client, warn=False)
    text = "RuntimeWarning: mind the gap"
    lines = study.out("out.log").read_text().splitlines()
    assert [line.split("  ", 1)[1] for line in lines if text in line] == [
        f"warning: {text}",
        f"18 times the warning: {text}",
    ]
    (run,) = json.loads(study.out("out.run.json").read_text())["runs"]
    assert run["warnings"] == [{"text": text, "count": 18}]
    # Once on the terminal too, and not by the workers themselves.
    assert capfd.readouterr().err.count("mind the") == 1


def test_threads_count_their_own() -> None:
    show = warnings.showwarning
    meet = threading.Barrier(4, timeout=20)
    found = {}

    def work(i: int) -> None:
        with counted_warnings() as counts:
            meet.wait()
            for _ in range(i):
                warnings.warn("careful", RuntimeWarning, stacklevel=1)
            # The first to come is the first to go.
            if i > 1:
                meet.wait()
        if i == 1:
            meet.wait()
        found[i] = dict(counts)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        threads = [threading.Thread(target=work, args=(i,)) for i in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {i: {"RuntimeWarning: careful": i} for i in range(1, 5)}
    assert warnings.showwarning is show
