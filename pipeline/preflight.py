"""What can be known before the first step: settings that would fail late are refused at once, without TFX.

A run reads, trains and evaluates for minutes to hours before gate, Pusher and BulkInferrer come to their settings.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import PurePosixPath

from components.base_model.packing import BaseModelError
from components.common import storage
from components.common.folders import nearest
from components.common.settings import ConfigError
from components.common.suggestions import did_you_mean
from components.common.versions import NoVersionError, named_version
from components.common.words import some
from components.example_gen.dataset import eval_slices
from components.example_gen.plan import Plan
from components.example_gen.table import Table
from components.language import texts
from components.line_finder.page_plan import list_pages
from components.line_finder.recogniser import LineGateError, model_for_lines
from components.line_finder.warm_start import find_start
from components.trainer import devices, warm_start
from htr_client.model_facts import LINE_FINDER
from pipeline.beam import options as beam_options
from pipeline.config import Config
from pipeline.runner_settings import KubeflowConfig

_OBJECT_STORES = ("gs", "s3", "minio")
_SHOWN = 12
# A full or read-only disk.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# Sections that one task alone uses, and what that of pages uses of `data`.
_SECTIONS_OF_TEXT = ("transform", "model", "train", "tune", "language", "gate", "drift", "bulk")
_SECTIONS_OF_PAGES = ("pages", "line_finder", "line_training", "line_gate")
_DATA_OF_PAGES = (
    "paths", "allow_outside", "max_megapixels", "max_rejected", "validation_fraction", "eval_fraction", "split_salt",
)  # fmt: skip
# A setting, the value with which others have no effect, and these.
_SWITCHES = (
    ("tune.trials", 0, ("tune.epochs",)),
    ("train.augment", 0, ("train.augmentations", "train.clean_statistics")),
    ("train.warm_start", None, ("train.start_share", "train.start_share_checked", "train.keep_characters")),
    ("language.enabled", False, ("language.texts", "language.base_texts", "language.order", "language.least_labels",
                                 "language.max_megabytes")),
    ("bulk.folder", None, ("bulk.kind", "bulk.line_finder", "bulk.format", "bulk.batch_size", "bulk.decoder",
                           "bulk.bfloat16")),
    ("bulk.kind", "line", ("bulk.line_finder",)),
)  # fmt: skip


def unused(config: Config) -> list[str]:
    """Settings that are not their defaults, and that the task does not use.

    Args:
        config: All settings.

    Returns:
        Their names, such as "train.epochs".
    """
    found = []
    for section in sorted(_SECTIONS_OF_PAGES if config.task == "text" else {*_SECTIONS_OF_TEXT, "data"}):
        given = getattr(config, section)
        default = type(given)()
        used = _DATA_OF_PAGES if section == "data" else ()
        found += [
            f"{section}.{name}"
            for name in type(given).model_fields
            if name not in used and getattr(given, name) != getattr(default, name)
        ]
    return found


def without_effect(config: Config) -> list[str]:
    """Settings that are not their defaults, and that another one switches off.

    Args:
        config: All settings.

    Returns:
        Sentences such as "tune.epochs has no effect with tune.trials=0".
    """
    default, found = Config(), []
    told: set[str] = set()
    for switch, off, others in _SWITCHES:
        names = [name for name in others if attrgetter(name)(config) != attrgetter(name)(default)]
        names = [name for name in names if name not in told]
        if names and attrgetter(switch)(config) == off:
            told.update(names)
            has = "has" if len(names) == 1 else "have"
            found.append(f"{', '.join(names)} {has} no effect with {switch}={json.dumps(off)}")
    return found


def check_pages(config: Config) -> None:
    """Checks the settings of a run on this machine that trains a line finder.

    Args:
        config: All settings, with absolute paths.

    Raises:
        ConfigError: Naming every setting that cannot work.
        DatasetError: There are no pages.
        OSError: A disk is full or read-only.
    """
    list_pages(config.data, config.pages)
    _refuse(_workspace(config), _pages(config))


def _pages(config: Config) -> Iterator[str]:
    yield from _problems(lambda: find_start(config.line_training, config.line_finder))
    yield from _problems(lambda: model_for_lines(config.line_gate, config.model_dir, config.name))
    yield from _problems(lambda: beam_options.check_for_pipeline(config.beam))
    if storage.is_remote(config.line_finder_dir):
        yield from _problems(lambda: storage.check_writable(config.line_finder_dir), "pages.model_dir: ")
    else:
        yield from _writable("pages.model_dir" if config.pages.model_dir else "workspace", config.line_finder_dir)
    yield from _server_command(config)


def check_run(config: Config, tables: list[Table], plan: Plan) -> None:
    """Checks the settings of a run on this machine.

    Args:
        config: All settings, with absolute paths.
        tables: Label files of its data.
        plan: How their rows are divided.

    Raises:
        ConfigError: A setting cannot work; the message names all of them.
        DatasetError: A table cannot be read.
        OSError: A disk is full or read-only.
    """
    found = (_one_process(), _workspace(config), _settings(config), _here(config), _bucket(config))
    _refuse(*found, _slices(config, tables, plan))


def check_airflow(config: Config) -> None:
    """Checks the settings of a pipeline whose tasks run with this Python and see these paths.

    The folders of the data must be named; they may be made later.

    Raises:
        ConfigError: A setting cannot work; the message names all of them.
    """
    known = not config.airflow.metadata_connection
    found = (_orchestrated(config), _airflow(config), _workspace(config, known), _settings(config), _here(config))
    _refuse(*found, _bucket(config))


def check_kubeflow(config: Config) -> None:
    """Checks the settings of a pipeline in containers, whose files cannot be seen from here.

    Args:
        config: All settings, with paths as they were given.

    Raises:
        ConfigError: A setting cannot work; the message names all of them.
    """
    _refuse(_orchestrated(config), _settings(config), _kubeflow(config))


def _refuse(*findings: Iterator[str]) -> None:
    problems = [problem for found in findings for problem in found]
    if problems:
        raise ConfigError("\n".join(problems))


def _one_process() -> Iterator[str]:
    """TensorFlow sets up several workers at a process's start only, and here earlier steps have used it by then."""
    try:
        workers = devices.worker_count()
    except (ValueError, AttributeError, TypeError):
        yield "TF_CONFIG: it is no JSON that describes training workers, which TensorFlow expects there; unset it"
        return
    if workers > 1:
        yield f"TF_CONFIG: it names {workers} training workers, and a run trains in one process; unset it"


