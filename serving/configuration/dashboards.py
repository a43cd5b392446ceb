"""Grafana's dashboards: one for servers and clients, one for runs and drift.

They are in Grafana's classic JSON model (schema version 39, Grafana 10.4), which later versions import as well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from serving.configuration.monitoring import (
    CALLERS_FAULT,
    CLIENT_CALLS,
    FULL,
    LATENCY,
    LOADS,
    MEMORY,
    NO_THREAD,
    PREDICTIONS,
    QUEUEING,
    REQUESTS,
    WARM_UPS,
    answered,
    quantile,
    share,
)
from serving.configuration.settings import Settings

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WINDOW = "$__rate_interval"
_MODEL = 'model_name="$model"'
_PREDICTIONS = f"{_MODEL}, {PREDICTIONS}"
_CLIENT = 'model="$model"'
_COLUMNS, _WIDTH, _HEIGHT = 24, 8, 8  # Grafana's grid, and a panel's place in it
_RED, _GREEN = "red", "green"
# A query and the legend of its series.
Query = tuple[str, str]


def render(settings: Settings) -> dict[str, str]:
    """The dashboards.

    Args:
        settings: Model, and the bounds that panels show as lines.

    Returns:
        JSON by name.
    """
    served = _model(settings, f"label_values({REQUESTS}, model_name)")
    trained = _model(settings, "label_values(htr_run_info, model)")
    serving = _dashboard(f"{settings.model}-serving", "HTR: servers and clients", _serving(settings), [served])
    runs = _dashboard(f"{settings.model}-runs", "HTR: runs and drift", _runs(), [trained])
    return {name: json.dumps(found, indent=1) + "\n" for name, found in (("serving", serving), ("runs", runs))}


def _model(settings: Settings, values: str) -> dict[str, Any]:
    """The variable with which a dashboard shows one model of those that a query names."""
    return {
        "type": "query",
        "name": "model",
        "label": "Model",
        "datasource": _SOURCE,
        "definition": values,
        "query": {"query": values, "refId": "model"},
        "current": {"text": settings.model, "value": settings.model},
        "refresh": 2,
        "sort": 1,
    }


def _serving(settings: Settings) -> list[dict[str, Any]]:
    bounds = settings.alerts

    def quantiles(metric: str, selector: str, factor: str = "") -> list[Query]:
        return [(f"{quantile(q, metric, _WINDOW, selector)}{factor}", f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)]

    def mean(metric: str, selector: str = "", by: str = "") -> str:
        braces = f"{{{selector}}}" if selector else ""
        total, count = (f"sum{by}(rate({metric}_{part}{braces}[{_WINDOW}]))" for part in ("sum", "count"))
        return f"{total} / {count}"

    batches = ":tensorflow:serving:batching_session:wrapped_run_count"
    other = f'{REQUESTS}{{{_MODEL}, status!="OK"}}'
    zero = " or vector(0)"  # a status that never occurred has no series
    millis = " / 1000"  # TensorFlow Serving's unit is the microsecond
    return [
        _row("Servers"),
        _chart(
            "Requests by status", "reqps",
            [(f"sum({answered(_MODEL, _WINDOW)})", "OK"),
             (f"sum by (status) (rate({other}[{_WINDOW}]))", "{{status}}")],
            "Without the probes that are answered, which TensorFlow Serving counts as requests.",
        ),
        _chart(
            "Share of requests that fail", "percentunit",
            [(share(f"{CALLERS_FAULT}|{FULL}", _MODEL, _WINDOW, "!~") + zero, "fail")],
            "Through no fault of the caller; without those that a full server refuses.",
            limit=bounds.failed_share,
        ),
        _chart(
            "Share of requests that are refused", "percentunit",
            [(share(FULL, _MODEL, _WINDOW) + zero, "counted by the servers"),
             (share(NO_THREAD, _CLIENT, _WINDOW, clients=True) + zero, "told by the clients: no thread was free")],
            "By a full server. It counts those that find its batch queue full, and not those that find no thread.",
            limit=bounds.rejected_share,
        ),
        _chart("Latency in the server", "ms", quantiles(LATENCY, _PREDICTIONS, millis), limit=bounds.p95_latency_ms),
        _chart(
            "Where the time goes, on average", "ms",
            [(mean(LATENCY, _PREDICTIONS) + millis, "request"),
             (mean(":tensorflow:serving:runtime_latency", _MODEL) + millis, "model, with waiting for the batch"),
             (mean(QUEUEING) + millis, "waiting for the batch")],
        ),
        _chart("Waiting for the batch", "ms", quantiles(QUEUEING, "", millis), limit=bounds.p95_queueing_ms),
        _chart(
            "Batch size", "short",
            # Of all models, as the batches are counted, and without what was refused and is in no batch.
            [(f"sum({answered('', _WINDOW)}) / sum(rate({batches}[{_WINDOW}]))",
              "requests in a batch (of all models)"),
             (mean(":tensorflow:serving:batching:processed_batch_size"), "images in a batch (embedded server)"),
             (mean(":tensorflow:serving:batching:input_batch_size"), "images in a request (embedded server)")],
            "Only with batching.",
        ),
        _table(
            "Versions: loads since the server started",
            [f"sum by (instance, model_path, status) ({LOADS})"],
            ["Value"], ["loads"],
        ),
        _chart(
            "Warm-up of versions", "ms",
            [(f"sum by (model_path, status) ({WARM_UPS}_sum) / sum by (model_path, status) ({WARM_UPS}_count){millis}",
              "{{model_path}} {{status}}")],
        ),
        _chart(
            "Memory, and versions that were loaded", "bytes",
            [(MEMORY, "{{instance}} {{pod}}"), (f'sum({LOADS}{{status="success"}})', "versions loaded")],
            "TensorFlow Serving does not export its memory: its container's is shown, where that is measured.",
            right="/versions loaded/",
        ),
        _row("Clients"),
        _chart(
            "Calls by code", "reqps",
            [(f"sum by (code) (rate({CLIENT_CALLS}{{{_CLIENT}}}[{_WINDOW}]))", "{{code}}")],
        ),
        _chart(
            "Latency of calls", "s",
            quantiles("htr_client_call_seconds", f'{_CLIENT}, signature="serving_default"'),
            "With the way to the server and what the channel repeats.",
        ),
        _chart("Images in a request", "short", [(mean("htr_client_batch_images", _CLIENT), "images")]),
        _chart(
            "Images by the version that answered", "suffix: images/s",
            [(f'sum by (version) (rate(htr_client_images_total{{{_CLIENT}, outcome="ok"}}[{_WINDOW}]))',
              "{{version}}")],
        ),
        _chart(
            "Images that were not transcribed, and suspect ones", "suffix: images/s",
            [(f'sum by (outcome) (rate(htr_client_images_total{{{_CLIENT}, outcome!="ok"}}[{_WINDOW}]))',
              "{{outcome}}"),
             (f"sum by (code) (rate(htr_client_suspicions_total{{{_CLIENT}}}[{_WINDOW}]))", "suspect: {{code}}")],
        ),
        _chart(
            "Confidence by version", "percentunit",
            [(quantile(q, "htr_client_confidence", _WINDOW, _CLIENT, "version"), f"{name} of {{{{version}}}}")
             for q, name in ((0.5, "median"), (0.1, "lowest tenth"))],
            "Falls where images have drifted away from the training data. That of whole lines is often far below 0.1.",
            logarithmic=True,
        ),
    ]  # fmt: skip


def _runs() -> list[dict[str, Any]]:
    drift = "htr_drift / htr_drift_allowed"

    def largest(metric: str, labels: str = "run") -> str:
        return f'max by ({labels}) ({metric}{{model="$model"}})'

    return [
        _row("Runs (htr runs --prometheus FILE)"),
        _bars(
            "CER by run", "percentunit", [largest(f"htr_run_{name}") for name in ("cer", "cer_low", "cer_high")],
            ["CER", "lower end", "upper end"], width=2,
        ),
        _matrix(
            "Drift by run, as a multiple of what is allowed",
            'max by (run, measure) (htr_run_drift{model="$model"} / htr_run_drift_allowed)', "measure",
            "Of the training split against that of the run before, by ExampleValidator. The first run has none.",
        ),
        _table(
            "Runs",
            [largest("htr_run_info", "run, outcome, version"), largest("htr_run_wer"),
             'sum by (run) (htr_run_images{model="$model"})', largest("htr_run_seconds")],
            ["Value #B", "Value #C", "Value #D"], ["WER", "images", "seconds"], hidden=["Value #A"], width=2,
        ),
        _matrix("Rejected rows by run", largest("htr_run_rejected_rows", "run, reason"), "reason", limit=None),
        _row("Production (htr drift --prometheus FILE)"),
        _chart(
            "Drift, as a multiple of what is allowed", "short", [(f"max by (measure) ({drift})", "{{measure}}")],
            "Logged requests, or new data, against the training data of a run.", limit=1, width=2,
        ),
        _chart("Images compared", "short", [("htr_drift_images", "{{side}}")]),
    ]  # fmt: skip


def _dashboard(uid: str, title: str, panels: list[dict[str, Any]], variables: list[dict[str, Any]]) -> dict[str, Any]:
    x = y = 0
    for number, panel in enumerate(panels, 1):
        width, height = (_COLUMNS, 1) if panel["type"] == "row" else (panel.pop("width") * _WIDTH, _HEIGHT)
        if x and x + width > _COLUMNS:
            x, y = 0, y + _HEIGHT
        panel |= {"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}}
        x, y = (0, y + 1) if panel["type"] == "row" else (x + width, y)
    source = {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "current": {}}
    return {
        "id": None,
        "uid": uid,
        "title": title,
        "description": "Made from settings.yaml by `python -m serving.configuration render`.",
        "tags": ["htr"],
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-24h", "to": "now"},
        "refresh": "1m",
        "schemaVersion": 39,
        "version": 1,
        "templating": {"list": [source, *variables]},
        "annotations": {"list": []},
        "panels": panels,
    }


def _row(title: str) -> dict[str, Any]:
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


def _panel(kind: str, title: str, unit: str, queries: Sequence[Query], limit: float | None) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": _GREEN, "value": None}]
    if limit is not None:
        steps.append({"color": _RED, "value": limit})
    return {
        "type": kind,
        "title": title,
        "datasource": _SOURCE,
        "width": 1,
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for i, (expression, legend) in enumerate(queries)
        ],
        "fieldConfig": {
            "defaults": {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
    }


def _chart(
    title: str,
    unit: str,
    queries: Sequence[Query],
    description: str = "",
    limit: float | None = None,
    right: str = "",
    width: int = 1,
    logarithmic: bool = False,
) -> dict[str, Any]:
    """Values over time; `limit` is a dashed line, series that match `right` have an axis of their own."""
    panel = _panel("timeseries", title, unit, queries, limit) | {"width": width}
    if description:
        panel["description"] = description
    style = "dashed" if limit is not None else "off"
    scale = {"scaleDistribution": {"type": "log", "log": 10}} if logarithmic else {}
    least = {} if logarithmic else {"min": 0}
    panel["fieldConfig"]["defaults"] |= least | {"custom": {"thresholdsStyle": {"mode": style}} | scale}
    if right:
        properties = [{"id": "custom.axisPlacement", "value": "right"}, {"id": "unit", "value": "short"}]
        panel["fieldConfig"]["overrides"].append(
            {"matcher": {"id": "byRegexp", "options": right}, "properties": properties}
        )
    return panel


def _instant(panel: dict[str, Any]) -> dict[str, Any]:
    for target in panel["targets"]:
        target |= {"instant": True, "range": False, "format": "table"}
    return panel


def _table(
    title: str,
    expressions: Sequence[str],
    values: Sequence[str],
    names: Sequence[str],
    hidden: Sequence[str] = (),
    kind: str = "table",
    unit: str = "short",
    width: int = 1,
) -> dict[str, Any]:
    """Values of now, with a row for each set of labels; `values` are Grafana's columns for the queries."""
    panel = _instant(_panel(kind, title, unit, [(expression, "") for expression in expressions], None))
    organize = {
        "excludeByName": dict.fromkeys(["Time", *hidden], True),
        "renameByName": dict(zip(values, names, strict=True)),
    }
    panel["transformations"] = [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]
    return panel | {"width": width}


def _bars(title: str, unit: str, expressions: Sequence[str], names: Sequence[str], width: int) -> dict[str, Any]:
    """A group of bars for each run, the oldest first."""
    values = [f"Value #{chr(ord('A') + i)}" for i in range(len(expressions))]
    panel = _table(title, expressions, values, names, kind="barchart", unit=unit, width=width)
    panel["transformations"].append(_BY_RUN)
    panel["options"] = {"xField": "run", "xTickLabelRotation": -45}
    return panel


def _matrix(title: str, expression: str, column: str, description: str = "", limit: float | None = 1) -> dict[str, Any]:
    """A table with a row for each run and a column for each value of another label; red above `limit`."""
    panel = _instant(_panel("table", title, "short", [(expression, "")], limit))
    if description:
        panel["description"] = description
    if limit is not None:
        panel["fieldConfig"]["defaults"]["custom"] = {"cellOptions": {"type": "color-text"}}
    options = {"rowField": "run", "columnField": column, "valueField": "Value"}
    panel["transformations"] = [_BY_RUN, {"id": "groupingToMatrix", "options": options}]
    return panel


_BY_RUN = {"id": "sortBy", "options": {"sort": [{"field": "run"}]}}
