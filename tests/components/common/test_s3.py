"""Data, models and texts in a bucket of a real S3 server."""

import os
import shutil
import threading

import boto3
import pytest
import s3fs

from components.common import storage
from components.common.in_service import in_service
from components.common.versions import list_versions, offered
from components.example_gen import dataset
from components.example_gen.dataset import Sample, examine_all
from components.example_gen.fingerprint import fingerprint
from components.example_gen.folders import find_tables
from components.example_gen.outages import StoreError
from components.example_gen.settings import DataConfig
from components.language import texts
from components.line_finder.steps.example_gen import _Examine
from components.pages.files import PageFile
from components.pusher import publishing
from components.transform.settings import TransformConfig
from pipeline import cli
from tests.conftest import drawn_image, encode, until, write_dataset


@pytest.fixture
def bucket(s3):
    return s3.bucket()


@pytest.fixture
def names(tmp_path, bucket):
    """A dataset in a bucket."""
    rows = [{"filename": f"images/{i}.png", "text": f"word {i}", "writer": str(i % 5)} for i in range(8)]
    folder = write_dataset(tmp_path / "names", rows)
    storage.copy_tree(str(folder), f"{bucket}/names")
    return f"{bucket}/names"


@pytest.fixture
def model(tmp_path):
    source = tmp_path / "export"
    (source / "variables").mkdir(parents=True)
    (source / "saved_model.pb").write_bytes(b"graph")
    (source / "variables" / "variables.index").write_bytes(b"index")
    for shard in range(8):
        (source / "variables" / f"variables.data-{shard:05d}-of-00008").write_bytes(bytes([shard]) * 1000)
    return str(source)


def test_objects_are_read_whole_in_part_and_empty(bucket, tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)))
    (tmp_path / "empty").touch()
    storage.copy_tree(str(tmp_path), bucket)
    assert storage.read(f"{bucket}/file") == bytes(range(256))
    assert storage.read(f"{bucket}/file", 10) == bytes(range(10))
    assert storage.read(f"{bucket}/file", 1000, 250) == bytes(range(250, 256))
    assert storage.read(f"{bucket}/empty", 10) == storage.read(f"{bucket}/file", 0) == b""
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        storage.read(f"{bucket}/none", 10)
    assert storage.entries(bucket) == ([], ["empty", "file"])
    assert storage.is_dir(bucket) and not storage.is_dir(f"{bucket}/file") and not storage.exists(f"{bucket}/none")


def test_a_folder_that_is_an_empty_object_is_no_file(bucket):
    client, name = boto3.client("s3"), bucket.removeprefix("s3://")
    for key in ("data/", "data/a.txt", "data/below/"):
        client.put_object(Bucket=name, Key=key, Body=b"")
    assert storage.entries(f"{bucket}/data") == (["below"], ["a.txt"])
    assert [file.path for file in storage.files(f"{bucket}/data")] == [f"{bucket}/data/a.txt"]


def test_a_dataset_in_a_bucket_gives_what_it_gives_here(names, tmp_path):
    there, here = (
        list(examine_all(DataConfig(paths=[path]), TransformConfig())) for path in (names, str(tmp_path / "names"))
    )
    assert there == here and sum(isinstance(sample, Sample) for sample in there) == 8


def test_a_replaced_image_is_another_dataset(names):
    tables, _ = find_tables(DataConfig(paths=[names]))
    before = fingerprint(tables)
    assert fingerprint(tables) == before
    storage.write(f"{names}/images/3.png", encode(drawn_image(120, 40, 99)))
    assert fingerprint(tables) != before


def test_check_reads_a_bucket_and_writes_its_report_there(names, bucket, capsys):
    assert cli.main(["check", "--data", names, "--rejects", f"{bucket}/rejects.csv"]) == cli.OK
    assert "8" in capsys.readouterr().out
    assert storage.read(f"{bucket}/rejects.csv").startswith(b"csv,")


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_missing_bucket_is_one_sentence(command, names, tmp_path, capsys):
    place = ["--workspace", str(tmp_path / "w")]
    assert cli.main([command, "--data", "s3://htr-no-such-bucket/names", *place]) == cli.USAGE
    assert "The data folder s3://htr-no-such-bucket/names does not exist." in capsys.readouterr().err
    settings = ["--set", "push.model_dir=s3://htr-no-such-bucket/models"]
    assert cli.main([command, "--data", names, *place, *settings]) == cli.USAGE
    error = capsys.readouterr().err
    assert "push.model_dir: s3://htr-no-such-bucket/models/" in error and "no such file, folder or bucket" in error


def test_refused_credentials_are_one_sentence(s3, names, tmp_path, capsys):
    with s3.refusing():
        assert cli.main(["check", "--data", names]) == cli.USAGE
        first = capsys.readouterr().err
        data = str(tmp_path / "names")
        assert cli.main(["check", "--data", data, "--set", f"push.model_dir={names}/models"]) == cli.USAGE
        second = capsys.readouterr().err
    assert (
        first.count("\n") <= 2 and f"The data folder {names} cannot be read: the store refuses the credentials" in first
    )
    assert f"push.model_dir: {names}/models/" in second and "the store refuses the credentials" in second


@pytest.fixture
def anew():
    """Has the libraries look at the environment again."""

    def forget():
        storage._file_system.cache_clear()
        s3fs.S3FileSystem.clear_instance_cache()

    yield forget
    forget()