def _orchestrated(config: Config) -> Iterator[str]:
    if config.task != "text":
        yield f"task: {config.task} trains with `htr run` only; orchestrators run the pipeline of task: text"


def _airflow(config: Config) -> Iterator[str]:
    if not config.data.paths:
        yield "data.paths: name the data, with --data or in the configuration"


def _workspace(config: Config, known: bool = True) -> Iterator[str]:
    """A workspace whose files a run would take for data; one below a data folder is passed over where it is known.

    Args:
        config: All settings, with absolute paths.
        known: Whether ML Metadata lies in the workspace, by which readers of the data know it.
    """
    if not storage.is_remote(config.workspace) and glob.has_magic(config.workspace):
        yield (
            f"workspace: {config.workspace} holds one of the characters * ? [, which stand for other names where files "
            "are listed. Name another folder with --workspace"
        )
    workspace = _without_links(config.workspace)
    for path in config.data.paths:
        folder = _without_links(path)
        if folder == workspace or (not known and storage.is_inside(workspace, folder)):
            yield (
                f"workspace: what runs write into {config.workspace} would be read as data, which is in {path}. Name "
                "another folder with --workspace"
            )


def _without_links(path: str) -> str:
    return path if storage.is_remote(path) else os.path.realpath(path)


def _settings(config: Config) -> Iterator[str]:
    """What the settings alone tell."""
    if config.name == LINE_FINDER:
        yield f"name: {LINE_FINDER} is the name of the line finder, and both would lie in one directory: choose another"
    if config.data.alphabet is not None:
        unusable = [c for c in config.data.alphabet if not c.isprintable()]
        if not config.data.alphabet:
            yield "data.alphabet: it is empty; list the allowed characters, or leave it out to take those of the labels"
        elif unusable:
            yield f"data.alphabet: {', '.join(map(repr, unusable))} cannot be in a label"
    if not config.train.names_start:
        yield from _problems(lambda: warm_start.settled(config.train, config.transform, config.model))
    yield from _problems(lambda: beam_options.check_for_pipeline(config.beam))


