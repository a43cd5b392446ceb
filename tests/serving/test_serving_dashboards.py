"""Grafana's dashboards name what is exported, and show it: every query of theirs is answered by a real Prometheus."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from typing import ClassVar

import grpc
import numpy as np
import pytest
import serving_toy as toy
import yaml
from serving_client import Client
from tensorflow_metadata.proto.v0 import anomalies_pb2

from components.report import prometheus
from components.report.summary import RunSummary
from components.tools.drift import comparison
from components.tools.drift.profiles import Profile
from htr_client import ClientMetrics, HtrClient
from serving.configuration import dashboards
from serving.configuration.settings import FOLDER, Settings
from serving.metrics import Metrics
from serving.server import PROMETHEUS_PATH, EmbeddedServer

pytestmark = pytest.mark.either_stack

DASHBOARDS = {name: json.loads((FOLDER / f"dashboard.{name}.json").read_text()) for name in ("serving", "runs")}
OF_OTHERS = {"container_memory_rss"}  # exported by cAdvisor or the kubelet
# Of TensorFlow Serving 2.16.1, by its sources: what it and TensorFlow's loader export there.
REAL = {
    ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency", ":tensorflow:serving:runtime_latency",
    ":tensorflow:serving:model_warmup_latency", ":tensorflow:serving:batching_session:queuing_latency",
    ":tensorflow:serving:batching_session:wrapped_run_count", ":tensorflow:cc:saved_model:load_attempt_count",
}  # fmt: skip
PROMQL = {"sum", "max", "rate", "histogram_quantile", "or", "vector", "label_values", "model_name", "model"}


def queries(name: str) -> list[tuple[str, str]]:
    """Panel and query."""
    return [
        (panel["title"], target["expr"]) for panel in DASHBOARDS[name]["panels"] for target in panel.get("targets", [])
    ]


def named(text: str) -> set[str]:
    """Metrics that a query names."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)", "", text)
    return set(re.findall(r"[a-zA-Z_:][\w:]*", bare)) - PROMQL


def exported(pages: list[str]) -> dict[str, set[str]]:
    """Metrics that pages have, with the names of their series."""
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    found = re.findall(r"# TYPE (\S+) (\w+)", "".join(pages))
    return {name: {name + part for part in parts.get(kind, ("",))} for name, kind in found}


def run_summary(tmp_path, version: int, cer: float) -> RunSummary:
    folder = tmp_path / f"report{version}"
    (folder / "Split-train").mkdir(parents=True)
    metrics = {"cer": cer, "cer_low": cer - 0.01, "cer_high": cer + 0.01, "wer": 0.2}
    (folder / "metrics.json").write_text(json.dumps({"metrics": metrics, "blessed": True}))
    anomalies = anomalies_pb2.Anomalies()
    info = anomalies.drift_skew_info.add()
    info.path.step.append("sharpness")
    info.drift_measurements.add(value=0.3 * version, threshold=0.2)
    (folder / "Split-train" / "SchemaDiff.pb").write_bytes(anomalies.SerializeToString())
    counts = {"accepted": {"train": 80, "eval": 20}, "rejected": {"missing_file": version}, "notes": []}
    return RunSummary(
        f"2026-05-0{version}T10:00:00.5", [], 60.5, counts, str(folder), True, version, anomalies_folder=str(folder)
    )


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> list[str]:
    """The two pages for the textfile collector."""
    folder = tmp_path_factory.mktemp("figures")
    runs = prometheus.runs_page([run_summary(folder, 2, 0.04), run_summary(folder, 1, 0.05)], "htr")
    rng = np.random.default_rng(0)
    before, after = (
        Profile(name, 100, 100, {"sharpness": rng.normal(mean, 1, 100)}, Counter("ab"), frozenset("ab"))
        for name, mean in (("names", 0), ("requests", 3))
    )
    return [runs, comparison.compare(before, after, {}).as_prometheus()]


