"""What Prometheus needs to watch the servers: where it asks, alert rules, and what they are written with."""

from __future__ import annotations

from typing import Any

from htr_client.model_facts import LINE_FINDER
from serving.configuration.settings import Settings
from serving.server import PROMETHEUS_PATH

REQUESTS = ":tensorflow:serving:request_count"
LATENCY = ":tensorflow:serving:request_latency"
QUEUEING = ":tensorflow:serving:batching_session:queuing_latency"
LOADS = ":tensorflow:cc:saved_model:load_attempt_count"
WARM_UPS = ":tensorflow:serving:model_warmup_latency"
CLIENT_CALLS = "htr_client_calls_total"
# TensorFlow Serving counts every request over REST, and those that ask for metadata under no API: among them are the
# probes, of which there are more than predictions where traffic is low.
PREDICTIONS = 'API!=""'
# gRPC codes for which the caller is to blame, and those of a full server.
CALLERS_FAULT, FULL = "OK|INVALID_ARGUMENT|CANCELLED", "UNAVAILABLE|RESOURCE_EXHAUSTED"
# What a client is told that finds all threads busy, which no server counts. UNAVAILABLE may be a server that is down.
NO_THREAD = "RESOURCE_EXHAUSTED"
NOT_FOUND = "NOT_FOUND"
# TensorFlow Serving does not export its memory, so its container is measured: by cAdvisor beside Docker, whose labels
# are those of compose, or by Kubernetes' kubelet.
MEMORY = " or ".join((
    'process_resident_memory_bytes{job="htr"}',
    'container_memory_rss{container_label_com_docker_compose_service=~"server-.+"}',
    'container_memory_rss{container="server", pod=~"htr-serving-.+"}',
))  # fmt: skip
_JOB = "htr"
# One set of servers, such as production beside staging; a single machine has no such label, which is one set, too.
_APART = "namespace"
_RECORDED_MEMORY = "htr:memory_bytes"
CONTAINERS_PORT = 8080


def share(codes: str, selector: str, window: str, operator: str = "=~", clients: bool = False, by: str = "") -> str:
    """PromQL for the share of predictions that end with some of the gRPC codes.

    Args:
        codes: Regular expression of codes; those of servers are others than OK.
        selector: Label matcher of the model.
        window: Range of the rates.
        operator: `=~`, or `!~` for all other codes.
        clients: Whether to count the calls of clients, in place of the requests of servers.
        by: Labels to tell apart, if any.
    """
    counter, label = (CLIENT_CALLS, "code") if clients else (REQUESTS, "status")
    some = f'rate({counter}{{{selector}, {label}{operator}"{codes}"}}[{window}])'
    every = f"rate({counter}{{{selector}}}[{window}])"
    if not clients:  # a server that answers none has no such series, hence not a sum of two
        every = f'{answered(selector, window)} or rate({counter}{{{selector}, {label}!="OK"}}[{window}])'
    total = f"sum by ({by}) " if by else "sum"
    return f"{total}({some}) / {total}({every})"


def answered(selector: str, window: str) -> str:
    """PromQL for the rates of predictions that servers answered, without their probes.

    Args:
        selector: Label matcher of the model; "" for all models.
        window: Range of the rates.
    """
    return f"rate({LATENCY}_count{{{', '.join(filter(None, [selector, PREDICTIONS]))}}}[{window}])"


def quantile(q: float, metric: str, window: str, selector: str = "", by: str = "") -> str:
    """PromQL for a quantile of a histogram.

    Args:
        q: Quantile, 0 to 1.
        metric: Name of the histogram.
        window: Range of the rates.
        selector: Label matchers, if any.
        by: Other labels to tell apart, if any.
    """
    chosen = f"{metric}_bucket{{{selector}}}" if selector else f"{metric}_bucket"
    return f"histogram_quantile({q:g}, sum by (le{', ' + by if by else ''}) (rate({chosen}[{window}])))"