def _here(config: Config) -> Iterator[str]:
    """What the files of this machine tell."""
    if config.train.names_start:
        start = config.train.warm_start or ""
        yield from _problems(
            lambda: warm_start.check_fits(warm_start.find_start(start), config.model, config.transform)
        )
    # Read to the end, since a line that is not UTF-8 may stand anywhere.
    yield from _problems(lambda: deque(texts.lines(config.language.texts), maxlen=0))
    if not storage.is_remote(config.model_dir):
        yield from _writable("push.model_dir" if config.push.model_dir else "workspace", config.model_dir)
    if config.bulk.folder and not (storage.is_remote(config.bulk.folder) or os.path.isdir(config.bulk.folder)):
        yield f"bulk.folder: {config.bulk.folder} does not exist or is not a folder"
    finder = config.bulk.line_finder
    if finder and not storage.is_remote(finder):
        yield from _problems(lambda: named_version(finder, "line finder"), "bulk.line_finder: ")
    yield from _server_command(config)
    for name, paths in (("setup_file", [config.beam.setup_file]), ("extra_packages", config.beam.extra_packages)):
        for path in filter(None, paths):
            if not (storage.is_remote(path) or os.path.exists(path)):
                yield f"beam.{name}: {path} does not exist"


def _server_command(config: Config) -> Iterator[str]:
    if config.push.server_command and not shutil.which(config.push.server_command[0]):
        yield f"push.server_command: there is no program {config.push.server_command[0]} (not a path, nor on the PATH)"


def _bucket(config: Config) -> Iterator[str]:
    """What the store says to the credentials of this process, which training would take hours to come to."""
    if storage.is_remote(config.model_dir):
        yield from _problems(lambda: storage.check_writable(config.model_dir), "push.model_dir: ")
    finder = config.bulk.line_finder
    if finder and storage.is_remote(finder):
        yield from _problems(lambda: named_version(finder, "line finder"), "bulk.line_finder: ")
    if config.bulk.folder and storage.is_remote(config.bulk.folder):
        yield from _problems(lambda: storage.is_dir(config.bulk.folder or ""), "bulk.folder: ")


def _problems(check: Callable[[], object], setting: str = "") -> Iterator[str]:
    try:
        check()
    except (ConfigError, LineGateError, NoVersionError, warm_start.WarmStartError, BaseModelError, OSError) as error:
        if isinstance(error, OSError) and error.errno in _DISK:  # no setting is wrong
            raise
        yield f"{setting}{error}"


def _writable(setting: str, folder: str) -> Iterator[str]:
    """Whether files can be made in a folder, which may have to be made first.

    Raises:
        OSError: The disk is read-only.
    """
    place = nearest(folder)
    if not os.path.isdir(place):
        yield f"{setting}: {folder} cannot be a folder, since {place} is not one"
    elif not os.access(place, os.W_OK | os.X_OK):
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), place)
        yield f"{setting}: {folder} cannot be written, since {place} is not writable for this user"


def _slices(config: Config, tables: list[Table], plan: Plan) -> Iterator[str]:
    """Bounds for slices that the evaluation split will not have: the gate would refuse every model."""
    bounds = {name: value for name, equals, value in (b.partition("=") for b in config.gate.slice_max_cer) if equals}
    unknown_writers = all(table.writer is None for table in tables)
    if unknown_writers and any(name.partition("=")[0] == "writer" for name in config.gate.slice_max_cer):
        yield "gate.slice_max_cer: writer: the data does not say who wrote what (data.writer_column)"
        return
    found = eval_slices(tables, plan, config.data) if bounds else {}
    for bound in config.gate.slice_max_cer:
        name, equals, value = bound.partition("=")
        if equals and value not in found[name]:
            there = sorted(filter(None, found[name]))
            yield (
                f"gate.slice_max_cer: {bound}: no image of this {name.replace('_', ' ')} is in the evaluation split, "
                f"which has {some(there, _SHOWN)}{did_you_mean(value, there)}"
            )


