"""Counters and histograms under TensorFlow Serving's names, printed for Prometheus.

The page has the same format as TensorFlow Serving's exporter.
"""

from __future__ import annotations

import os
import time

from htr_client.metrics import Metric, exponential, page

LATENCY_BUCKETS = exponential(10, 1.8, 33)


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        prefix = "/tensorflow/serving/"
        latency = LATENCY_BUCKETS
        sizes = exponential(1, 2, 15)
        status = ("status",)
        self.request_count = Metric(prefix + "request_count", "counter", ("model_name", "status"), bounded=status)
        self.request_latency = Metric(
            prefix + "request_latency", "histogram", ("model_name", "API", "entrypoint"), latency, ("API", "entrypoint")
        )
        self.runtime_latency = Metric(
            prefix + "runtime_latency", "histogram", ("model_name", "API", "runtime"), latency, ("API", "runtime")
        )
        self.warmup_latency = Metric(
            prefix + "model_warmup_latency", "histogram", ("model_path", "status"), latency, status
        )
        self.queuing_latency = Metric(
            prefix + "batching_session/queuing_latency", "histogram", ("thread_pool_name",), latency
        )
        self.wrapped_run_count = Metric(prefix + "batching_session/wrapped_run_count", "counter", ())
        self.batch_size = Metric(prefix + "batching/processed_batch_size", "histogram", (), sizes)
        self.input_size = Metric(prefix + "batching/input_batch_size", "histogram", (), sizes)
        self.load_attempts = Metric(
            "/tensorflow/cc/saved_model/load_attempt_count", "counter", ("model_path", "status"), bounded=status
        )
        self.resident_bytes = Metric("process_resident_memory_bytes", "gauge", ())
        self.started = time.time()

    def page(self) -> str:
        """Returns the page that Prometheus reads."""
        resident = resident_bytes()
        if resident:
            self.resident_bytes.set(resident)
        return page([metric for metric in vars(self).values() if isinstance(metric, Metric)])


def resident_bytes() -> int:
    """Returns the process' resident memory, 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
