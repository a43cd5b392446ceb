"""Time of the Beam steps against the number of workers and images: ExampleGen and batch transcription.

Start-up (of workers, of the model) is measured with a handful of images and left out of the cost of one image. A
dataset of any size is made of copies of the given one's images. With `--runner dask` the workers are those of a Dask
cluster on this machine. Workers share its cores as those of `htr transcribe` do; TensorFlow asks once a process for how
many threads it may have, so each number of workers is a command of its own.

    python -m benchmarks.beam --data FOLDER --model workspace/serving_model/htr/VERSION
"""

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

from tfx.types import standard_artifacts

from benchmarks import dask_cluster
from components.batch_transcriber.batch import transcribe
from components.batch_transcriber.transcribing import Transcriber
from components.example_gen import dataset
from components.example_gen.component import Executor
from components.example_gen.quarantine import Quarantine
from components.example_gen.settings import DataConfig
from components.tools.dataset_folder import whole_dataset
from components.transform.settings import TransformConfig
from htr_client.cores import usable_cores
from pipeline.beam.options import pipeline_options
from pipeline.beam.settings import BeamConfig

STEPS = ["ExampleGen", "transcribe"]
FEW = 32


def grow(samples: list[tuple[str, str]], images: int, folder: Path) -> Path:
    """Makes a dataset of the wanted size.

    Args:
        samples: Paths of images and their labels.
        images: Number of images that are wanted.
        folder: Folder of the dataset; it is made.

    Returns:
        The folder.
    """
    with whole_dataset(folder, ("filename", "text")) as add:
        for number, (path, text) in enumerate(islice(cycle(samples), images)):
            add(f"{number:07d}", Path(path).read_bytes(), text)
    return folder


def read(folder: str) -> list[tuple[str, str]]:
    """Absolute paths and labels of the accepted rows of a dataset."""
    data, transform = DataConfig(paths=[os.path.abspath(folder)]), TransformConfig()
    checked = dataset.examine_all(data, transform)
    root = Path(folder).resolve().parent
    return [(str(root / sample.id), sample.text) for sample in checked if isinstance(sample, dataset.Sample)]


def example_gen(folder: Path, scratch: Path, options: list[str]) -> None:
    """Runs ExampleGen's executor on a dataset."""
    examples, quarantine = standard_artifacts.Examples(), Quarantine()
    examples.uri, quarantine.uri = str(scratch / "examples"), str(scratch / "quarantine")
    context = Executor.Context(beam_pipeline_args=options, tmp_dir=str(scratch), unique_id="1")
    properties = {
        "data_config": DataConfig(paths=[str(folder)]).model_dump_json(),
        "transform_config": TransformConfig().model_dump_json(),
    }
    Executor(context).Do({}, {"examples": [examples], "quarantine": [quarantine]}, properties)


def seconds(work: Callable[[], object], elsewhere: Callable[[], float]) -> tuple[float, float]:
    """Wall time of a call, and CPU time of this process, of the workers that ended with it, and of those elsewhere."""
    before = sum(os.times()[:4]) + elsewhere()
    begin = time.perf_counter()
    work()
    taken = time.perf_counter() - begin
    return taken, sum(os.times()[:4]) + elsewhere() - before


def main() -> None:
    """Prints a table for each step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", required=True, metavar="FOLDER", help="a dataset, such as htr sample-data makes")
    parser.add_argument("--model", required=True, metavar="DIR", help="a pushed version's folder")
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 5000, 20000], metavar="N")
    parser.add_argument("--workers", type=int, default=1, metavar="N")
    parser.add_argument("--runner", choices=["local", "dask"], default="local")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    args = parser.parse_args()
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(max(1, usable_cores() // max(1, args.workers))))
    samples = read(args.data)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        folders = {count: grow(samples, count, base / str(count)) for count in [FEW, *args.images]}

        def run(step: str, count: int, options: list[str], elsewhere: Callable[[], float]) -> tuple[float, float]:
            with tempfile.TemporaryDirectory(dir=base) as scratch:
                if step == "ExampleGen":
                    return seconds(lambda: example_gen(folders[count], Path(scratch), options), elsewhere)
                output = str(Path(scratch) / "texts.jsonl")
                return seconds(
                    lambda: transcribe(str(folders[count]), output, Transcriber(args.model), options), elsewhere
                )

        @contextlib.contextmanager
        def engine() -> Iterator[tuple[list[str], Callable[[], float]]]:
            if args.runner == "local":
                yield pipeline_options(BeamConfig(workers=args.workers)), float
                return
            with (
                tempfile.TemporaryDirectory(dir=base) as scratch,
                dask_cluster.serve(Path(scratch), args.workers) as cluster,
            ):
                yield cluster.options, cluster.cpu_seconds

        for step in args.steps:
            print(f"\n{step:12s} workers images  seconds (start)  an image: ms   CPU ms")
            with engine() as (options, elsewhere):
                # The first of them imports, and loads the model where it stays in a process.
                starts = [run(step, FEW, options, elsewhere) for _ in range(3)]
                start, start_cpu = map(min, zip(*starts, strict=True))
                for count in args.images:
                    taken, cpu = run(step, count, options, elsewhere)
                    each, each_cpu = ((x - y) / (count - FEW) * 1000 for x, y in ((taken, start), (cpu, start_cpu)))
                    row = f"{args.workers:20d} {count:8d} {taken:8.1f} {start:8.1f} {each:14.2f} {each_cpu:8.2f}"
                    print(row, flush=True)


if __name__ == "__main__":
    main()
