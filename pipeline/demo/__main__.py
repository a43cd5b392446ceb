"""`make demo`: the whole path on sample data, from rendered handwriting to text from a server."""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
from pathlib import Path

from components.common.console import console
from components.example_gen import dataset
from components.example_gen.rejects import REJECTS_FILE
from htr_client import HtrClient
from pipeline import cli, config
from pipeline.commands.options import positive
from pipeline.demo.data import render

SETTINGS = {"train.epochs": "4", "gate.max_cer": "0.08"}
SHOWN = 16


def main(argv: list[str] | None = None) -> int:
    """Makes the data, runs the pipeline, serves the model, shows what it transcribes.

    Args:
        argv: Arguments; those of the process if None.

    Returns:
        Exit code, as that of `htr run`.
    """
    parser = argparse.ArgumentParser(prog="python -m pipeline.demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo"), metavar="DIR", help="for data and workspace")
    parser.add_argument("--images", type=positive, default=7000, metavar="N", help="to render (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="further settings of the run")
    arguments = parser.parse_args(argv)
    settings = SETTINGS | dict(setting.split("=", 1) for setting in arguments.set)
    data, workspace = arguments.folder / "data", arguments.folder / "workspace"
    render(data, arguments.images)
    overrides = [f"--set={name}={value}" for name, value in settings.items()]
    code = cli.main(["run", "--data", str(data), "--workspace", str(workspace), *overrides])
    if code:
        return code
    return _serve_and_ask(data, workspace, settings)


def _serve_and_ask(data: Path, workspace: Path, settings: dict[str, str]) -> int:
    console().print("\nStarting the server, and asking it for images of the evaluation split")
    given = config.load(data={"paths": [str(data)]})
    checked = dataset.examine_all(given.data, given.transform)
    samples = [sample for sample in checked if isinstance(sample, dataset.Sample) and sample.split == "eval"]
    shown = random.Random(0).sample(samples, min(SHOWN, len(samples)))
    log = workspace / "logs" / "server.log"
    with open(log, "ab") as errors:
        server = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "serve", "--workspace", str(workspace), "--port=0"],
            stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            found = re.search(r"grpc=(\S+)", server.stdout.readline())
            if found is None:
                console().print(f"error: the server did not start, see {log}", style="red", markup=False)
                return cli.ERROR
            right = 0
            with HtrClient(found[1]) as client:
                results = client.transcribe_many([sample.image for sample in shown])
                console().print(f"  {'written':18s} {'transcribed':18s} {'confidence':>10s}")
                for sample, result in zip(shown, results, strict=True):
                    right += result.text == sample.text
                    mark = " " if result.text == sample.text else "x"
                    console().print(
                        f"{mark} {sample.text:18s} {result.text:18s} {result.confidence:10.2f}", markup=False
                    )
            console().print(f"  {right} of {len(shown)} exactly right")
        finally:
            server.terminate()
            server.wait()
    versions = workspace / "serving_model" / "htr"
    image = data / "images" / sorted(os.listdir(data / "images"))[0]
    same_settings = " ".join(f"--set {name}={value}" for name, value in settings.items() if name != "gate.max_cer")
    console().print(
        f"""
The model      {versions}
The report     {workspace / "reports"}   (open the newest in a browser)
Rejected rows  {workspace / REJECTS_FILE}
The logs       {workspace / "logs"}

To try next, after `source .venv/bin/activate`:
  htr serve --workspace {workspace} &
  htr predict --patience 60 {image}
  htr run --data {data} --workspace {workspace} {same_settings} --set gate.max_cer=0.0001
  htr check --data YOUR_FOLDER        what would be accepted of your own CSV and images
  htr run --data YOUR_FOLDER          train on them""",
        markup=False,
    )
    return cli.OK


if __name__ == "__main__":
    sys.exit(main())