def test_dashboards_name_what_is_exported_and_show_all_of_it(figures):
    sources = {"serving": [Metrics().page(), ClientMetrics().page()], "runs": figures}
    for name, pages in sources.items():
        used = set().union(*(named(query) for _, query in queries(name)))
        for variable in DASHBOARDS[name]["templating"]["list"]:
            used |= named(variable.get("definition", ""))
        there = exported(pages)
        assert used - OF_OTHERS <= set().union(*there.values())
        assert [metric for metric, series in there.items() if not series & used] == []


def test_what_only_the_embedded_server_exports_is_marked():
    """A query of a metric that the real one lacks is empty in production for ever."""

    def there(text: str) -> bool:
        found = re.findall(r":tensorflow:[\w:]+", text)
        return all(name in REAL or re.sub(r"_(bucket|sum|count)$", "", name) in REAL for name in found)

    assert there((FOLDER / "alerts.yml").read_text())
    for panel in DASHBOARDS["serving"]["panels"]:
        for target in panel.get("targets", []):
            assert there(target["expr"]) or "(embedded server)" in target["legendFormat"], panel["title"]


def test_lines_are_the_bounds_of_the_alerts():
    bounds = {"failed_share": 0.02, "rejected_share": 0.03, "p95_latency_ms": 40.0, "p95_queueing_ms": 50.0}
    chosen = Settings.read()
    changed = chosen.model_copy(update={"alerts": chosen.alerts.model_copy(update=bounds)})
    lines = {}
    for panel in json.loads(dashboards.render(changed)["serving"])["panels"]:
        for step in panel.get("fieldConfig", {}).get("defaults", {}).get("thresholds", {}).get("steps", [])[1:]:
            lines[panel["title"]] = step["value"]
    assert lines == {
        "Share of requests that fail": 0.02,
        "Share of requests that are refused": 0.03,
        "Latency in the server": 40.0,
        "Waiting for the batch": 50.0,
    }


def test_confidence_of_lines_is_drawn_on_a_logarithmic_axis():
    (panel,) = [one for one in DASHBOARDS["serving"]["panels"] if one["title"] == "Confidence by version"]
    found = panel["fieldConfig"]["defaults"]
    assert found["custom"]["scaleDistribution"]["type"] == "log" and "min" not in found