def prometheus(port: int, settings: Settings) -> dict[str, Any]:
    """Prometheus' configuration.

    Args:
        port: REST port of the servers, which has the metrics.
        settings: Addresses of Alertmanagers and of clients.
    """
    notified = {"alerting": {"alertmanagers": [{"static_configs": [{"targets": list(settings.alertmanagers)}]}]}}
    clients = {"job_name": "clients", "static_configs": [{"targets": list(settings.clients)}]}
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["/etc/prometheus/alerts.yml"],
        **(notified if settings.alertmanagers else {}),
        "scrape_configs": [
            {
                "job_name": _JOB,
                "metrics_path": PROMETHEUS_PATH,
                "static_configs": [{"targets": [f"server:{port}"]}],
            },
            {
                "job_name": "containers",
                "static_configs": [{"targets": [f"containers:{CONTAINERS_PORT}"]}],
                "metric_relabel_configs": [
                    {"source_labels": ["__name__"], "regex": "container_memory_rss", "action": "keep"}
                ],
            },
            *([clients] if settings.clients else []),
        ],
    }


def kubernetes(port: int) -> dict[str, Any]:
    """Scrape configuration for the Prometheus of a cluster: the job whose name the alert rules have.

    Args:
        port: REST port of the servers, which has the metrics.
    """
    kept = {
        # An evicted pod stays in the list with its old address long after another has taken its place.
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": "htr-serving",
        "__meta_kubernetes_pod_container_port_number": str(port),
    }
    return {
        "scrape_configs": [
            {
                "job_name": _JOB,
                "metrics_path": PROMETHEUS_PATH,
                "kubernetes_sd_configs": [{"role": "pod"}],
                "relabel_configs": [
                    *({"source_labels": [label], "regex": value, "action": "keep"} for label, value in kept.items()),
                    *(
                        {"source_labels": [f"__meta_kubernetes_{label}"], "target_label": name}
                        for label, name in (("namespace", _APART), ("pod_name", "pod"))
                    ),
                ],
            }
        ]
    }


