"""`htr doctor`: what it says of this machine, and of machines made of a few files."""

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import pytest

from components.trainer.devices import system_gpus
from htr_client.cores import usable_cores, visible_cores
from pipeline import cli
from pipeline.doctor import examination, gpu_comparison, machine
from pipeline.runners.process import limit_threads
from serving.options import ServerOptions
from tests.pipeline.test_cli import HEAVY

pytestmark = pytest.mark.either_stack

ROOT = Path(__file__).parents[2]
# A driver of one card that answers as far as being counted.
DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int number) { *device = 0; return 0; }
int cuDeviceGetName(char *name, int length, int device) { name[0] = 'F'; name[1] = 0; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 1; return 0; }
int nvmlInit_v2(void) { return 0; }
int cuDeviceGetPCIBusId(char *id, int length, int device) { __builtin_strcpy(id, "0000:01:00.0"); return 0; }
"""
VERSION = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Thu Oct 19 18:56:32 UTC 2023\n"


def write(root: Path, **files: str) -> Path:
    """Files by their paths, with __ for slashes."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def with_card(root: Path, driver: str = "550.54.14") -> Path:
    information = {"proc__driver__nvidia__gpus__0000:01:00.0__information": "Model: \t\t NVIDIA RTX 4090\n"}
    return write(root, proc__driver__nvidia__version=VERSION.format(driver), **information)


def texts(findings, kind: str) -> str:
    return "\n".join(text for finding in findings for text in getattr(finding, kind))


