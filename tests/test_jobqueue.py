"""Workers as batch jobs: the scripts for each system, and runs with stand-ins for its commands."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dask
import psutil
import pytest
from clusters import address_in, environment, processes, run_scan
from distributed import Client
from runs import markers
from studies import Study, make_study

import hlmm_dask
from hlmm_dask import InputError, fit_null, read_models_table
from hlmm_dask.scanning.cluster import ClusterOptions
from hlmm_dask.scanning.events import BlockDone, Event
from hlmm_dask.scanning.jobqueue import _cluster_class, _credentials, queue_settings
from hlmm_dask.schema import Status

# Submits a job as Slurm and the others do: the script is kept, and started in a session.
SUBMIT = """#!/bin/sh
spool="{folder}/job.$$"
cat ${{1:-/dev/stdin}} > "$spool"
echo "$spool" >> "{folder}/submitted"
setsid sh "$spool" > "$spool.log" 2>&1 < /dev/null &
echo "$!" >> "{folder}/jobs"
echo "{answer}"
"""
CANCEL = """#!/bin/sh
echo "$1" >> "{folder}/cancelled"
kill -- "-$1" 2> /dev/null
"""
SYSTEMS = {
    "slurm": ("sbatch", "scancel", "Submitted batch job $!"),
    "lsf": ("bsub", "bkill", "Job <$!> is submitted to queue <short>."),
    "sge": ("qsub", "qdel", 'Your job $! (\\"dask-worker\\") has been submitted'),
    "pbs": ("qsub", "qdel", "$!.server"),
}


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the commands of all systems note what they did."""
    folder = tmp_path / "batch"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def install(folder: Path, system: str) -> None:
    submit, cancel, answer = SYSTEMS[system]
    for name, text in ((submit, SUBMIT), (cancel, CANCEL)):
        (folder / name).write_text(text.format(folder=folder, answer=answer))
        (folder / name).chmod(0o755)


def script(folder: Path, system: str, **options: object) -> str:
    install(folder, system)
    settings = queue_settings(
        ClusterOptions(
            jobqueue=system, workers=8, threads_per_worker=2, cores=4, memory_limit="3GiB",
            queue="short", account="genetics", walltime="10:00:00", local_directory="/scratch",
            **options,  # type: ignore[arg-type]
        )
    )  # fmt: skip
    settings.pop("scheduler_options")
    return str(
        _cluster_class(system).job_cls("tls://10.0.0.1:8786", name="w", **settings).job_script()
    )


@pytest.mark.parametrize(
    ("system", "lines"),
    [
        ("slurm", ["#SBATCH -p short", "#SBATCH -A genetics", "#SBATCH --cpus-per-task=4",
                   "#SBATCH --mem=6G", "#SBATCH -t 10:00:00"]),
        ("lsf", ["#BSUB -q short", '#BSUB -P "genetics"', "#BSUB -n 4", "#BSUB -W 10:00"]),
        ("sge", ["#$ -q short", "#$ -P genetics", "#$ -l h_rt=10:00:00"]),
        ("pbs", ["#PBS -q short", "#PBS -A genetics", "#PBS -l select=1:ncpus=4:mem=6144MB",
                 "#PBS -l walltime=10:00:00"]),
    ],
)  # fmt: skip
def test_job_script(batch: Path, system: str, lines: list[str]) -> None:
    text = script(
        batch,
        system,
        jobqueue_option=(
            "job_extra_directives=--one",
            "job_extra_directives=--two",
            "job_script_prologue=module load python",
            "worker_extra_args=--resources",
            "worker_extra_args=x=1",
        ),
    )
    for line in lines:
        assert line in text.splitlines()
    mark = lines[0].split()[0]
    assert f"{mark} --one\n{mark} --two\n" in text
    assert "\nmodule load python\n" in text
    command = text.strip().splitlines()[-1]
    for part in (
        f"{sys.executable} -m distributed.cli.dask_worker tls://10.0.0.1:8786", "--nworkers 2",
        "--nthreads 2", "--memory-limit 3.00GiB", "--local-directory /scratch", "--resources x=1",
        # 10 hours less twice the margin of 5 minutes, which is the stagger.
        "--lifetime 35400s --lifetime-stagger 300s",
    ):  # fmt: skip
        assert part in command


