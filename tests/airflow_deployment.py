"""A deployment of Airflow 3 of the tests' own: its four services, PostgreSQL, and MariaDB for ML Metadata."""

import base64
import contextlib
import getpass
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from pipeline.demo.airflow import AIRFLOW

SERVICES = ("api-server", "scheduler", "dag-processor", "triggerer")
ENDED = ("success", "failed")  # states of a run
CONNECTION = "htr_metadata"
_SYSTEM_PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
PASSWORD = "secret/1"  # has to be quoted in the address of a connection


def missing() -> list[str]:
    """Names what this machine lacks: Airflow 3, PostgreSQL, MariaDB."""
    airflow = AIRFLOW.exists() and next(AIRFLOW.parents[1].glob("lib/python*/site-packages/apache_airflow-3*"), None)
    found = {
        "Airflow 3": airflow,
        "PostgreSQL": _postgres("initdb"),
        "MariaDB": shutil.which("mariadb-install-db") and shutil.which("mariadbd", path=_SYSTEM_PATH),
    }
    return [name for name, there in found.items() if not there]


def why_skipped(names: list[str]) -> str:
    """Reason of the skip where something is missing; not one of those that CI allows."""
    return f"{', '.join(names)} not installed: `make airflow-test` tries to, as root"


def _postgres(program: str) -> str | None:
    """Path of a program of PostgreSQL; Debian keeps those of a server off the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    return shutil.which(program, path=os.pathsep.join([*map(str, reversed(folders)), os.environ["PATH"]]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 600) -> Any:
    """Returns what `condition` returns as soon as that is true.

    Raises:
        TimeoutError: It never was.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.5)
    raise TimeoutError(f"waited {seconds} s in vain for {what}")