def test_doctor_examines_this_machine_without_tensorflow_in_its_own_process(tmp_path):
    code = (
        "import sys\nfrom pipeline import cli\n"
        f"code = cli.main(['doctor', '--json', '--workspace', {str(tmp_path / 'new')!r}])\n"
        f"loaded = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "assert not loaded, loaded\nsys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert done.returncode == (1 if found["problems"] else 0) == 0, done.stdout + done.stderr
    assert found["htr"]["python"] == platform.python_version() and found["htr"]["executable"] == sys.executable
    assert found["stack"]["tfx"] and found["stack"]["different"] == []
    assert "glibc" in found["system"]["text"] or platform.libc_ver()[0] != "glibc"
    assert str(tmp_path / "new") in found["disk"]["free"] and found["processor"]["name"]
    assert found["gpu"]["gpus"] == [{"name": gpu.name, "memory": gpu.memory} for gpu in machine.gpus()[0]]
    assert [*found["ports"]["taken"], found["workspace"]["writable"]] == [*examination.ports().values["taken"], True]
    assert found["cores"]["count"] >= 1 and found["memory"]["total"] > 2**30
    assert found["tensorflow"]["cuda"].startswith("12") and found["tensorflow"]["failed"] == {}
    assert not (tmp_path / "new").exists()


def test_a_workspace_that_is_a_link_to_nothing_is_a_finding(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for workspace in (tmp_path / "link", tmp_path / "link" / "below"):
        free = examination.disk(str(workspace)).values["free"]
        assert free[str(workspace)] > 0
        found = examination.writing(str(workspace))
        assert not found.values["writable"] and f"{workspace} cannot be written (No such file" in found.problems[0]


def test_limits_of_a_container_are_read(tmp_path):
    sizes = "MemTotal: 16777216 kB\nMemFree: 100 kB\nMemAvailable: 8388608 kB\n"
    root = write(tmp_path, proc__meminfo=sizes, proc__self__cgroup="0::/a/b\n")
    assert machine.cores(root)[1] is None and machine.memory(root) == (16 * 2**30, 8 * 2**30, None)
    assert usable_cores(root) == visible_cores()
    write(root, sys__fs__cgroup__a__b__cgroup="")
    (root / "sys/fs/cgroup/a/b/cpu.max").write_text("max 100000\n")
    (root / "sys/fs/cgroup/cpu.max").write_text("200000 100000\n")
    (root / "sys/fs/cgroup/a/cpu.max").write_text("50000 100000\n")
    (root / "sys/fs/cgroup/memory.max").write_text(f"{2 * 2**30}\n")
    assert machine.cores(root) == (visible_cores(), 0.5) and machine.memory(root)[2] == 2 * 2**30
    assert usable_cores(root) == 1
    finding = examination.memory(root)
    assert "limit of the container 2.0 GB" in finding.text and "2.0 GB of memory can be used" in finding.notes[0]


def test_tensorflow_gets_the_threads_of_a_limit_unless_told(tmp_path):
    names = ["TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"]
    root = write(tmp_path, proc__self__cgroup="0::/\n", **{"sys__fs__cgroup__cpu.max": "max 100000\n"})
    with mock.patch.dict(os.environ, {names[0]: "7"}):
        os.environ.pop(names[1], None)
        limit_threads(root)
        assert names[1] not in os.environ
        write(root, **{"sys__fs__cgroup__cpu.max": "50000 100000\n"})
        limit_threads(root)
        assert [os.environ[name] for name in names] == ["7", "1"]


def test_limits_of_an_older_container_are_read(tmp_path):
    root = write(
        tmp_path, proc__meminfo="MemTotal: 8388608 kB\nMemAvailable: 8388608 kB\n",
        **{"sys__fs__cgroup__cpu__cpu.cfs_quota_us": "150000\n", "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000\n",
           "sys__fs__cgroup__memory__memory.limit_in_bytes": "9223372036854771712\n"},
    )  # fmt: skip
    assert machine.cores(root)[1] == 1.5 and machine.memory(root)[2] is None
    assert usable_cores(root) == min(2, visible_cores())
    (root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("100000\n")
    assert usable_cores(root) == 1
    (root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert machine.cores(root)[1] is None


def test_a_processor_without_avx_prevents_work(tmp_path):
    root = write(tmp_path, proc__cpuinfo="model name\t: Old Celeron\nflags\t\t: fpu sse2\n")
    assert "(Old Celeron) has no AVX" in examination.processor(root).problems[0]
    write(root, proc__cpuinfo="model name\t: New Xeon\nflags\t\t: fpu avx avx2 avx512f amx_tile amx_bf16\n")
    finding = examination.processor(root)
    assert finding.text == "New Xeon: AVX, AVX2, AVX-512, AMX, bfloat16" and not finding.problems


def test_packages_that_are_not_those_of_the_lock_file_are_named(tmp_path):
    tfx = examination.versions()["tfx"]
    shutil.copy(ROOT / "requirements/portable.txt", tmp_path / "other.txt")
    lines = [
        f"tfx=={tfx}",
        "numpy==0.0.1",
        'no-such-package==1 ; python_version >= "3"',
        'none==1 ; python_version < "3"',
    ]
    (tmp_path / "current.txt").write_text("# comment\n" + "\n".join(lines) + "\n    # via tfx\n")
    finding = examination.packages(tmp_path)
    assert finding.values["stack"] == "current" and not finding.problems
    assert "2 packages differ" in finding.notes[0] and "locked 0.0.1" in finding.notes[0]
    assert "no-such-package missing, locked 1" in finding.notes[0] and "./setup_env.sh" in finding.notes[0]
    assert "no lock file" in examination.packages(tmp_path / "none").text


def test_a_gpu_that_tensorflow_does_not_see_is_explained(tmp_path, monkeypatch):
    """With a driver that finds one card, and without CUDA's libraries."""
    if list(Path(sys.prefix).glob("lib/python*/site-packages/nvidia/*/lib/libcudnn.so.*")):
        pytest.skip("CUDA's libraries are installed")
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    build = ["g++", "-x", "c", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "driver.c")]
    subprocess.run(build, check=True)
    shutil.copy(library, tmp_path / "libnvidia-ml.so.1")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    root = with_card(tmp_path / "root")
    findings = examination.examine(str(tmp_path / "workspace"), root)
    notes = texts(findings, "notes")
    assert not texts(findings, "problems")
    assert (
        re.search(r"NVIDIA RTX 4090 is not used: lib.*libcublas\.so\.12.* not found\.", notes)
        and "libcudnn.so." in notes
    )
    assert "HTR_CUDA=1 ./setup_env.sh installs" in notes
    assert "the driver supports CUDA up to 12.4" in examination.as_text(findings)


def test_no_gpu_to_measure_ends_with_what_else_can_be_done(tmp_path, capsys):
    assert cli.main(["doctor", "--gpu", "--workspace", str(tmp_path)]) == cli.ERROR
    told = capsys.readouterr()
    assert "TensorFlow sees no GPU here. `htr doctor --gpu --device cpu` measures the CPU alone." in told.err
    assert "GPU" in told.out


FOUND = {"failed": {}, "cuda": "12.3", "cudnn": "8", "driver_cuda": "12.4", "missing": [], "gpus": []}


@pytest.mark.parametrize(
    ("found", "driver", "visible", "told"),
    [
        ({}, "470.223.02", None, "driver 470.223.02 is older than 525.60.13, which CUDA 12 needs. Update it"),
        ({"driver_cuda": None}, "550.54.14", None, "libcuda.so.1 and libnvidia-ml.so.1 of the driver cannot be loaded"),
        ({"missing": ["libnvidia-ml.so.1"]}, "550.54.14", None, "docker run --gpus all"),
        ({"missing": ["libcudnn.so.8"]}, "550.54.14", None, "libcudnn.so.8 not found. HTR_CUDA=1 ./setup_env.sh"),
        ({"missing": ["libcudnn.so.8"]}, "550.54.14", "-1", "CUDA_VISIBLE_DEVICES='-1' hides it"),
        ({"log": ["failed call to cuInit: UNKNOWN ERROR (999)"]}, None, None, "says: failed call to cuInit: UNKNOWN"),
        ({}, "550.54.14", None, "TF_CPP_MIN_LOG_LEVEL=0"),
    ],
)
def test_why_a_gpu_is_not_used(monkeypatch, found, driver, visible, told):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    card = machine.Gpu("NVIDIA RTX 4090", 24 * 2**30)
    finding = examination.tensorflow({**FOUND, **found}, [card], driver)
    assert "not on the GPU" in finding.text and told in finding.notes[0] and not finding.problems


def test_a_gpu_that_cannot_compute_and_a_tensorflow_that_cannot_be_imported_prevent_work():
    gpus = [{"name": "NVIDIA RTX 5090", "capability": "12.0"}]
    failed = {**FOUND, "gpus": gpus, "gpu_error": "InternalError: no kernel image is available"}
    (problem,) = examination.tensorflow(failed, [], "570.1").problems
    assert "no kernel image" in problem and "CUDA_VISIBLE_DEVICES=-1" in problem
    (problem,) = examination.tensorflow({"failed": {"ml_metadata": "ImportError: GLIBC_2.38"}}, [], None).problems
    assert "ml_metadata: ImportError: GLIBC_2.38" in problem and "./setup_env.sh" in problem


def test_a_tensorflow_that_ends_its_process_is_reported():
    code = "import os, sys; print('Illegal instruction', file=sys.stderr); sys.stderr.flush(); os.abort()"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        found = examination.finish_probe(process)
    assert found == {"failed": {"tensorflow": "its process ended with code -6 Illegal instruction"}}


def test_a_card_without_nvidias_driver_is_found(tmp_path):
    card = "sys__bus__pci__devices__0000:01:00.0__"
    root = write(tmp_path, **{f"{card}vendor": "0x10de\n", f"{card}class": "0x030000\n"})
    sound = "sys__bus__pci__devices__0000:01:00.1__"
    write(root, **{f"{sound}vendor": "0x10de\n", f"{sound}class": "0x040300\n"})
    assert machine.gpus(root) == ([], None)
    finding = examination.graphics([], None, root)
    assert "1 NVIDIA card(s) on the PCI bus without NVIDIA's driver" in finding.notes[0]
    (root / "sys/bus/pci/devices/0000:01:00.0/driver").symlink_to("/sys/bus/pci/drivers/nvidia")
    assert examination.graphics([], None, root).text == "none found"


def test_the_driver_tells_of_its_cards(tmp_path):
    root = with_card(tmp_path)
    assert machine.gpus(root) == ([machine.Gpu("NVIDIA RTX 4090", None)], "550.54.14")
    program = write(root, usr__bin__smi="#!/bin/sh\necho NVIDIA H100 80GB HBM3, 570.86.15, 81559\n") / "usr/bin/smi"
    program.chmod(0o755)
    program.rename(program.with_name("nvidia-smi"))
    assert machine.gpus(root) == ([machine.Gpu("NVIDIA H100 80GB HBM3", 81559 * 2**20)], "570.86.15")
    assert "NVIDIA H100 80GB HBM3 (79.6 GB), driver 570.86.15" in examination.graphics(*machine.gpus(root)).text


def failing(bench, device, what, **arguments):
    raise gpu_comparison.BenchmarkError("Training on the CPU failed: no memory.")


@pytest.mark.parametrize(
    ("device", "workspace", "do", "why"),
    [
        ("gpu", "new", None, "TensorFlow sees no GPU here."),
        ("cpu", "file/workspace", None, "cannot be written (Not a directory)"),
        ("cpu", "new", failing, "Training on the CPU failed: no memory."),
    ],
)
def test_a_program_gets_json_where_nothing_is_measured(tmp_path, monkeypatch, capsys, device, workspace, do, why):
    (tmp_path / "file").touch()
    if do:
        monkeypatch.setattr(gpu_comparison._Bench, "do", do)
    command = ["doctor", "--gpu", "--json", "--device", device, "--workspace", str(tmp_path / workspace)]
    assert cli.main(command) == cli.ERROR
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert why in found["problems"][-1] and found["htr"]["python"] == platform.python_version()


def test_set_up_and_doctor_want_the_same_driver():
    script = (ROOT / "setup_env.sh").read_text()
    assert re.findall(r"^oldest_driver=(\S+)", script, re.M) == [machine.OLDEST_DRIVER]


def test_a_taken_port_is_noted(monkeypatch):
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(examination, "PORTS", {port: ("gRPC", "--port")})
        monkeypatch.setattr(examination, "OPTIONAL_PORTS", {})
        finding = examination.ports()
    assert finding.text == f"{port} taken (gRPC)" and "`htr serve --port=N` uses another" in finding.notes[0]
    assert examination.ports().text == f"{port} free (gRPC)"


def test_the_ports_are_those_that_serve_opens(monkeypatch):
    monkeypatch.setattr(examination, "_taken", lambda port: True)
    finding = examination.ports()
    assert finding.values["taken"] == [ServerOptions.port, 8600, 8501] and ServerOptions.rest_api_port == 0
    assert [re.search(r"--\w+", note).group() for note in finding.notes] == ["--port", "--ui_port"]
    assert finding.text.endswith("8501 taken (REST, only with --rest_api_port=8501)")


def test_a_workspace_that_cannot_be_written_prevents_work(tmp_path):
    (tmp_path / "file").touch()
    (problem,) = examination.writing(str(tmp_path / "file" / "workspace")).problems
    assert f"{tmp_path}/file/workspace cannot be written (Not a directory)" in problem
    assert not examination.writing(str(tmp_path / "not" / "there")).problems and not (tmp_path / "not").exists()


def test_a_full_disk_is_noticed(tmp_path, monkeypatch):
    for free, problems, notes in ((10 * 2**20, 2, 0), (2**30, 0, 2), (2**40, 0, 0)):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: shutil._ntuple_diskusage(free, 0, free))
        finding = examination.disk(str(tmp_path / "workspace"))
        assert (len(finding.problems), len(finding.notes)) == (problems, notes)


def test_texts_of_the_gpu_are_compared_with_those_of_the_cpu():
    def answers(device, precision, texts, confidences):
        figures = {"texts": texts, "confidences": confidences, "cer": 0.1, "rate": 10, "milliseconds": 1}
        return gpu_comparison.Transcription("gpu-float32", device, precision, figures)

    cpu = answers("cpu", "float32", ["a", "b", "c"], [0.5, 0.6, 0.7])
    alike = answers("gpu", "float32", ["a", "b", "c"], [0.5, 0.61, 0.7])
    other = answers("gpu", "float32", ["a", "x", "c"], [0.5, 0.1, 0.75])
    assert alike.difference(cpu) == (0, pytest.approx(0.01)) and other.difference(cpu) == (1, pytest.approx(0.05))
    assert gpu_comparison.Comparison({}, [], [cpu, alike]).problems() == []
    (problem,) = gpu_comparison.Comparison({}, [], [cpu, other]).problems()
    assert "1 of 3 texts of the model gpu-float32 differently" in problem
    half = answers("gpu", "float16", other.figures["texts"], other.figures["confidences"])
    assert gpu_comparison.Comparison({}, [], [cpu, half]).problems() == []


def test_the_plan_of_a_measurement(monkeypatch):
    """Trainings and transcriptions with a GPU, which no machine of these tests has, and their tables."""
    jobs = []

    def answer(bench, device, what, **arguments):
        jobs.append((device, what, arguments))
        if what == "prepare":
            return {"train": 1000, "validation": 10, "eval": 3}
        if what == "train":
            ran_on = "CPU" if device == "cpu" else "F, float16" if arguments["mixed_precision"] else "F"
            seconds, memory = (10.0, None) if device == "cpu" else (2.0, 2**30)
            precision = "float16" if "float16" in ran_on else "float32"
            return {"device": ran_on, "precision": precision, "epoch_seconds": seconds, "memory": memory}
        texts = ["a", "b", "x" if (device, arguments["precision"]) == ("gpu", "float16") else "c"]
        return {"texts": texts, "confidences": [0.5] * 3, "cer": 0.1, "rate": 10, "milliseconds": 1}

    monkeypatch.setattr(gpu_comparison._Bench, "do", answer)
    told = []
    found = gpu_comparison.compare("gpu", 60, told.append)
    trainings = [(where, job["name"], job["epochs"], job["mixed_precision"])
                 for where, what, job in jobs if what == "train"]  # fmt: skip
    assert trainings == [
        ("gpu", "gpu-float32", 2, False), ("gpu", "gpu-float32", 30, False), ("gpu", "gpu-float16", 30, True),
        ("cpu", "cpu-float32", 2, False), ("cpu", "cpu-float32", 6, False),
    ]  # fmt: skip
    transcriptions = [(job["name"], where, job["precision"]) for where, what, job in jobs if what == "transcribe"]
    models, devices, precisions = ("gpu-float32", "gpu-float16", "cpu-float32"), ("cpu", "gpu"), ("float32", "float16")
    assert transcriptions == [(m, d, p) for m in models for d in devices for p in precisions]
    assert found.problems() == [] and "This takes about 10 minutes" in told[0]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in found.as_markdown().splitlines() if "|" in line
    ]
    assert rows[0][:5] == ["model", "ran on", "epochs", "images/s", "times the CPU"]
    assert rows[3] == ["gpu-float16", "F, float16", "30", "500", "5.0", "0.1000", "1024 MB"]
    assert rows[4] == ["cpu-float32", "CPU", "6", "100", "1.0", "0.1000", ""]
    assert [row[6] for row in rows[7:]] == ["0", "0", "0", "1"] * 3
    jobs.clear()
    assert [training.epochs for training in gpu_comparison.compare("cpu", 20, told.append).trainings] == [2]
    assert [what for _, what, _ in jobs].count("train") == 1, "what has measured the epochs is the training"


def test_a_gpu_without_fast_float16_is_told():
    figures = {"texts": ["a"], "confidences": [0.5], "cer": 0.1, "rate": 10, "milliseconds": 1}
    answers = [gpu_comparison.Transcription("gpu-float16", "cpu", "float32", figures)]
    training = gpu_comparison.Training("gpu-float16", "gpu", 2, 10, {"precision": "float32"})
    (problem,) = gpu_comparison.Comparison({}, [training], answers).problems()
    assert "trained in float32: this GPU has no fast float16" in problem


@pytest.mark.parametrize(("device", "visible"), [("cpu", "-1"), ("gpu", "3")])
def test_only_measurements_of_the_gpu_see_it(tmp_path, monkeypatch, device, visible):
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\nprintf \'"%s"\' "$CUDA_VISIBLE_DEVICES" > "${3%.json}.answer"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert gpu_comparison._Bench(tmp_path, 30.0).do(device, "train") == visible


def test_a_measurement_that_takes_too_long_keeps_what_it_said(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho started\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(gpu_comparison.BenchmarkError, match="on the CPU took longer than 1 s: started") as raised:
        gpu_comparison._Bench(tmp_path, 1.0).do("cpu", "train")
    assert Path(str(raised.value).rpartition(" ")[2]).read_text() == "started\n"


@pytest.mark.slow
@pytest.mark.either_stack
def test_the_measurement_runs_on_the_cpu(tmp_path, capsys):
    command = ["doctor", "--gpu", "--device", "cpu", "--seconds", "1", "--workspace", str(tmp_path)]
    assert cli.main(command) == cli.OK, capsys.readouterr()
    told = capsys.readouterr()
    assert "This takes about" in told.err and "Measuring how many epochs the CPU does in 1 s" in told.err
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in told.out.splitlines() if line[:1] == "|"]
    training, transcriptions = (
        dict(zip(rows[0], rows[2], strict=True)),
        [dict(zip(rows[3], row, strict=True)) for row in rows[5:]],
    )
    assert (
        training["model"] == "cpu-float32" and training["ran on"].startswith("CPU") and float(training["images/s"]) > 1
    )
    more = int(training["epochs"]) > 2  # than it takes to measure how many there can be
    assert ("Training on the CPU in float32, " in told.err) == more
    assert [(row["device"], row["precision"]) for row in transcriptions] == [("cpu", "float32"), ("cpu", "float16")]
    assert all(float(row["images/s"]) > 1 for row in transcriptions)
    assert transcriptions[0]["other texts"] == "0" and transcriptions[0]["CER"] == training["CER"]
    assert float(training["CER"]) < 0.5, "a training that starts from the base model reads from its first epoch"
    assert transcriptions[1]["confidence differs by"] != transcriptions[0]["confidence differs by"]


def test_a_measurement_that_fails_keeps_its_log(tmp_path, monkeypatch, capsys):
    probed = {"failed": {}, "cuda": "12.3", "cudnn": "8", "driver_cuda": None, "gpus": []}
    log = "Traceback (most recent call last):\n  ...\nMemoryError: of 2 GB\n"
    program = tmp_path / "python"
    program.write_text(
        f"#!/bin/sh\ncase $2 in\n*.probe) echo '{json.dumps(probed)}' ;;\n*) printf '%s' '{log}' >&2; exit 3 ;;\nesac\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cli.main(["doctor", "--gpu", "--device", "cpu", "--workspace", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "error: prepare on the CPU ended with code 3: MemoryError: of 2 GB\n" in told
    assert Path(told.rstrip().rpartition("Its log is ")[2]).read_text() == log


def test_a_machine_with_cards_is_what_the_trainer_finds_too(tmp_path):
    assert system_gpus(str(with_card(tmp_path))) == ["NVIDIA RTX 4090"]
