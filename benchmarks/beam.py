"""Time of the Beam steps against the number of workers and images: ExampleGen and batch transcription.

Start-up (of workers, of the model) is measured with a handful of images and left out of the cost of one image. A
dataset of any size is made of copies of the given one's images.

    python benchmarks/beam.py --data FOLDER --model workspace/serving_model/htr/VERSION
"""

import argparse
import csv
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

from tfx.types import standard_artifacts

from components.batch_transcriber.batch import transcribe
from components.batch_transcriber.reading import Reader
from components.example_gen import dataset
from components.example_gen.component import Executor, Quarantine
from components.example_gen.settings import DataConfig
from components.transform.settings import TransformConfig
from pipeline.beam_options import pipeline_options
from pipeline.beam_settings import BeamConfig

STEPS = ["ExampleGen", "transcribe"]
FEW = 32


def grow(samples: list[tuple[str, str]], images: int, folder: Path) -> Path:
    """Makes a dataset of the wanted size.

    Args:
        samples: paths of images and their labels.
        images: how many are wanted.
        folder: where; made.

    Returns:
        The folder.
    """
    (folder / "images").mkdir(parents=True)
    with open(folder / "labels.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "text"])
        for number, (path, text) in enumerate(islice(cycle(samples), images)):
            name = f"images/{number:07d}{Path(path).suffix}"
            shutil.copyfile(path, folder / name)
            writer.writerow([name, text])
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


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall time of a call, and CPU time of this process and of the workers that ended with it."""
    begin, before = time.perf_counter(), os.times()[:4]
    work()
    return time.perf_counter() - begin, sum(os.times()[:4]) - sum(before)


def main() -> None:
    """Prints a table for each step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", required=True, metavar="FOLDER", help="a dataset, such as htr sample-data makes")
    parser.add_argument("--model", required=True, metavar="DIR", help="a pushed version's folder")
    parser.add_argument("--images", "--pictures", type=int, nargs="+", default=[1000, 5000, 20000], metavar="N")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    args = parser.parse_args()
    # As `htr transcribe` sets it: the workers share the cores.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    samples = read(args.data)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        folders = {count: grow(samples, count, base / str(count)) for count in [FEW, *args.images]}

        def run(step: str, count: int, workers: int) -> tuple[float, float]:
            options = pipeline_options(BeamConfig(workers=workers))
            with tempfile.TemporaryDirectory(dir=base) as scratch:
                if step == "ExampleGen":
                    return seconds(lambda: example_gen(folders[count], Path(scratch), options))
                output = str(Path(scratch) / "texts.jsonl")
                return seconds(lambda: transcribe(str(folders[count]), output, Reader(args.model), options))

        for step in args.steps:
            print(f"\n{step:12s} workers images  seconds (start)  an image: ms   CPU ms")
            for workers in args.workers:
                # The first of them imports, and loads the model where it stays in this process.
                start, start_cpu = map(min, zip(*(run(step, FEW, workers) for _ in range(3)), strict=True))
                for count in args.images:
                    taken, cpu = run(step, count, workers)
                    each, each_cpu = ((x - y) / (count - FEW) * 1000 for x, y in ((taken, start), (cpu, start_cpu)))
                    print(
                        f"{workers:20d} {count:8d} {taken:8.1f} {start:8.1f} {each:14.2f} {each_cpu:8.2f}", flush=True
                    )


if __name__ == "__main__":
    main()