def test_daskconfig_is_respected(batch: Path) -> None:
    import dask_jobqueue  # noqa: F401  brings its defaults

    install(batch, "slurm")
    options = ClusterOptions(jobqueue="slurm", workers=2)
    with dask.config.set({"jobqueue.slurm.cores": 6, "jobqueue.slurm.memory": "12GB"}):
        settings = queue_settings(options)
    assert (settings["cores"], settings["processes"], settings["memory"]) == (6, 6, "12GB")
    # Dask's own walltime, 30 minutes.
    assert settings["walltime"] == "00:30:00"
    assert settings["worker_extra_args"][:4] == ["--lifetime", "1620s", "--lifetime-stagger", "90s"]
    assert settings["scheduler_options"] == {"dashboard_address": "127.0.0.1:0"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workers": None}, "--workers"),
        ({"memory_limit": "auto"}, "--memory-limit 4GiB"),
        ({"walltime": "soon"}, "--walltime soon: expected"),
        ({"walltime": "00:00:30"}, "at least a minute"),
        ({"cores": 3, "threads_per_worker": 2}, "multiple of --threads-per-worker"),
        ({"jobqueue_option": ("interface",)}, "expected KEY=VALUE"),
        ({"jobqueue": "pbs"}, "no qsub here"),
        ({"jobqueue": "condor"}, "expected slurm, lsf, sge, pbs"),
        ({"scheduler": "tcp://127.0.0.1:1"}, "exclude each other"),
        ({"tls_ca": "ca.pem"}, "--tls-ca requires --scheduler"),
    ],
)
def test_refused(batch: Path, change: dict[str, object], message: str) -> None:
    install(batch, "slurm")
    options = {"jobqueue": "slurm", "workers": 2, "memory_limit": "1GiB"} | change
    with pytest.raises(InputError, match=re.escape(message)) as error:
        ClusterOptions(**options).check()  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_without_dask_jobqueue(batch: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    install(batch, "slurm")
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(InputError, match=r"pip install 'hlmm-dask\[hpc\]'"):
        ClusterOptions(jobqueue="slurm", workers=1, memory_limit="1GiB").check()


def jobs_of(batch: Path) -> list[str]:
    return (batch / "submitted").read_text().split()


@pytest.mark.slow
@pytest.mark.parametrize("system", list(SYSTEMS))
def test_a_run(
    study: Study, batch: Path, system: str, run_script: Callable[..., int],
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The whole way: jobs submitted, workers joined by TLS, probed, table written, jobs gone."""
    install(batch, system)
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    code = run_script(
        "scan", study.bed, study.pheno, study.out("out"), "--jobqueue", system, "--workers", 2,
        "--memory-limit", "1GiB", "--walltime", "01:00:00", "--local-directory", batch,
        "--block-size", 10, own_cluster=True,
    )  # fmt: skip
    err = capsys.readouterr().err
    assert code == 0, err
    assert "on 2 workers" in err or "on 1 worker" in err
    assert "Traceback" not in err
    assert len(read_models_table(study.out("out.models.gz"))) == len(study.variants)
    jobs = jobs_of(batch)
    assert len(jobs) == 2
    text = Path(jobs[0]).read_text()
    assert "dask_worker tls://" in text
    assert "--protocol tls://" in text
    # Temporary credentials lay beside the output, and are gone.
    key = Path(text.split("--tls-key ")[1].split()[0])
    assert key.parent.parent == study.folder
    assert not list(study.folder.glob(".hlmm-*"))
    assert len((batch / "cancelled").read_text().split()) == 2


@pytest.mark.slow
def test_jobs_that_end_are_replaced(
    tmp_path: Path, batch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch system kills a job; another one takes its place, also where it was the only one."""
    install(batch, "slurm")
    study = make_study(tmp_path, n=400, m=60)
    null = fit_null(study.bed, study.pheno)
    killed: list[str] = []

    def kill_job(event: Event) -> None:
        if isinstance(event, BlockDone) and not killed:
            killed.append((batch / "jobs").read_text().split()[0])
            os.killpg(int(killed[0]), signal.SIGKILL)

    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    # Dask waits so long until it takes a job for dead.
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "500ms"}):
        results = hlmm_dask.scan(
            study.bed, null, block_size=1, observers=[kill_job],
            cluster=ClusterOptions(
                jobqueue="slurm", workers=1, memory_limit="1GiB", shared_directory=str(tmp_path)
            ),
        )  # fmt: skip
    assert killed
    assert len(jobs_of(batch)) >= 2
    assert (results.status.values == Status.OK).any()


# What takes time is waiting, not work or imports: a busy machine is hardly slower. Dask runs a
# preload more than once.
SLOW = """
import time
from hlmm_dask.kernels.block import fit_packed
from hlmm_dask.scanning import graph
def fit_slowly(*arguments, **options):
    time.sleep(0.5)
    return fit_packed(*arguments, **options)
graph.fit_packed = fit_slowly
"""


