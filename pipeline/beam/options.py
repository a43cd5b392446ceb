"""Beam pipeline options from the configuration: which engine runs the data-parallel steps, and what it needs to know.

Nothing here talks to an engine; `check` asks Beam itself whether it understands the options.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

from components.common.settings import ConfigError
from components.common.suggestions import did_you_mean
from pipeline.beam.settings import BeamConfig


def pipeline_options(beam: BeamConfig) -> list[str]:
    """The options of every Beam pipeline, `beam.args` last, so that they win.

    Args:
        beam: Settings of the engine.

    Returns:
        Command-line options such as `--runner=FlinkRunner`.

    Raises:
        ConfigError: A setting that the engine cannot do without is missing, or one is set that it has no use for.
    """
    default = BeamConfig()
    for name in BeamConfig.model_fields:
        known = name in _USED[beam.runner] or name in ("runner", "args", "step_args")
        if not known and getattr(beam, name) != getattr(default, name):
            raise ConfigError(f"beam.{name}: beam.runner={beam.runner} has no use for it: leave it out.")
    return [*_RUNNERS[beam.runner](beam), *beam.args]


def check(beam: BeamConfig) -> None:
    """Asks Beam whether it knows the options that the user wrote; it would pass over others with a line in the log.

    Raises:
        ConfigError: Options are unknown or values impossible, or the engine needs a library; the message names them.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    if beam.runner == "dask":
        try:
            import pipeline.beam.dask_runner  # noqa: F401 - makes its options known
        except ImportError as error:
            raise ConfigError(f"beam.runner=dask needs the packages dask and distributed: {error}") from error
    for name, options in {
        "beam.args": beam.args,
        **{f"beam.step_args.{k}": v for k, v in beam.step_args.items()},
    }.items():
        for word, before in zip(options, ["", *options], strict=False):
            if not word.startswith("-") and (not before.startswith("-") or "=" in before):
                raise ConfigError(f"{name}: {word!r} is no option; options begin with --.")
        complaint = io.StringIO()
        try:
            with contextlib.redirect_stderr(complaint):
                parsed = PipelineOptions(options)
                unknown = set(parsed.get_all_options(retain_unknown_options=True)) - set(parsed.get_all_options())
        except SystemExit as error:  # argparse ends the process
            raise ConfigError(f"{name}: {complaint.getvalue().rpartition('error: ')[2].strip()}") from error
        if unknown:
            listed = ", ".join(f"--{option}" for option in sorted(unknown))
            raise ConfigError(f"{name}: Apache Beam knows no option {listed}.")


def check_for_pipeline(beam: BeamConfig) -> None:
    """As `check`, where Beam need not be asked it is not imported.

    Raises:
        ConfigError: As `check` and `pipeline_options`.
    """
    pipeline_options(beam)
    if beam.args or beam.step_args or beam.runner == "dask":  # importing Beam takes seconds
        check(beam)


def for_pipeline(beam: BeamConfig, steps: Sequence[Any]) -> list[str]:
    """Gives the steps the options that `beam.step_args` has for them, and returns those of all steps.

    Args:
        beam: Settings of the engine.
        steps: TFX components of the pipeline.

    Returns:
        Options for TFX's Pipeline.

    Raises:
        ConfigError: Unknown options, or no such step.
    """
    check_for_pipeline(beam)
    by_id = {step.id: step for step in steps if hasattr(step, "with_beam_pipeline_args")}
    for name, options in beam.step_args.items():
        if name not in by_id:
            raise ConfigError(
                f"beam.step_args.{name}: the steps that run on Beam are {', '.join(by_id)}{did_you_mean(name, by_id)}"
            )
        by_id[name].with_beam_pipeline_args(options)
    return pipeline_options(beam)


def _local(beam: BeamConfig) -> list[str]:
    # Beam's own choice, DirectRunner, first tries to download another runner.
    options = ["--runner=FnApiRunner", _HERE]
    if beam.workers > 1:
        options += ["--direct_running_mode=multi_processing", f"--direct_num_workers={beam.workers}"]
    return options


def _flink(beam: BeamConfig) -> list[str]:
    address = _needed(beam, "address")
    return ["--runner=FlinkRunner", f"--flink_master={address}", f"--parallelism={beam.workers}", *_workers(beam)]


def _spark(beam: BeamConfig) -> list[str]:
    return ["--runner=SparkRunner", f"--spark_master_url={_needed(beam, 'address')}", *_workers(beam)]


def _workers(beam: BeamConfig) -> list[str]:
    """Python processes beside Flink's or Spark's own: containers of the image, or the worker pool in the same pod."""
    if beam.worker_image:
        environment = ["--environment_type=DOCKER", f"--environment_config={beam.worker_image}"]
    else:
        environment = ["--environment_type=EXTERNAL", "--environment_config=localhost:50000"]
    return [*environment, _HERE, *_packages(beam)]


def _dataflow(beam: BeamConfig) -> list[str]:
    options = [
        "--runner=DataflowRunner", f"--max_num_workers={beam.workers}",
        *(f"--{name}={_needed(beam, name)}" for name in ("project", "region", "temp_location")),
    ]  # fmt: skip
    if beam.worker_image:
        options += [f"--sdk_container_image={beam.worker_image}", "--sdk_location=container"]
    return [*options, *_packages(beam)]


def _dask(beam: BeamConfig) -> list[str]:
    address = _needed(beam, "address")
    return ["--runner=pipeline.beam.dask_runner.DaskRunner", f"--dask_client_address={address}", _HERE]


def _packages(beam: BeamConfig) -> list[str]:
    setup = [f"--setup_file={beam.setup_file}"] if beam.setup_file else []
    return [*setup, *(f"--extra_package={path}" for path in beam.extra_packages)]


def _needed(beam: BeamConfig, name: str) -> str:
    value = getattr(beam, name)
    if not value:
        meaning = BeamConfig.model_fields[name].description
        raise ConfigError(f"beam.runner={beam.runner} needs beam.{name}: {meaning}.")
    return value


# Says that the workers have the packages; none of the engines that are given this starts the image that it names.
# Without it TFX would pack its own sources at each step, for the workers to install, and leave 40 MB in the temporary
# folder.
_HERE = "--sdk_container_image=installed"

_RUNNERS = {"local": _local, "flink": _flink, "spark": _spark, "dataflow": _dataflow, "dask": _dask}

_SHIPPED = frozenset({"worker_image", "setup_file", "extra_packages"})
# Spark gives its workers out itself, by settings of its own; Dask's are those that run.
_USED: dict[str, frozenset[str]] = {
    "local": frozenset({"workers"}),
    "flink": _SHIPPED | {"address", "workers"},
    "spark": _SHIPPED | {"address"},
    "dataflow": _SHIPPED | {"workers", "project", "region", "temp_location"},
    "dask": frozenset({"address"}),
}
