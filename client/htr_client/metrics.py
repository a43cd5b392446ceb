"""Counters and histograms in Prometheus' text format, without a library, and those of a client."""

import bisect
import contextlib
import re
import threading
import time
from collections.abc import Iterator, Sequence

from htr_client.errors import HtrError, ModelNotFound
from htr_client.results import Transcription

# Label values come partly from outside (model names): past this many series a metric counts what is new as "other", and
# of each value it keeps this many characters, enough for a path.
MAX_SERIES, MAX_CHARACTERS = 500, 1000


def exponential(start: float, factor: float, count: int) -> list[float]:
    """Returns bucket bounds as TensorFlow's monitoring makes them."""
    return [start * factor**i for i in range(count)]


class Metric:
    """One counter, gauge or histogram with labels."""

    def __init__(
        self,
        name: str,
        kind: str,
        labels: tuple[str, ...],
        buckets: list[float] | None = None,
        bounded: tuple[str, ...] = (),
    ) -> None:
        """Begins without any series.

        Args:
            name: Name; what Prometheus does not take in one is printed as a colon.
            kind: "counter", "gauge" or "histogram".
            labels: Names of the labels.
            buckets: Upper bounds of a histogram's buckets.
            bounded: Labels with few values, such as a status: they keep theirs past `MAX_SERIES`.
        """
        self.name = name
        self.kind = kind
        self.labels = labels
        self.buckets = buckets or []
        self._keeps = [label in bounded for label in labels]
        self._series: dict[tuple[str, ...], list[float]] = {}
        self._lock = threading.Lock()

    def _cells(self, labels: tuple[str, ...]) -> list[float]:
        labels = tuple(value[:MAX_CHARACTERS] for value in labels)
        cells = self._series.get(labels)
        if cells is None:
            if len(self._series) >= MAX_SERIES:
                pairs = zip(labels, self._keeps, strict=True)
                labels = tuple(value if keeps else "other" for value, keeps in pairs)
            cells = self._series.setdefault(labels, [0.0] * (len(self.buckets) + 2 if self.buckets else 1))
        return cells

    def add(self, value: float, *labels: str) -> None:
        """Counts (counter) or observes (histogram) a value."""
        with self._lock:
            cells = self._cells(labels)
            if self.buckets:
                cells[bisect.bisect_left(self.buckets, value)] += 1
                cells[-1] += value
            else:
                cells[0] += value

    def set(self, value: float, *labels: str) -> None:
        """Sets a gauge."""
        with self._lock:
            self._cells(labels)[0] = value

    def value(self, *labels: str) -> float:
        """Returns a counter's or gauge's value, or a histogram's number of observations."""
        with self._lock:
            cells = self._series.get(labels)
            if cells is None:
                return 0.0
            return sum(cells[:-1]) if self.buckets else cells[0]

    def total(self, *labels: str) -> float:
        """Returns a histogram's sum of observations."""
        with self._lock:
            cells = self._series.get(labels)
            return cells[-1] if cells else 0.0

    def lines(self) -> list[str]:
        """Returns the metric in Prometheus' text format."""
        name = re.sub(r"[^a-zA-Z0-9_]", ":", self.name)
        with self._lock:
            series = {labels: list(cells) for labels, cells in self._series.items()}
        out = [f"# TYPE {name} {self.kind}"]
        for values, cells in series.items():
            pairs = [f'{key}="{_escape(value)}"' for key, value in zip(self.labels, values, strict=True)]
            label_text = ",".join(pairs)
            if not self.buckets:
                out.append(f"{name}{{{label_text}}} {_number(cells[0])}")
                continue
            running = 0
            prefix = label_text + "," if label_text else ""
            for bound, count in zip([*(f"{b:.6g}" for b in self.buckets), "+Inf"], cells[:-1], strict=True):
                running += int(count)
                out.append(f'{name}_bucket{{{prefix}le="{bound}"}} {running}')
            out.append(f"{name}_sum{{{label_text}}} {_number(cells[-1])}")
            out.append(f"{name}_count{{{label_text}}} {running}")
        return out


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def page(metrics: Sequence[Metric]) -> str:
    """Returns the page that Prometheus reads."""
    return "\n".join(line for metric in metrics for line in metric.lines()) + "\n"


class ClientMetrics:
    """What the clients of a process count; may be shared by several.

    client = HtrClient("localhost:8500")
    print(client.metrics.page())
    """

    def __init__(self) -> None:
        seconds = exponential(0.001, 2, 16)
        self._calls = Metric("htr_client_calls_total", "counter", ("model", "signature", "code"), bounded=("code",))
        self._seconds = Metric("htr_client_call_seconds", "histogram", ("model", "signature"), seconds)
        self._batch = Metric("htr_client_batch_images", "histogram", ("model",), exponential(1, 2, 9))
        self._images = Metric(
            "htr_client_images_total", "counter", ("model", "version", "outcome"), bounded=("outcome",)
        )
        # That of a whole line is often far below 0.1.
        shares = exponential(1e-10, 10, 9) + [i / 10 for i in range(1, 10)] + [0.95, 0.99]
        self._confidence = Metric("htr_client_confidence", "histogram", ("model", "version"), shares)
        self._suspicions = Metric("htr_client_suspicions_total", "counter", ("model", "code"), bounded=("code",))

    def page(self) -> str:
        """Returns the page that Prometheus reads, to be served as text/plain; version=0.0.4."""
        return page([metric for metric in vars(self).values() if isinstance(metric, Metric)])

    @contextlib.contextmanager
    def call(self, model: str, signature: str) -> Iterator[None]:
        """Counts a call and its time; what the channel repeats is one call."""
        started = time.perf_counter()
        code = "CANCELLED"  # by what is no Exception, such as the end of an asyncio task
        try:
            yield
            code = "OK"
        except ModelNotFound:
            code = "NOT_FOUND"  # of a label too, which servers call INVALID_ARGUMENT, as they do the image of a caller
            raise
        except HtrError as error:
            code = error.code or "UNKNOWN"  # no call was made
            raise
        except Exception:  # a transport's own, or a client in another event loop
            code = "UNKNOWN"
            raise
        finally:
            self._calls.add(1, model, signature, code)
            self._seconds.add(time.perf_counter() - started, model, signature)

    def batch(self, model: str, images: int) -> None:
        """Counts the images of a request."""
        self._batch.add(images, model)

    def result(self, result: Transcription) -> None:
        """Counts a result: an image that was transcribed, or one that could not be."""
        version = str(result.version) if result.version else ""
        self._images.add(1, result.model, version, result.error.reason if result.error else "ok")
        if result.error is None:
            self._confidence.add(result.confidence, result.model, version)
        for suspicion in result.suspicions:
            self._suspicions.add(1, result.model, suspicion.code)