def test_credentials_that_nobody_has_set(names, tmp_path, monkeypatch, anew, capsys):
    """Nothing but setting them helps, unless the machine's role gives them; so orchestrators try again."""
    data, output = str(tmp_path / "names"), str(tmp_path / "texts.csv")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for file in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(file, str(tmp_path / "none"))
    for name, what, code in (
        ("AWS_SECRET_ACCESS_KEY", "Partial credentials found in env", cli.USAGE),
        ("AWS_ACCESS_KEY_ID", "there are no credentials for s3://", cli.ERROR),
    ):
        monkeypatch.delenv(name)
        for command, where, ends in (
            (["check", "--data", names], f"The data folder {names} cannot be read", code),
            (["check", "--data", data, "--set", f"push.model_dir={names}"], f"push.model_dir: {names}/", cli.USAGE),
            (["transcribe", "--input", names, "--output", output], f"--input: {names}", code),
        ):
            anew()
            assert cli.main(command) == ends
            told = capsys.readouterr().err
            assert f"error: {where}" in told and what in told and "set AWS_ACCESS_KEY_ID and AWS_SECRET" in told
            assert "try again" not in told and "goes on" not in told


@pytest.fixture
def dead_endpoint(monkeypatch, anew):
    """No store listens there; libraries give up at once."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    anew()


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_store_that_does_not_answer_is_no_wrong_data(command, dead_endpoint, tmp_path, capsys):
    place = ["--workspace", str(tmp_path / "w")]
    assert cli.main([command, "--data", "s3://bucket/names", *place]) == cli.ERROR
    error = capsys.readouterr().err
    assert "The data folder s3://bucket/names cannot be read: " in error and "Its store, disk or network fails" in error
    pages = ["--task", "pages"] if command == "run" else []
    assert cli.main([command, "--data", "s3://bucket/names", *place, *pages]) == cli.ERROR
    assert cli.main([command, "--data", str(tmp_path / "names"), *place]) == cli.USAGE


def test_an_image_of_a_store_that_does_not_answer_is_not_rejected(dead_endpoint):
    with pytest.raises(StoreError, match=r"The data cannot be read: s3://bucket/names/a\.png: .* Its store, disk or"):
        dataset._read_file("s3://bucket/names/a.png", DataConfig())


def test_texts_of_a_store_that_does_not_answer_are_no_wrong_setting(dead_endpoint):
    with pytest.raises(StoreError, match=r"language\.texts: s3://bucket/a\.txt cannot be read: .* fails: try again"):
        list(texts.lines(["s3://bucket/a.txt"]))


def test_a_store_that_fails_ends_the_run_instead_of_rejecting_its_images(s3, names):
    examined = examine_all(DataConfig(paths=[names]), TransformConfig())
    with s3.refusing(), pytest.raises(ValueError, match="cannot be read"):
        list(examined)


def test_a_store_that_fails_ends_the_run_instead_of_rejecting_its_pages(s3, bucket):
    file = PageFile(f"{bucket}/scans/a.xml", f"{bucket}/scans", "scans/a", "scans/a", "")
    with s3.refusing(), pytest.raises(ValueError, match="The pages cannot be read"):
        list(_Examine(10**7).process((file, "train")))


def test_a_workspace_in_a_bucket_is_refused(names, capsys):
    assert cli.main(["run", "--data", names, "--workspace", "s3://bucket/workspace"]) == cli.USAGE
    assert "workspace: s3://bucket/workspace is in a bucket" in capsys.readouterr().err


def test_a_server_that_polls_sees_a_version_whole_or_not_at_all(model, bucket):
    """The reader asks the store as TensorFlow Serving does: numbers first, then what lies below each."""
    models, files = f"{bucket}/models", len(list(storage.files(model)))
    client, name = boto3.client("s3"), bucket.removeprefix("s3://")
    stop, loadable, unloadable = threading.Event(), set(), set()

    def poll():
        while not stop.is_set():
            listed = client.list_objects_v2(Bucket=name, Prefix="models/").get("Contents", [])
            below = [tuple(entry["Key"].split("/")[1:]) for entry in listed]
            for number in {key[0] for key in below}:
                content = [key for key in below if key[0] == number]
                (loadable if (number, "saved_model.pb") in content else unloadable).add((number, len(content)))

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        pushed = [publishing.push(model, models, keep=1) for _ in range(3)]
        until(lambda: (str(pushed[-1]), files) in loadable)
    finally:
        stop.set()
        reader.join()
    assert {count for _, count in loadable} == {files}
    assert unloadable, "the reader has seen no push under way"
    assert [version.number for version in list_versions(models)] == pushed[-1:]


def test_a_broken_push_is_no_version(model, bucket):
    models = f"{bucket}/models"
    first = publishing.push(model, models, keep=2)
    for number in (first + 50, 1):  # one that may be under way, and one that was killed long ago
        storage.copy_file(f"{model}/variables/variables.index", f"{models}/{number}/variables/variables.index")
    assert [version.number for version in offered(models)] == [first] and in_service(models, "htr").number == first
    second = publishing.push(model, models, keep=2)
    assert second == first + 51
    assert [version.number for version in list_versions(models)] == [first, second]
    assert storage.entries(models)[0] == [str(first), str(first + 50), str(second)]


def test_an_object_does_not_leave_the_folder_that_it_is_copied_to(bucket, tmp_path):
    storage.write(f"{bucket}/1/../../outside", b"x")
    with pytest.raises(OSError, match="leads out of the folder"):
        storage.copy_tree(f"{bucket}/1", str(tmp_path / "1"))
    assert not (tmp_path.parent / "outside").exists()


def test_a_copy_of_a_folder_is_deleted_with_its_block(model, bucket):
    storage.copy_tree(model, f"{bucket}/1")
    with storage.here(f"{bucket}/1") as folder:
        assert storage.digest(folder) == storage.digest(model)
    assert not os.path.exists(folder)
    shutil.rmtree(model)
    with pytest.raises(FileNotFoundError), storage.here(f"{bucket}/none"):
        pass