def test_figures_of_runs(figures):
    lines, run = figures[0].splitlines(), 'model="htr",run="2026-05-02T10:00:00"'
    for line in (
        f'htr_run_info{{{run},outcome="blessed",version="2"}} 1', f"htr_run_cer{{{run}}} 0.04",
        f"htr_run_seconds{{{run}}} 60.5", f'htr_run_images{{{run},split="eval"}} 20',
        f'htr_run_rejected_rows{{{run},reason="missing_file"}} 2', f'htr_run_drift{{{run},measure="sharpness"}} 0.6',
        f'htr_run_drift_allowed{{{run},measure="sharpness"}} 0.2',
    ):  # fmt: skip
        assert line in lines


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboards_can_be_imported(name):
    dashboard = DASHBOARDS[name]
    assert dashboard["id"] is None and dashboard["schemaVersion"] == 39 and len(dashboard["uid"]) <= 40
    source, *others = dashboard["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    used = {"type": "prometheus", "uid": f"${{{source['name']}}}"}
    for part in [
        *others,
        *(p for p in panels if p["type"] != "row"),
        *(t for p in panels for t in p.get("targets", [])),
    ]:
        assert part["datasource"] == used
    variables = {variable["name"] for variable in others} | {"__rate_interval"}
    assert {found for _, query in queries(name) for found in re.findall(r"\$(\w+)", query)} <= variables
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def test_requests_in_a_batch_are_those_that_were_in_one(tmp_path):
    """Neither what a full server refused, nor its probes, nor the batches of another model change it."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: package prometheus)")
    (query,) = [
        target["expr"]
        for panel in DASHBOARDS["serving"]["panels"]
        for target in panel.get("targets", [])
        if "requests in a batch" in target["legendFormat"]
    ]
    count, batches = ":tensorflow:serving:request_count", ":tensorflow:serving:batching_session:wrapped_run_count"
    latency = ":tensorflow:serving:request_latency_count"
    lines = {
        f'{count}{{model_name="htr",status="OK"}}': "0+600x30",
        f'{count}{{model_name="htr",status="UNAVAILABLE"}}': "0+900x30",
        f'{latency}{{model_name="htr",API="Predict",entrypoint="GRPC"}}': "0+440x30",
        f'{latency}{{model_name="htr",API="predict",entrypoint="REST"}}': "0+40x30",
        f'{latency}{{model_name="htr",entrypoint="REST"}}': "0+120x30",
        f'{latency}{{model_name="htr-lines",API="Predict",entrypoint="GRPC"}}': "0+240x30",
        f"{batches}{{}}": "0+60x30",
    }
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in lines.items()],
        "promql_expr_test": [
            {
                "expr": query.replace("$__rate_interval", "5m").replace("$model", "htr"),
                "eval_time": "20m",
                "exp_samples": [{"labels": "{}", "value": 12}],
            }
        ],
    }
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [case]}))
    done = subprocess.run([program, "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class Pages(http.server.BaseHTTPRequestHandler):
    """What a client's service and a node exporter would serve."""

    pages: ClassVar[dict[str, str]] = {}
    metrics = ClientMetrics()

    def do_GET(self):
        text = self.metrics.page() if self.path == "/client" else self.pages[self.path]
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def ask(tmp_path_factory, base, image, figures):
    """Asks a Prometheus that scrapes an embedded server and a client, which are busy meanwhile."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian: package prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "batching.config").write_text("max_batch_size { value: 4 }\nbatch_timeout_micros { value: 1000 }\n")
    (folder / "monitoring.config").write_text(f'prometheus_config {{ enable: true path: "{PROMETHEUS_PATH}" }}\n')
    Pages.pages = {"/figures": "".join(figures)}
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    server = EmbeddedServer(
        model_name="htr", model_base_path=str(base), port=0, rest_api_port=-1, enable_batching=True,
        batching_parameters_file=str(folder / "batching.config"),
        monitoring_config_file=str(folder / "monitoring.config"), tensorflow_session_parallelism=1,
    )  # fmt: skip
    stop = threading.Event()
    with (
        server as running,
        HtrClient(running.address, metrics=Pages.metrics) as client,
        Client(running.address) as bare,
    ):

        def work():
            blank = np.full((32, 128), 255, np.uint8)
            while not stop.is_set():
                for each in (image, blank):
                    client.transcribe(each)
                list(client.transcribe_many([b"rubbish"]))
                with pytest.raises(grpc.RpcError):
                    bare.predict(toy.predict_request({"image_bytes": [image]}, "nothing of this name"))
                stop.wait(0.05)

        worker = threading.Thread(target=work)
        worker.start()
        jobs = [("htr", running.rest_port, PROMETHEUS_PATH)]
        jobs += [(name, web.server_port, f"/{name}") for name in ("client", "figures")]
        scrapes = [
            {"job_name": job, "metrics_path": path, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
            for job, port, path in jobs
        ]
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": scrapes}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        arguments = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                     f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen([program, *arguments], stdout=log, stderr=log)

        def answer(query: str) -> list:
            url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(query)}"
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)["data"]["result"]

        try:
            yield answer
        finally:
            stop.set()
            worker.join()
            process.terminate()
            process.wait()
            web.shutdown()


@pytest.mark.slow
def test_every_query_has_an_answer(ask):
    empty = [pair for name in DASHBOARDS for pair in queries(name)]
    until = time.monotonic() + 60
    while empty and time.monotonic() < until:
        time.sleep(1)
        try:
            empty = [
                (panel, query)
                for panel, query in empty
                if not ask(query.replace("$__rate_interval", "15s").replace("$model", "htr"))
            ]
        except OSError as error:  # not up yet; a query that is wrong is a 400
            if isinstance(error, urllib.error.HTTPError) and error.code == 400:
                raise
    assert not empty