@pytest.mark.slow
def test_walltimes_that_end(study: Study, batch: Path, run_script: Callable[..., int]) -> None:
    """Workers leave after seconds and others take their place, until the scan is done."""
    install(batch, "slurm")
    options: list[object] = ["--block-size", 1, "--range", 9, 33]
    assert run_script("scan", study.bed, study.pheno, study.out("whole"), *options) == 0
    slow = study.out("slow.py")
    slow.write_text(SLOW)
    for word in ("--lifetime", "5s", "--lifetime-stagger", "500ms", "--preload", slow):
        options += ["--jobqueue-option", f"worker_extra_args={word}"]
    done = run_scan(
        study.bed, study.pheno, study.out("out"), *options, "--jobqueue", "slurm", "--workers", 2,
        "--memory-limit", "1GiB", "--local-directory", batch, cwd=study.folder,
        # Dask waits so long until it takes a job for dead.
        env={"DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "500ms"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "failed" not in done.stderr
    used = {json.loads(content)["worker"] for _, content in markers(study.out("out.zarr")).values()}
    assert len(used) >= 3
    assert len(jobs_of(batch)) >= len(used)
    table = study.out("out.models.gz").read_bytes()
    assert table == study.out("whole.models.gz").read_bytes()
    (run,) = json.loads(study.out("out.run.json").read_text())["runs"]
    assert run["blocks"]["n_done"] == 24
    assert run["failed_blocks"] == []


def test_import_of_jobqueue_leaves_the_interrupt_alone(tmp_path: Path) -> None:
    code = (
        "import signal\n"
        "from hlmm_dask.errors import InputError\n"
        "from hlmm_dask.scanning.cluster import ClusterOptions\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "try:\n"
        "    ClusterOptions(jobqueue='slurm', workers=1, memory_limit='1GiB').check()\n"
        "except InputError as error:\n"
        "    print(error)\n"
        "assert signal.getsignal(signal.SIGINT) is before\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path,
        env=environment({"PATH": str(tmp_path)}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no sbatch here" in done.stdout


def test_jobs_that_are_refused(study: Study, batch: Path, run_script: Callable[..., int],
                               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    install(batch, "slurm")
    (batch / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n"
    )
    arguments = [study.bed, study.pheno, study.out("out"), "--jobqueue", "slurm", "--workers", 1,
                 "--memory-limit", "1GiB"]  # fmt: skip
    assert run_script("scan", *arguments, own_cluster=True) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("--jobqueue slurm: sbatch: error: invalid partition")
    assert not study.out("out.zarr").exists()


def test_credentials_of_a_killed_client_are_removed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hlmm_dask.durable import aside\n"
        "aside(Path(sys.argv[1]) / 'hlmm-tls', 'keys').mkdir()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    (old,) = tmp_path.iterdir()
    with _credentials(ClusterOptions(shared_directory=str(tmp_path))):
        (held,) = tmp_path.iterdir()
        assert held != old
        assert held.stat().st_mode & 0o077 == 0
        # A second client leaves what a living one holds.
        with _credentials(ClusterOptions(shared_directory=str(tmp_path))):
            assert held.is_dir()
    assert not list(tmp_path.iterdir())


def test_plan_for_jobs(
    study: Study, batch: Path, run_script: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory is that of a job's worker, not of this machine; nothing is submitted."""
    install(batch, "slurm")
    arguments = [study.bed, study.pheno, study.out("out"), "--jobqueue", "slurm", "--workers", 6]
    arguments += ["--memory-limit", "600MiB", "--cores", 2, "--dry-run"]
    assert run_script("scan", *arguments, own_cluster=True) == 0
    out = capsys.readouterr()
    plan = " ".join((out.out + out.err).split())
    assert "workers 6, 1 thread each" in plan
    assert "480.0 MiB of 600.0 MiB usable" in plan
    assert not (batch / "submitted").exists()


def test_workers_of_jobs_serve_http_on_loopback_alone(tmp_path: Path, batch: Path) -> None:
    install(batch, "slurm")
    settings = queue_settings(ClusterOptions(jobqueue="slurm", workers=1, memory_limit="1GiB"))
    with processes(tmp_path) as started:
        _, file = started.scheduler()
        # Port 0 and any host: as a job listens, whose scheduler is on another machine.
        worker = started.worker(file, "--host", "0.0.0.0", *settings["worker_extra_args"])
        with Client(address_in(file), set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
            (address,) = client.scheduler_info(n_workers=-1)["workers"]
            connections = psutil.Process(worker.pid).net_connections("inet")
    listening = {c.laddr.port: c.laddr.ip for c in connections if c.status == "LISTEN"}
    assert listening.pop(int(address.rpartition(":")[2])) == "0.0.0.0"
    assert set(listening.values()) == {"127.0.0.1"}
