"""The base models that are shipped: small files of the package that become a version like any other.

`files/PRESET/` holds what `pack` makes of an exported version:

    base.json        number of the version, and the size of each of its files
    weights.npz      its weights; matrices and kernels in float16, see `_PLANES`
    version.zip      its other files; the weights that the graph holds as constants are cut out
    model_card.md    what it was trained on, how well it transcribes, its limits
    metrics.json     the same figures for programs, where the version has them
    texts.txt.gz     what its language model learnt from, one text a line, where the version has one

`unpack` writes the version, with weights in float32, to the user's cache. It needs neither TensorFlow nor TFX.
"""

from __future__ import annotations

import datetime
import functools
import gzip
import hashlib
import json
import os
import shutil
import tempfile
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from components.common import storage, version_settings
from htr_client.language import LanguageModel
from serving.version_directory import CARD_FILE, GRAPH_FILE, LANGUAGE_MODEL_FILE, METRICS_FILE, SETTINGS_FILE

FOLDER = Path(__file__).parent / "files"
_FACTS, _WEIGHTS, _OTHERS, _TEXTS = "base.json", "weights.npz", "version.zip", "texts.txt.gz"
_INDEX, _DATA = "variables/variables.index", "variables/variables.data-00000-of-00001"
_FINGERPRINT = "fingerprint.pb"
# Ends the keys of tensors in float16. All lower bytes of one stand before all upper ones, uint8 [2, ...], as HDF5's
# shuffle filter has them: apart they are compressed to 0.93 of the size.
_PLANES = ".float16"
PAGES = "pages"
"""Name of the line finder among the base models."""


class BaseModelError(RuntimeError):
    """There is no such base model, or a version cannot become one; the message says why."""


def presets() -> list[str]:
    """The presets for which a base model is shipped; the line finder is none."""
    return sorted({path.parent.name for path in FOLDER.glob(f"*/{_FACTS}")} - {PAGES})


def is_shipped(preset: str) -> bool:
    """Whether there is a base model for a preset, or the base line finder for `PAGES`."""
    return (FOLDER / preset / _FACTS).exists()


def preset_of(settings: Mapping[str, Any]) -> str:
    """The name among the base models of what the settings file of a version is of: its preset, or `PAGES`."""
    return PAGES if version_settings.is_line_finder(settings) else str(settings["transform"]["preset"])


def unpack(preset: str) -> str:
    """Provides a base model as a version directory, alone in a directory of versions.

    It is made once for each release of the model, in the user's cache folder; where that cannot be written, in a
    temporary folder that goes when this process ends. Several processes may ask for it at once.

    Args:
        preset: Preset of the model, see `presets`, or `PAGES`.

    Returns:
        Path of the version. Its number is a date, less than that of any pushed version.

    Raises:
        BaseModelError: None is shipped for the preset, or its files are damaged.
        OSError: There is no room for it.
    """
    packed = FOLDER / preset
    if not is_shipped(preset):
        if preset == PAGES:
            raise BaseModelError("There is no base line finder in this installation.")
        known = ", ".join(presets())
        raise BaseModelError(
            f"There is no base model for transform.preset={preset} in this installation"
            + (f"; there is one for {known}." if known else ", and none for another preset.")
        )
    missing = [name for name in (_WEIGHTS, _OTHERS) if not (packed / name).exists()]
    if missing:
        raise _damaged(packed, f"it lacks {' and '.join(missing)}")
    try:
        facts = json.loads((packed / _FACTS).read_text("utf-8"))
    except ValueError as error:
        raise _damaged(packed, f"{_FACTS}: {error}") from error
    # Another release has another name: the old one may be in use.
    name = f"{preset}-{release(preset)}"
    for folder in (cache_folder, _temporary):
        directory = folder() / "base_model" / name
        version = directory / str(facts["version"])
        if _is_whole(version, facts["files"]):
            return str(version)
        try:
            _unpack(packed, directory, facts)
        except OSError:
            if folder is _temporary:
                raise
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
            raise _damaged(packed, error) from error
        else:
            return str(version)
    raise AssertionError("unreachable")


def _damaged(packed: Path, why: object) -> BaseModelError:
    return BaseModelError(f"The base model in {packed} is damaged ({why}): install htr again.")


def texts(preset: str) -> list[str]:
    """What the language model of a base model learnt from: texts that anybody may know; none where none are shipped."""
    packed = FOLDER / preset / _TEXTS
    return gzip.decompress(packed.read_bytes()).decode().splitlines() if packed.exists() else []


def language_model(preset: str) -> LanguageModel | None:
    """The language model of a base model; None where it has none, or none is shipped."""
    if not is_shipped(preset):
        return None
    content = storage.read(os.path.join(unpack(preset), LANGUAGE_MODEL_FILE))
    return LanguageModel.from_bytes(content) if content else None


