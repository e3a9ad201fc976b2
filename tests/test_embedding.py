"""Another program calls the commands' functions: they leave its process as it was."""

import subprocess
import sys
from pathlib import Path

from clusters import environment
from studies import make_study

# Runs the commands one after the other, and says what each has changed.
HOST = """
import gc, json, logging, os, signal, sys, threading, warnings
import dask, distributed
from hlmm_dask import cli, cli_followup

def own_handler(number, frame):
    pass

def state():
    names = ["", "distributed", "distributed.nanny", "distributed.worker", "tornado", "bokeh"]
    loggers = [logging.getLogger(name) for name in names]
    return {
        "hidden modules": sorted(name for name, module in sys.modules.items() if module is None),
        "garbage": [gc.isenabled(), gc.get_freeze_count(), gc.get_threshold()],
        "handlers": [str(signal.getsignal(n)) for n in signal.valid_signals()],
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "streams": [id(s) for s in (sys.stdin, sys.stdout, sys.stderr)],
        "hooks": [id(h) for h in (sys.excepthook, sys.unraisablehook, threading.excepthook)],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "warnings": [list(map(str, warnings.filters)), id(warnings.showwarning)],
        "logging": [[l.level, l.propagate, l.disabled, [(id(h), h.level) for h in l.handlers]]
                    for l in loggers],
        "dask": json.dumps(dask.config.config, default=str, sort_keys=True),
        "client": str(distributed.client._get_global_client()),
    }

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, own_handler)
    bed, pheno, covar = sys.argv[1:]
    cluster = ["--workers", "1", "--min-maf", "0.01", "--tabix"]
    commands = [
        (cli.scan_main, [bed, pheno, "a", *cluster, "--report"]),
        (cli.scan_main, [bed, pheno, "b", "--dry-run", *cluster[:2]]),
        (cli.scan_main, [bed, "missing.txt", "b"]),
        (cli.kinship_main, [bed, "k"]),
        (cli.fit_main, [pheno, "f"]),
        (cli.loci_main, ["a", "--p", "0.5", "--top", "1"]),
        (cli.report_main, ["a"]),
        (cli.munge_main, ["a", "--format", "ldsc"]),
        (cli_followup.check_main,
         ["a", "--top", "1", "--permutations", "20", "--bootstrap", "2"]),
        (cli_followup.interact_main, ["a", "--top", "1", "--covar", f"{covar}:1"]),
    ]
    # Imports are not changes: the second call of each is compared.
    for main, arguments in [commands[0], *commands]:
        gc.collect()
        before = state()
        sys.argv = [main.__name__, *arguments, *(["--overwrite"] if arguments[0] == bed else [])]
        try:
            code = main()
        except SystemExit as end:
            code = end.code
        # Handlers of Dask's servers go when these are collected.
        gc.collect()
        after = state()
        changed = [name for name in before if before[name] != after[name]]
        print("result", main.__name__, code, changed, flush=True)
    import xarray
"""


def test_commands_leave_the_process_of_a_host_as_it_was(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    covar = tmp_path / "covar.txt"
    (tmp_path / "host.py").write_text(HOST)
    done = subprocess.run(
        [sys.executable, "host.py", study.bed, study.pheno, covar],
        capture_output=True, text=True, cwd=tmp_path, timeout=240, check=False, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [line.split(maxsplit=3)[1:] for line in done.stdout.splitlines() if "result" in line]
    names = ["scan"] * 3 + ["kinship", "fit", "loci", "report", "munge", "check", "interact"]
    # The first call only imports.
    assert [name for name, _, _ in results[1:]] == [f"{name}_main" for name in names], done.stderr
    assert [code for _, code, _ in results[1:]] == ["0", "0", "2", *"0000000"], done.stderr
    assert [changed for _, _, changed in results[1:]] == ["[]"] * len(names)