def rules(settings: Settings) -> dict[str, Any]:
    """Alert rules, and the recording rule that one of them needs.

    Args:
        settings: Models and bounds.
    """
    bounds = settings.alerts
    recognisers = "|".join([settings.model, *settings.further_models])
    models = f"{recognisers}|{LINE_FINDER}"
    up = f'up{{job="{_JOB}"}}'

    def risen(counter: str) -> str:
        # A counter that begins with its first failure has no increase yet. That it is new can only be said where the
        # server was seen before, and not after a gap in what Prometheus has.
        new = f"({counter} unless {counter} offset 15m) and on (job, instance, pod) {up} offset 15m == 1"
        return f"increase({counter}[15m]) > 0 or {new}"

    def not_warmed_up() -> str:
        # TensorFlow Serving 2.16.1 counts no warm-up request that fails, but those versions that have answered all of
        # theirs. Ours have some; of other models nobody knows.
        loaded = f'{LOADS}{{status="success", model_path=~".+/({models})/[0-9]+"}}'
        failed, done = (f'{WARM_UPS}_count{{status{equal}"OK"}}' for equal in ("!=", "="))
        return (
            f"{risen(failed)} or {loaded} offset 5m unless {loaded} offset 20m "
            f"unless on (job, instance, pod, model_path) present_over_time({done}[20m]) "
            f"and on (job, instance, pod) {up} offset 20m == 1"
        )

    def grown(since: str) -> str:
        # The least of six hours: while one version takes the place of another, both are in memory.
        now, then = (f"min_over_time({_RECORDED_MEMORY}[6h]{offset})" for offset in ("", f" offset {since}"))
        loads = f'{LOADS}{{status="success"}}'
        # Of one server in each set: the sum would rise with each pod that the autoscaler adds, and fall with each that
        # it takes.
        pushed = " > ".join(
            f"max by ({_APART}) (sum by ({_APART}, job, instance, pod) ({loads}{offset}))"
            for offset in ("", f" offset {since}")
        )
        return f"({now} / {then} > {bounds.memory_growth:g} and on ({_APART}) {pushed})"

    def too_many(codes: str, bound: float, operator: str = "=~", clients: bool = False) -> str:
        counter, model, code = (CLIENT_CALLS, "model", "code") if clients else (REQUESTS, "model_name", "status")
        apart = f"{_APART}, {model}"
        shares = share(codes, f'{model}=~"{models}"', "5m", operator, clients, by=apart)
        # Clients that look for pages ask for a line finder also where none is served, and are told so.
        lines = f'{counter}{{{model}="{LINE_FINDER}"}}'
        served = f'sum by ({apart}) (increase({counter}{{{model}="{LINE_FINDER}", {code}!="{NOT_FOUND}"}}[1d])) > 0'
        return f"{shares} > {bound} unless on ({apart}) ({lines} unless on ({apart}) {served})"

    # Their unit is the microsecond. A page takes a line finder longer than the bound.
    recognised = f'model_name=~"{recognisers}", {PREDICTIONS}'
    latency = f"{quantile(0.95, LATENCY, '5m', recognised, f'{_APART}, model_name')} / 1000"
    bound = bounds.rejected_share
    overloaded = f"{too_many(FULL, bound)} or {too_many(NO_THREAD, bound, clients=True)}"
    queueing = f"{quantile(0.95, QUEUEING, '5m', by=_APART)} / 1000"
    seen = f'present_over_time(up{{job="{_JOB}", {_APART}!=""}}[1d])'
    alerts = [
        (
            # Without any server to scrape, as where Kubernetes has no pod, there is no `up`, and no other rule fires.
            # Which namespaces should have servers is told by those that had some within a day.
            "HtrServerDown",
            f"group by ({_APART}) ({seen}) unless on ({_APART}) {up} == 1 or absent({up} == 1) unless on () {seen}",
            "1m", "page",
            "No model server{{ with $labels.namespace }} of {{ . }}{{ end }} answers Prometheus, or there is none to "
            "ask.",
        ),
        (
            # A new pod does not answer until it has loaded the models, which takes minutes.
            "HtrReplicaDown", f"{up} == 0", "10m", "ticket",
            "{{ $labels.instance }} does not answer Prometheus.",
        ),
        (
            "HtrRequestsFail", too_many(f"{CALLERS_FAULT}|{FULL}", bounds.failed_share, "!~"), "5m", "page",
            "{{ $value | humanizePercentage }} of the requests to {{ $labels.model_name }} fail through no fault of "
            "the caller.",
        ),
        (
            # Servers do not see whom an expired certificate, a name or a network policy keeps away.
            "HtrCallsFail", too_many(f"|{CALLERS_FAULT}|{NO_THREAD}", bounds.failed_share, "!~", clients=True), "5m",
            "page", "{{ $value | humanizePercentage }} of the clients' calls of {{ $labels.model }} fail: look at the "
            "servers, and if they are well, at certificates, names and network between.",
        ),
        (
            "HtrOverloaded", overloaded, "5m", "page",
            "{{ $value | humanizePercentage }} of the requests are refused: the batch queue is full, or, as clients "
            "say, all threads are busy.",
        ),
        (
            "HtrSlow", f"{latency} > {bounds.p95_latency_ms:g}", "10m", "ticket",
            "One request in twenty to {{ $labels.model_name }} takes more than {{ $value | humanize }} ms in the "
            "server.",
        ),
        (
            "HtrQueueing", f"{queueing} > {bounds.p95_queueing_ms:g}", "10m", "ticket",
            "One request in twenty waits more than {{ $value | humanize }} ms for its batch.",
        ),
        (
            "HtrLoadFails", risen(f'{LOADS}{{status!="success"}}'), "0m", "ticket",
            "{{ $labels.model_path }} does not load; what was served before still is.",
        ),
        (
            "HtrWarmUpFails", not_warmed_up(), "0m", "ticket",
            "{{ $labels.model_path }} does not answer its warm-up requests and is not served.",
        ),
        (
            # A day for pushes of every hour, a week for those of every night.
            "HtrMemoryGrows", f"{grown('1d')} or {grown('1w')}", "1h", "ticket",
            "The server takes {{ $value | humanize }} times the memory of a day or a week before, and versions were "
            "pushed since.",
        ),
    ]  # fmt: skip
    return {
        "groups": [
            {
                "name": "htr",
                "rules": [
                    {"record": _RECORDED_MEMORY, "expr": MEMORY},
                    *(
                        {
                            "alert": name,
                            "expr": expression,
                            "for": wait,
                            "labels": {"severity": severity},
                            "annotations": {"summary": summary},
                        }
                        for name, expression, wait, severity, summary in alerts
                    ),
                ],
            }
        ]
    }