def _kubeflow(config: Config) -> Iterator[str]:
    """What Kubeflow does not take, or what containers cannot find."""
    settings = config.kubeflow
    if "_" in config.name:
        yield f"name: Kubeflow allows no underscore in a pipeline's name (got {config.name!r})"
    if not config.push.model_dir:
        yield (
            "push.model_dir: name the folder of the models as the containers see it, on a volume "
            "(kubeflow.volumes={htr-models: /models}, push.model_dir=/models/htr) or in a bucket (gs://...)"
        )
    if not config.data.paths:
        yield "data.paths: name the data as the containers see it, on a volume or in a bucket"
    for section, name, value in config.paths():
        for path in [value] if isinstance(value, str) else value:
            if not (storage.is_remote(path) or os.path.isabs(path)):
                yield f"{section}.{name}: {path} is relative; name it as the containers see it, such as /data/names"
            elif path.startswith("minio://"):
                yield (
                    f"{section}.{name}: only Kubeflow itself knows minio://; write s3{path.removeprefix('minio')} and "
                    "name the endpoint in kubeflow.env, such as {AWS_ENDPOINT_URL: "
                    "http://seaweedfs.kubeflow:9000} (minio-service.kubeflow before Kubeflow Pipelines 2.16)"
                )
    if config.drift.fail:
        yield (
            "drift.fail: runs on Kubeflow do not look back at earlier runs, so no drift would end them. Leave it out; "
            "`htr drift --fail` can stand before them"
        )
    yield from _pipeline_root(settings)
    if config.beam.runner != "local" and settings.stage_artifacts:
        yield (
            f"beam.runner: workers of {config.beam.runner} cannot see the local copies that steps work on; set "
            "kubeflow.stage_artifacts=false and a kubeflow.pipeline_root at gs://, or leave the runner out"
        )
    if settings.accelerators and not settings.trainer_image:
        yield (
            f"kubeflow.accelerators: {settings.accelerators} would be reserved for kubeflow.image, which has no CUDA. "
            "Name an image that has it with kubeflow.trainer_image, or leave the accelerators out"
        )
    if settings.host and not re.match(r"https?://[^/]+", settings.host):
        yield f"kubeflow.host: {settings.host!r} is no address such as https://kubeflow.example.com/pipeline"
    yield from _mounts(config.push.model_dir, settings)


def _mounts(model_dir: str | None, settings: KubeflowConfig) -> Iterator[str]:
    """Mounts that no pod can have, and a model directory that would vanish with the pod of Pusher."""
    kinds = {"volumes": settings.volumes, "secret_volumes": settings.secret_volumes}
    mounts = [(f"{kind}: {claim}", path) for kind, paths in kinds.items() for claim, path in paths.items()]
    for name, where in (("scratch", settings.scratch), *mounts):
        if not os.path.isabs(where):
            yield f"kubeflow.{name}: {where!r} is no absolute path, as a mount in a container must be"
    taken: dict[str, str] = {}
    for name, where in mounts:
        if (other := taken.setdefault(os.path.normpath(where), name)) != name:
            yield f"kubeflow.{name}: {other} is mounted at {where}, too; a path can hold one of them"
    volumes = map(os.path.normpath, settings.volumes.values())
    if model_dir and os.path.isabs(model_dir):
        place = PurePosixPath(os.path.normpath(model_dir))
        if not any(place.is_relative_to(volume) for volume in volumes):
            yield (
                f"push.model_dir: {model_dir} is on no volume, and what a container writes elsewhere is gone with it. "
                "Name a folder below a mount of kubeflow.volumes, such as {htr-models: /models}, or in a bucket"
            )


def _pipeline_root(settings: KubeflowConfig) -> Iterator[str]:
    """Kubeflow's launcher reads and writes the root; steps do only where it does not copy for them."""
    root, setting = settings.pipeline_root or "", "kubeflow.pipeline_root"
    scheme, query = root.partition("://")[0], root.partition("?")[2]
    if root and not re.match(rf"({'|'.join(_OBJECT_STORES)})://[^/?]+", root):
        yield (
            f"{setting}: {root!r} is no address in an object store, such as "
            f"{', '.join(f'{scheme}://bucket/htr' for scheme in _OBJECT_STORES)}"
        )
    elif scheme == "gs" and query:
        yield f"{setting}: {root!r} names an endpoint or region, which only s3:// and minio:// have"
    if not settings.stage_artifacts and scheme != "gs":
        yield (
            f"kubeflow.stage_artifacts: false needs a {setting} at gs://, since TensorFlow and Beam, which then read "
            f"and write artifacts themselves, do not know {f'{scheme}://' if root else 'what Kubeflow has by default'}"
        )
