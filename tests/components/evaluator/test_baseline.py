"""Which model a candidate is compared with."""

import json
import uuid
from pathlib import Path

import pytest

from components.common import storage
from components.common.in_service import VersionError
from components.common.versions import kept_start, list_versions
from components.evaluator.baseline import find
from components.evaluator.verdict import Baseline
from components.pusher import publishing
from serving.rollout.moving import Rollout


@pytest.fixture
def place(tmp_path):
    """Makes exported models; a model directory that is empty."""

    class Place:
        model_dir = str(tmp_path / "serving" / "htr")

        def model(self, name):
            folder = tmp_path / name
            if not folder.exists():
                (folder / "variables").mkdir(parents=True)
                (folder / "variables" / "variables.index").write_text(name)
                (folder / "saved_model.pb").write_text(name)
            return str(folder)

        def push(self, name, keep=9, noted=None):
            number = publishing.push(self.model(name), self.model_dir, keep)
            if noted:
                with open(f"{self.model_dir}/{number}.metrics.json", "w") as file:
                    json.dump({"compared_with": json.loads(noted.as_json())}, file)
            return number

        def find(self, candidate, warm_start=None, model_dir=None, off=None):
            return find(model_dir or self.model_dir, "htr", self.model(candidate), warm_start, off)

    return Place()


def kind(found):
    return found.kind, found.version


def test_nothing_in_service(place):
    assert kind(place.find("c")) == ("none", None) and "no version is in service" in str(place.find("c"))


def test_a_version_that_no_server_can_load_is_not_in_service(place):
    a, b = place.push("a"), place.push("b")
    Path(place.model_dir, str(b), "variables", "variables.index").unlink()
    assert kind(place.find("c")) == ("in_service", a)


def test_the_newest_version_that_is_not_withdrawn(place):
    a, b = place.push("a"), place.push("b")
    assert kind(place.find("c")) == ("in_service", b)
    publishing.roll_back(place.model_dir)
    found = place.find("c")
    assert kind(found) == ("in_service", a) and found.digest == storage.digest(place.model("a"))
    # What is withdrawn is a candidate like any other.
    assert kind(place.find("b")) == ("in_service", a)
    publishing.restore(place.model_dir, b)
    assert kind(place.find("c")) == ("in_service", b)


def test_the_version_under_the_label_stable(place):
    a, b, c = place.push("a"), place.push("b"), place.push("c")
    rollout = Rollout(place.model_dir, "htr")
    rollout.promote(a, "stable")
    rollout.promote(b, "canary")
    assert kind(place.find("d")) == ("in_service", a)
    # Pushed, but not promoted: the same comparison again.
    assert kind(place.find("c")) == ("in_service", a)
    rollout.promote(c, "stable")
    assert kind(place.find("d")) == ("in_service", c)
    rollout.roll_back("stable")
    assert kind(place.find("d")) == ("in_service", a)


def test_labels_of_another_model_say_nothing(place):
    a, b = place.push("a"), place.push("b")
    Rollout(place.model_dir, "another").promote(a, "stable")
    assert kind(place.find("c")) == ("in_service", b)


def test_a_file_of_labels_that_cannot_be_read_is_named(place):
    place.push("a")
    Path(place.model_dir, "..", "models.config").write_text("model_config_list {")
    with pytest.raises(VersionError, match="not a readable model configuration"):
        place.find("c")


def test_a_candidate_in_service_is_compared_with_what_it_was_compared_with(place):
    """Also where retention has deleted that since: a repeated run finds its steps cached."""
    a = place.push("a")
    before = place.find("b")
    assert kind(before) == ("in_service", a)
    place.push("b", keep=1, noted=before)
    assert [version.number for version in list_versions(place.model_dir)] != [a]
    assert place.find("b") == before
    assert kind(place.find("c"))[0] == "in_service" and place.find("c").version > a


def test_a_candidate_in_service_of_which_nothing_is_noted(place):
    place.push("a")
    assert place.find("a") == Baseline("none", reason="the model itself is in service")
    place.push("b", noted=Baseline("off", reason="another alphabet"))
    assert place.find("b") == Baseline("none", reason="the model itself is in service")


def test_a_comparison_that_is_left_out_still_knows_the_version_in_service(place):
    """For which an unchanged model is no new version."""
    assert place.find("c", off="another alphabet") == Baseline("off", reason="another alphabet")
    a = place.push("a")
    found = place.find("c", off="another alphabet")
    assert (kind(found), found.path, found.in_service) == (("off", None), "", f"{place.model_dir}/{a}")
    assert place.find("c").in_service == found.in_service
    place.push("c", noted=found)
    assert place.find("c", off="another alphabet") == found, "a repeated run finds its steps cached"


def test_the_base_of_a_warm_start_where_nothing_is_in_service(place, tmp_path):
    base = place.model("base")
    found = place.find("c", warm_start=base)
    assert (found.kind, found.path, found.digest) == ("warm_start", base, storage.digest(base))
    elsewhere = str(tmp_path / "elsewhere")
    number = publishing.push(base, elsewhere, 5)
    assert place.find("c", warm_start=elsewhere).path == f"{elsewhere}/{number}"
    a = place.push("a")
    assert kind(place.find("c", warm_start=base)) == ("in_service", a)


def test_versions_in_a_bucket(place, tmp_path):
    bucket = f"memory://{uuid.uuid4().hex}/serving"  # fsspec's file system in memory
    first, second = (publishing.push(place.model(name), f"{bucket}/htr", 9) for name in ("a", "b"))
    assert kind(place.find("c", model_dir=f"{bucket}/htr/")) == ("in_service", second)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "models.config").write_text(
        f'model_config_list {{ config {{ name: "htr" version_labels {{ key: "stable" value: {first} }} }} }}'
    )
    storage.copy_tree(str(tmp_path / "labels"), bucket)
    assert kind(place.find("c", model_dir=f"{bucket}/htr")) == ("in_service", first)


def test_a_training_that_leaves_the_version_in_service_as_it_was_needs_no_push(place, tmp_path):
    old, serving, newest = (place.push(name) for name in "abc")
    paths = {number: f"{place.model_dir}/{number}" for number in (old, serving, newest)}
    (tmp_path / "link").symlink_to(place.model_dir)

    def kept(start, best_epoch=0, language_model=b"", base_model=False):
        version = tmp_path / "candidate"
        for name, content in (
            ("assets.extra/htr.json", json.dumps({
                "start": {"name": start, "base_model": base_model}, "training": {"best_epoch": best_epoch}
            }).encode()),
            ("assets/language_model", language_model),
        ):  # fmt: skip
            (version / name).parent.mkdir(parents=True, exist_ok=True)
            (version / name).write_bytes(content)
        return kept_start(str(version), paths[serving])

    assert kept(paths[serving]) == kept(f"{tmp_path}/link/{serving}") == f"version {serving}"
    assert kept(paths[newest]) == f"version {newest}"
    assert kept(paths[old]) == kept("nothing") == kept(str(tmp_path / "elsewhere" / "9")) == ""
    assert kept(paths[serving], best_epoch=3) == kept(paths[serving], language_model=b"other") == ""
    assert kept("the base model, version 1", base_model=True) == "the base model"
    assert kept_start(place.model("d")) == ""
