"""Lay out what the conformance suite expects of a server: `python tests/conformance/prepare.py DIR`.

DIR gets the model, the configuration files and, on the screen, the commands that run the suite against a real
TensorFlow Serving.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "serving")]

import serving_toy as toy  # noqa: E402

MODELS = """model_config_list {{
  config {{
    name: "htr"
    base_path: "{base}"
    model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
  }}
}}
"""
BATCHING = """max_batch_size {{ value: 8 }}
batch_timeout_micros {{ value: 2000 }}
max_enqueued_batches {{ value: 2 }}
num_batch_threads {{ value: 1 }}
"""
MONITORING = "prometheus_config { enable: true }\n"

COMMANDS = """Run the suite against a real server with:

  docker run --rm -d -p 8500:8500 -p 8501:8501 -v {folder}:/models tensorflow/serving:2.16.1 \\
      --model_config_file=/models/models.config --monitoring_config_file=/models/monitoring.config \\
      --enable_grpc_healthcheck_service --max_num_load_retries=0
  docker run --rm -d -p 8600:8500 -v {folder}:/models tensorflow/serving:2.16.1 --model_config_file= \\
      --model_name=htr --model_base_path=/models/batching/htr --enable_batching --grpc_max_threads=64 \\
      --batching_parameters_file=/models/batching.config
  docker run --rm -d -p 8700:8500 -v {folder}:/models tensorflow/serving:2.16.1 --model_config_file= \\
      --model_name=htr --model_base_path=/models/batching/htr
  HTR_TFS_ADDR=localhost:8500 HTR_TFS_REST=localhost:8501 HTR_TFS_BATCH_ADDR=localhost:8600 \\
      HTR_TFS_SPARE_ADDR=localhost:8700 HTR_TFS_BASE=/models/htr python -m pytest tests/conformance

The third server is for the one test after which a real server takes no configuration any more.
"""


def lay_out(folder: Path, base: str) -> None:
    """Write models and configuration files; `base` is the model's path as the server will see it."""
    model = toy.cached_model()
    damaged = {3: "truncated_variables"}  # only where versions are named: with "latest" a real server would not start
    for place, versions in (("htr", (1, 2, 3)), ("batching/htr", (1, 2))):
        for version in versions:
            if not (folder / place / str(version)).exists():
                toy.push(model, folder / place, version, damaged.get(version, ""))
    (folder / "models.config").write_text(MODELS.format(base=base))
    (folder / "batching.config").write_text(BATCHING.format())
    (folder / "monitoring.config").write_text(MONITORING)


if __name__ == "__main__":
    target = Path(sys.argv[1]).absolute()
    lay_out(target, "/models/htr")
    print(COMMANDS.format(folder=target))
