"""Counters and histograms under TensorFlow Serving's names, printed for Prometheus.

Small enough not to need a client library; the page has the same format as TensorFlow Serving's exporter.
"""

from __future__ import annotations

import bisect
import os
import re
import threading
import time

# Label values come partly from requests (model names): past this many series a metric counts into one "other".
MAX_SERIES = 500


def exponential(start: float, factor: float, count: int) -> list[float]:
    """Return bucket bounds as TensorFlow's monitoring makes them."""
    return [start * factor**i for i in range(count)]


LATENCY_BUCKETS = exponential(10, 1.8, 33)


def _number(value: float) -> str:
    return f"{value:.6g}"


class Metric:
    """One counter, gauge or histogram with labels."""

    def __init__(self, name: str, kind: str, labels: tuple[str, ...], buckets: list[float] | None = None) -> None:
        self.name = name
        self.kind = kind
        self.labels = labels
        self.buckets = buckets or []
        self._series: dict[tuple[str, ...], list[float]] = {}
        self._lock = threading.Lock()

    def _cells(self, labels: tuple[str, ...]) -> list[float]:
        cells = self._series.get(labels)
        if cells is None:
            if len(self._series) >= MAX_SERIES:
                labels = ("other",) * len(self.labels)
            cells = self._series.setdefault(labels, [0.0] * (len(self.buckets) + 2 if self.buckets else 1))
        return cells

    def add(self, value: float, *labels: str) -> None:
        """Count (counter) or observe (histogram) a value."""
        with self._lock:
            cells = self._cells(labels)
            if self.buckets:
                cells[bisect.bisect_right(self.buckets, value)] += 1
                cells[-1] += value
            else:
                cells[0] += value

    def set(self, value: float, *labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._cells(labels)[0] = value

    def value(self, *labels: str) -> float:
        """Return a counter's or gauge's value, or a histogram's number of observations."""
        with self._lock:
            cells = self._series.get(labels)
            if cells is None:
                return 0.0
            return sum(cells[:-1]) if self.buckets else cells[0]

    def total(self, *labels: str) -> float:
        """Return a histogram's sum of observations."""
        with self._lock:
            cells = self._series.get(labels)
            return cells[-1] if cells else 0.0

    def lines(self) -> list[str]:
        """Return the metric in Prometheus' text format."""
        name = re.sub(r"[^a-zA-Z0-9_]", ":", self.name)
        with self._lock:
            series = {labels: list(cells) for labels, cells in self._series.items()}
        out = [f"# TYPE {name} {self.kind}"]
        for values, cells in series.items():
            pairs = [f'{key}="{_escape(value)}"' for key, value in zip(self.labels, values, strict=True)]
            label_text = ",".join(pairs)
            if not self.buckets:
                out.append(f"{name}{{{label_text}}} {int(cells[0])}")
                continue
            running = 0
            prefix = label_text + "," if label_text else ""
            for bound, count in zip([*map(_number, self.buckets), "+Inf"], cells[:-1], strict=True):
                running += int(count)
                out.append(f'{name}_bucket{{{prefix}le="{bound}"}} {running}')
            out.append(f"{name}_sum{{{label_text}}} {_number(cells[-1])}")
            out.append(f"{name}_count{{{label_text}}} {running}")
        return out


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        prefix = "/tensorflow/serving/"
        latency = LATENCY_BUCKETS
        sizes = exponential(1, 2, 15)
        self.request_count = Metric(prefix + "request_count", "counter", ("model_name", "status"))
        self.request_latency = Metric(
            prefix + "request_latency", "histogram", ("model_name", "API", "entrypoint"), latency
        )
        self.runtime_latency = Metric(
            prefix + "runtime_latency", "histogram", ("model_name", "API", "runtime"), latency
        )
        self.warmup_latency = Metric(prefix + "model_warmup_latency", "histogram", ("model_path", "status"), latency)
        self.warmup_records = Metric(prefix + "model_warmup_records_read", "counter", ("model_path", "status"))
        self.queuing_latency = Metric(
            prefix + "batching_session/queuing_latency", "histogram", ("thread_pool_name",), latency
        )
        self.wrapped_run_count = Metric(prefix + "batching_session/wrapped_run_count", "counter", ())
        self.batch_size = Metric(prefix + "batching/processed_batch_size", "histogram", (), sizes)
        self.input_size = Metric(prefix + "batching/input_batch_size", "histogram", (), sizes)
        self.load_attempts = Metric(
            "/tensorflow/cc/saved_model/load_attempt_count", "counter", ("model_path", "status")
        )
        self.resident_bytes = Metric("process_resident_memory_bytes", "gauge", ())
        self.started = time.time()

    def page(self) -> str:
        """Return the page that Prometheus reads."""
        resident = resident_bytes()
        if resident:
            self.resident_bytes.set(resident)
        lines: list[str] = []
        for metric in vars(self).values():
            if isinstance(metric, Metric):
                lines += metric.lines()
        return "\n".join(lines) + "\n"


def resident_bytes() -> int:
    """Return the process' resident memory, 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
