"""Time to read and check images from a bucket against the same from disk, and what the store alone takes.

A dataset of the wanted size is made of copies of the given one's images, and copied into the bucket. Address and
credentials of the store come from the usual variables, here of a server on this machine (`pip install moto[server]`):

    moto_server -p 5000 &
    export AWS_ENDPOINT_URL=http://127.0.0.1:5000 AWS_DEFAULT_REGION=us-east-1
    export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret
    python -m benchmarks.buckets --data FOLDER --bucket s3://benchmark
"""

import argparse
import contextlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import urllib3

from benchmarks.beam import grow, read, seconds
from components.common import storage
from components.common.ahead import ahead
from components.example_gen.dataset import Sample, examine_all
from components.example_gen.settings import DataConfig
from components.transform.settings import TransformConfig

CALLERS = 16


def accepted(folder: str) -> int:
    """Reads and checks a dataset as ExampleGen does; returns the number of accepted rows."""
    return sum(isinstance(sample, Sample) for sample in examine_all(DataConfig(paths=[folder]), TransformConfig()))


def fetch(addresses: list[str]) -> None:
    """Gets signed addresses with a bare HTTP client: what the store itself takes, with little of ours."""
    with urllib3.PoolManager(maxsize=CALLERS) as pool, ThreadPoolExecutor(CALLERS) as callers:
        assert all(answer.status == 200 for answer in callers.map(lambda url: pool.request("GET", url), addresses))


def main() -> None:
    """Prints a line for each way, and the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", required=True, metavar="FOLDER", help="a dataset, such as htr sample-data makes")
    parser.add_argument("--bucket", required=True, metavar="URL", help="such as s3://benchmark; made if missing")
    parser.add_argument("--images", type=int, default=5000, metavar="N")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        here = grow(read(args.data), args.images, Path(name) / "data")
        there = f"{args.bucket}/data-{args.images}"
        store = fsspec.filesystem(args.bucket.partition("://")[0])
        with contextlib.suppress(FileExistsError):
            store.mkdir(args.bucket)
        print(f"Copying {args.images} images to {there}", flush=True)
        paths = [file.path for file in storage.files(str(here))]
        list(ahead(lambda path: storage.copy_file(path, path.replace(str(here), there)), paths, storage.READERS))
        signed = [store.sign(f"{there}/images/{path.name}") for path in sorted((here / "images").iterdir())]
        ways = {
            "disk": lambda: accepted(str(here)),
            "bucket": lambda: accepted(there),
            "the store alone": lambda: fetch(signed),
        }
        accepted(str(here))  # imports and caches
        taken = {}
        print(f"\n{'':20s} seconds  CPU s of this process")
        for way, work in ways.items():
            taken[way], cpu = seconds(work, float)
            print(f"{way:20s} {taken[way]:7.2f} {cpu:8.2f}", flush=True)
        print(
            f"\nbucket / disk {taken['bucket'] / taken['disk']:.1f}, of which the store "
            f"{taken['the store alone'] / taken['disk']:.1f}"
        )


if __name__ == "__main__":
    main()