class Processes:
    """Programs that run until the block ends, each with a log in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._running: dict[str, subprocess.Popen] = {}

    def start(self, name: str, command: list[Any], **options: Any) -> None:
        """Starts one; `options` are those of `subprocess.Popen`."""
        with open(self.folder / f"{name}.log", "ab") as log:
            self._running[name] = subprocess.Popen(
                [str(word) for word in command], stdout=log, stderr=subprocess.STDOUT, start_new_session=True, **options
            )

    def check(self) -> None:
        """Fails if one has ended, with the end of its log."""
        for name, process in self._running.items():
            if process.poll() is not None:
                end = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{name} has ended with code {process.returncode}:\n{end}")

    def stop(self) -> None:
        """Ends them, the last one first, with everything that they have started."""
        for process in reversed(self._running.values()):
            with contextlib.suppress(psutil.NoSuchProcess):
                # Listed before, since orphans are nobody's children: tasks are in process groups of their own.
                family = psutil.Process(process.pid).children(recursive=True)
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                for member in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        member.kill()
            process.kill()
            process.wait()


def _start_databases(folder: Path, processes: Processes) -> tuple[int, int]:
    """Starts PostgreSQL with the database `airflow` and MariaDB with the database `htr`; returns their ports."""
    # Neither serves as root.
    user: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    name = user.get("user", getpass.getuser())
    folder.chmod(0o755)
    data = folder / "databases"
    data.mkdir()
    shutil.chown(data, name)
    once: dict[str, Any] = {**user, "cwd": data, "check": True, "capture_output": True, "text": True}
    ports = _free_port(), _free_port()

    server = shutil.which("mariadbd", path=_SYSTEM_PATH)
    options = ["--no-defaults", f"--datadir={data}/mariadb"]
    subprocess.run(
        ["mariadb-install-db", *options, "--auth-root-authentication-method=normal", "--skip-test-db"], **once
    )
    statements = data / "start.sql"
    statements.write_text(
        "CREATE DATABASE htr;\n"
        f"CREATE USER htr@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
        "GRANT ALL ON htr.* TO htr@'127.0.0.1';\n"
    )
    options += [f"--socket={data}/mariadb.sock", f"--port={ports[1]}", "--bind-address=127.0.0.1"]
    processes.start("mariadb", [server, *options, f"--init-file={statements}"], cwd=data, **user)

    subprocess.run([_postgres("initdb"), "-D", data / "postgres", "-U", "airflow", "-A", "trust", "-E", "UTF8"], **once)
    command = [_postgres("postgres"), "-D", data / "postgres", "-p", ports[0], "-h", "127.0.0.1", "-k", data]
    processes.start("postgres", command, cwd=data, **user)
    for port in ports:
        wait_for("the databases", lambda port=port: _answers(port, processes))
    create = [_postgres("createdb"), "-h", "127.0.0.1", "-p", str(ports[0]), "-U", "airflow", "airflow"]
    wait_for("PostgreSQL", lambda: subprocess.run(create, capture_output=True).returncode == 0)
    return ports


def _answers(port: int, processes: Processes) -> bool:
    processes.check()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Deployment:
    """A running Airflow, driven by its REST API."""

    def __init__(self, folder: Path, environment: dict[str, str], address: str, processes: Processes):
        self.folder = folder
        self.dags = folder / "dags"
        self._environment = environment
        self._address = address
        self._processes = processes
        self._token = ""

    def airflow(self, *arguments: str) -> None:
        """Runs the command `airflow`."""
        done = subprocess.run([AIRFLOW, *arguments], env=self._environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def log_in(self, user: str, password: str) -> None:
        """Gets a token for the calls that follow."""
        body = {"username": user, "password": password}
        self._token = self.call("POST", "/auth/token", body)["access_token"]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Calls the REST API; returns the JSON of its answer, or None if there is no such thing (yet)."""
        self._processes.check()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise RuntimeError(f"{method} {path}: {error.code} {error.read().decode()}") from error

    def healthy(self) -> bool:
        """Whether the services have reported in the last seconds."""
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            health = self.call("GET", "/api/v2/monitor/health")
            names = ("metadatabase", "scheduler", "dag_processor", "triggerer")
            return all(health[name]["status"] == "healthy" for name in names)
        return False

    def pause(self, dag: str, paused: bool) -> None:
        """Pauses a DAG, or lets it run."""
        self.call("PATCH", f"/api/v2/dags/{dag}", {"is_paused": paused})

    def trigger(self, dag: str) -> str:
        """Triggers a run; returns its id."""
        return self.call("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"]

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """The runs of a DAG, the oldest one first."""
        return self.call("GET", f"/api/v2/dags/{dag}/dagRuns?order_by=run_after")["dag_runs"]

    def state(self, dag: str, run: str) -> str:
        """State of a run: "queued", "running", "success" or "failed"."""
        return self.call("GET", f"/api/v2/dags/{dag}/dagRuns/{run}")["state"]

    def tasks(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        """The tasks of a run by their names; see TaskInstanceResponse in Airflow's API."""
        found = self.call("GET", f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in found}

    def tries(self, dag: str, run: str, task: str) -> list[dict[str, Any]]:
        """All tries of a task, the first one first."""
        return self.call("GET", f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/tries")["task_instances"]

    def log(self, dag: str, run: str, task: str, number: int = 1) -> str:
        """What a try of a task has logged."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/{number}?full_content=true"
        return "\n".join(str(line["event"]) for line in self.call("GET", path)["content"])

    def wait_for_task(self, dag: str, run: str, task: str, state: str) -> None:
        """Waits until a task is in a state; fails if the run has ended without that."""

        def there() -> bool:
            assert self.state(dag, run) not in ENDED, self.tasks(dag, run)
            return self.tasks(dag, run)[task]["state"] == state

        wait_for(f"{task} of {dag} to be {state}", there, seconds=1800)

    def finish(self, dag: str, run: str) -> None:
        """Waits until a run has ended, well or not."""
        wait_for(f"the end of {dag}", lambda: self.state(dag, run) in ENDED, seconds=3600)


@contextlib.contextmanager
def deploy() -> Iterator[Deployment]:
    """Yields a running deployment with the connection of ML Metadata, below a temporary folder that is deleted."""
    folder = Path(tempfile.mkdtemp(prefix="htr-airflow-"))
    processes = Processes(folder)
    try:
        postgres, mariadb = _start_databases(folder, processes)
        port, log_port, trigger_port = _free_port(), _free_port(), _free_port()
        address, password = f"http://127.0.0.1:{port}", secrets.token_urlsafe()
        (folder / "passwords.json").write_text(json.dumps({"admin": password}))
        (folder / "dags").mkdir()
        settings = {
            "DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://airflow@127.0.0.1:{postgres}/airflow",
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": "4",
            "CORE__DAGS_FOLDER": str(folder / "dags"),
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
            "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
            "CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "API__SECRET_KEY": secrets.token_urlsafe(),
            "API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),
            "LOGGING__WORKER_LOG_SERVER_PORT": str(log_port),
            "LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_port),
            # On a loaded machine the API answers late, and every task that gives up costs a try.
            "WORKERS__EXECUTION_API_TIMEOUT": "120",
            "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        }
        environment = {**os.environ, "AIRFLOW_HOME": str(folder / "home")}
        environment |= {f"AIRFLOW__{name}": value for name, value in settings.items()}
        deployment = Deployment(folder, environment, address, processes)
        deployment.airflow("db", "migrate")
        uri = f"mysql://htr:{PASSWORD.replace('/', '%2F')}@127.0.0.1:{mariadb}/htr"
        deployment.airflow("connections", "add", CONNECTION, "--conn-uri", uri)
        for service in SERVICES:
            options = ["--host", "127.0.0.1", "--port", port] if service == "api-server" else []
            processes.start(service, [AIRFLOW, service, *options], env=environment)
        wait_for("Airflow's services", deployment.healthy)
        deployment.log_in("admin", password)
        yield deployment
    finally:
        processes.stop()
        shutil.rmtree(folder)