def release(preset: str) -> str | None:
    """What changes with every release of a base model; None where there is none."""
    return storage.digest(str(FOLDER / preset))[:16] if is_shipped(preset) else None


def cache_folder() -> Path:
    """The user's folder for what can be made again."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return Path(given if os.path.isabs(given) else os.path.expanduser("~/.cache")) / "htr"


def _temporary() -> Path:
    return Path(_temporary_folder().name)


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="htr-")  # a new one: what lies ready in /tmp may be anybody's


def _is_whole(version: Path, sizes: dict[str, int]) -> bool:
    """Whether all files are there: caches are cleaned file by file, and a computer may have been switched off."""
    try:
        return all((version / name).stat().st_size == size for name, size in sizes.items())
    except OSError:
        return False


def _unpack(packed: Path, directory: Path, facts: dict[str, Any]) -> None:
    number, sizes = facts["version"], facts["files"]
    directory.parent.mkdir(parents=True, exist_ok=True)
    incoming = directory.with_name(f".incoming-{uuid.uuid4().hex}")
    try:
        version = incoming / str(number)
        with zipfile.ZipFile(packed / _OTHERS) as others:
            others.extractall(version)
        with np.load(packed / _WEIGHTS, allow_pickle=False) as weights, open(version / _DATA, "wb") as data:
            # In the order of the index.
            stored = {key.removesuffix(_PLANES): _as_stored(_joined(key, weights[key])) for key in weights.files}
            data.writelines(stored.values())
        with open(version / GRAPH_FILE, "r+b") as graph:
            for place, key in facts["constants"]:
                graph.seek(place)
                graph.write(stored[key])
        for file in (CARD_FILE, METRICS_FILE):
            if (packed / file).exists():
                shutil.copyfile(packed / file, incoming / f"{number}.{file}")
        if directory.exists() and not _is_whole(directory / str(number), sizes):
            outgoing = directory.with_name(f".outgoing-{uuid.uuid4().hex}")
            directory.rename(outgoing)
            shutil.rmtree(outgoing)
        try:
            incoming.rename(directory)
        except OSError:
            if not _is_whole(directory / str(number), sizes):  # else another process was faster
                raise
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _parted(key: str, weight: np.ndarray) -> tuple[str, np.ndarray]:
    """The name and the array by which `weights.npz` holds a weight."""
    if weight.dtype != np.float16:
        return key, weight
    numbers = weight.astype("<f2").view("<u2")
    return key + _PLANES, np.stack([numbers & 0xFF, numbers >> 8]).astype(np.uint8)


def _joined(name: str, array: np.ndarray) -> np.ndarray:
    """The weight that `weights.npz` holds so; undoes `_parted`."""
    if not name.endswith(_PLANES):
        return array
    lower, upper = array.astype("<u2")
    return (upper << 8 | lower).view("<f2")


def _as_stored(weight: np.ndarray) -> bytes:
    """The bytes of a tensor in a checkpoint of TensorFlow."""
    return (weight.astype("<f4") if weight.dtype == np.float16 else weight).tobytes()


def pack(version: str, preset: str, texts: Iterable[str] = ()) -> Path:
    """Makes a version the base model of a preset.

    Matrices and kernels are rounded to float16. Vectors (biases, means and variances of the normalisation) are few and
    stay as they are, since a small variance would lose its digits.

    Args:
        version: Directory of an exported version, with its model card and metrics beside it as Pusher leaves them.
        preset: Preset of the model, or `PAGES`.
        texts: What its language model learnt from, all of it public.

    Returns:
        The folder that was written.

    Raises:
        BaseModelError: It is no version, has another preset or no model card, or float16 cannot hold a weight.
    """
    source = Path(version)
    _check(source, preset)
    weights, index, data = _rounded(source)
    constants = _constants(source, weights)
    contents = {
        path.relative_to(source).as_posix(): path.read_bytes()
        for path in sorted(source.rglob("*"))
        if path.is_file() and path.parent.name != "variables"
    }
    beside = {file: source.with_name(f"{source.name}.{file}") for file in (CARD_FILE, METRICS_FILE)}
    told = {file: path.read_text("utf-8") for file, path in beside.items() if path.exists()}
    told[SETTINGS_FILE] = contents[SETTINGS_FILE].decode()
    told = _without_places(told)
    contents[SETTINGS_FILE] = told.pop(SETTINGS_FILE).encode()
    graph = bytearray(contents[GRAPH_FILE])
    for place, key in constants:
        size = len(_as_stored(weights[key]))
        graph[place : place + size] = bytes(size)
    contents |= {GRAPH_FILE: bytes(graph), _INDEX: index, _FINGERPRINT: _fingerprint(contents[_FINGERPRINT], index)}
    facts = {
        "version": int(f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%d}"),
        "files": {name: len(content) for name, content in {**contents, _DATA: data}.items()},
        "constants": constants,
    }
    target = FOLDER / preset
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with zipfile.ZipFile(target / _OTHERS, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as others:
        for name, content in contents.items():
            others.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # without the time of today
    np.savez_compressed(target / _WEIGHTS, **dict(_parted(key, weight) for key, weight in weights.items()))
    (target / _FACTS).write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    for file, text in told.items():
        (target / file).write_text(text, "utf-8")
    if lines := sorted(texts):
        content = "".join(f"{line}\n" for line in lines).encode()
        (target / _TEXTS).write_bytes(gzip.compress(content, mtime=0))
    return target


def _check(version: Path, preset: str) -> None:
    wanted = "the base line finder" if preset == PAGES else f"the base model for transform.preset={preset}"
    refused = f"{version} cannot be {wanted}"
    settings = version_settings.read(str(version))
    if not settings:
        raise BaseModelError(f"{refused}: it is no version of this pipeline, since it lacks {SETTINGS_FILE}.")
    own = preset_of(settings)
    if own != preset:
        kind = "it is a line finder" if own == PAGES else f"it was trained with transform.preset={own}"
        raise BaseModelError(f"{refused}: {kind}.")
    card = version.with_name(f"{version.name}.{CARD_FILE}")
    if not card.exists():
        raise BaseModelError(f"{refused}: it has no model card; {card} does not exist.")


def _without_places(told: dict[str, str]) -> dict[str, str]:
    """What a version tells, by file, without the folders of the machine on which it was trained."""
    config = json.loads(told.get(METRICS_FILE, "{}")).get("config", {})
    names = {path: os.path.basename(path.rstrip("/")) for path in _absolute_paths(config)}
    start = json.loads(told[SETTINGS_FILE]).get("start", {}).get("name", "")
    if os.path.isabs(start):
        names[start] = f"version {os.path.basename(start)}"
    for file, text in told.items():
        for place in sorted(names, key=len, reverse=True):
            text = text.replace(place, names[place])
        told[file] = text
    return told


def _absolute_paths(value: Any) -> Iterator[str]:
    """The settings that are paths from the root, wherever they stand; "/" itself names no folder."""
    if isinstance(value, str):
        if os.path.isabs(value) and value.strip("/"):
            yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _absolute_paths(part)


def _fingerprint(content: bytes, index: bytes) -> bytes:
    """TensorFlow's digest of a model, for rounded weights: batch transcriptions tell models apart by it."""
    from tensorflow.core.protobuf import fingerprint_pb2

    fingerprint = fingerprint_pb2.FingerprintDef.FromString(content)
    fingerprint.checkpoint_hash = int.from_bytes(hashlib.sha256(index).digest()[:8], "big")
    return fingerprint.SerializeToString(deterministic=True)


def _constants(version: Path, weights: dict[str, np.ndarray]) -> list[tuple[int, str]]:
    """Where the graph holds weights as constants: places in its file, and the keys of the weights."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    graph = (version / GRAPH_FILE).read_bytes()
    found = []
    for key, rounded in weights.items():
        content = _as_stored(reader.get_tensor(key)) if rounded.dtype == np.float16 else b""
        place = graph.find(content) if content else -1
        while place >= 0:
            found.append((place, key))
            place = graph.find(content, place + len(content))
    return sorted(found)


def _rounded(version: Path) -> tuple[dict[str, np.ndarray], bytes, bytes]:
    """Weights to store by their keys, and the two files of the checkpoint that they become again."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    tensors = {key: reader.get_tensor(key) for key in sorted(reader.get_variable_to_shape_map())}
    weights = {}
    for key, value in tensors.items():
        if isinstance(value, bytes):
            continue
        with np.errstate(over="ignore"):
            weights[key] = value.astype(np.float16) if value.dtype == np.float32 and value.ndim > 1 else value
        if not np.isfinite(weights[key]).all():
            raise BaseModelError(f"{version} cannot be a base model: {key} has a value that float16 cannot hold.")
        tensors[key] = weights[key].astype(value.dtype)
    with tempfile.TemporaryDirectory() as folder:
        prefix = os.path.join(folder, "variables")
        tf.raw_ops.SaveV2(
            prefix=prefix, tensor_names=list(tensors), shape_and_slices=[""] * len(tensors),
            tensors=[tf.constant(value) for value in tensors.values()],
        )  # fmt: skip
        index = Path(f"{prefix}.index").read_bytes()
        data = Path(f"{prefix}.data-00000-of-00001").read_bytes()
    # The one string, which describes the objects, comes first, with a checksum that only TensorFlow's own code makes.
    rest = b"".join(map(_as_stored, weights.values()))
    if not data.endswith(rest):
        raise BaseModelError(f"{version} cannot be a base model: TensorFlow does not store its weights in order.")
    [graph] = tensors.keys() - weights.keys()
    head = np.frombuffer(data[: len(data) - len(rest)], np.uint8)
    return {graph: head, **weights}, index, data
