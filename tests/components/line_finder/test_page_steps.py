"""Steps of the pipeline of pages: how pages are divided, what is measured on them, what the gate says of it."""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.evaluator.verdict import Baseline
from components.example_gen.settings import DataConfig
from components.example_gen.table import DatasetError
from components.line_finder.data import LabelledPage
from components.line_finder.measuring import TextErrors, compare, texts_of
from components.line_finder.metric import LineScore
from components.line_finder.page_plan import plan_pages, stamps
from components.line_finder.settings import LineGateConfig, PagesConfig
from components.line_finder.verdict import LineVerdict, decide, metrics_of
from components.pages.files import find_pages
from htr_client.pages import Line, Page, write
from tests.components.line_pages import LINE, save_page, straight

GREY = np.full((200, 300), 230, np.uint8)
ALL_FOUND = LineScore(20, 20, 20)


def planned(folder, document):
    return plan_pages(DataConfig(paths=[str(folder)]), PagesConfig(document=document))


def test_pages_of_a_document_stay_together_and_every_split_has_some(tmp_path):
    for document in range(5):
        for leaf in range(3):
            save_page(tmp_path / "letters", f"letter{document}-{leaf}")
    plan = planned(tmp_path / "letters", r"letter(\d)")
    splits = {}
    for file, split in plan.pages:
        splits.setdefault(file.writer, set()).add(split)
    assert len(plan.pages) == 15 and sorted(splits) == list("01234")
    assert all(len(found) == 1 for found in splits.values())
    assert set().union(*splits.values()) == {"train", "validation", "eval"}
    assert [split for _, split in planned(tmp_path / "letters", r"letter(\d)").pages] == [s for _, s in plan.pages]


@pytest.mark.parametrize("document", ["auto", "folder", "(.*)$"])
def test_another_data_folder_of_the_same_name_changes_no_split(tmp_path, document):
    folders = [tmp_path / "two" / "scans", tmp_path / "one" / "scans"]
    for i in range(30):
        save_page(folders[1] / f"letter{i}", "leaf")
    for i in range(3):
        save_page(folders[0] / f"parcel{i}", "leaf")

    def splits(*paths):
        plan = plan_pages(DataConfig(paths=[str(path) for path in paths]), PagesConfig(document=document))
        return {file.path: split for file, split in plan.pages}

    before, after = splits(folders[1]), splits(*folders)
    assert len(after) == 33 and before.items() <= after.items()


def test_flat_folders_of_one_name_are_documents_of_their_own(tmp_path):
    folders = [tmp_path / name / "scans" for name in ("one", "two", "three", "four")]
    for folder in folders:
        save_page(folder, "leaf0")
        save_page(folder, "leaf1")
    found = find_pages([str(folder) for folder in folders], "folder")
    assert {page.writer for page in found} == {f"{folder.parent.name}/scans" for folder in folders}
    assert len({page.name for page in found}) == 8 and {page.key for page in found} == {"scans/leaf0", "scans/leaf1"}


def test_what_cannot_be_used_is_rejected_with_its_reason(tmp_path):
    folder = tmp_path / "letters"
    for leaf in range(6):
        save_page(folder, f"leaf{leaf}")
    save_page(folder, "empty", lines=())
    (folder / "broken.xml").write_text("<PcGts>")
    # The same image in another format: in two splits, it would be trained on and evaluated.
    again = Page("leaf0.png", 300, 200, (LINE,))
    (folder / "leaf0-alto.xml").write_text(write(again, "alto"), encoding="utf-8")
    plan = planned(folder, "auto")
    assert len(plan.pages) == 6
    assert {one.page.rpartition("/")[2]: one.reason for one in plan.rejected} in (
        {"empty": "no_lines", "broken": "damaged_xml", "leaf0-alto": "same_image"},
        {"empty": "no_lines", "broken": "damaged_xml", "leaf0": "same_image"},
    )


def test_an_image_goes_to_the_page_that_has_baselines(tmp_path):
    folder = tmp_path / "letters"
    for leaf in range(6):
        save_page(folder, f"leaf{leaf}")
        outlines = Page(f"leaf{leaf}.png", 300, 200, (replace(LINE, baseline=()),))
        (folder / f"leaf{leaf}-a.xml").write_text(write(outlines, "alto"), encoding="utf-8")
    plan = planned(folder, "auto")
    assert {os.path.basename(file.path) for file, _ in plan.pages} == {f"leaf{leaf}.xml" for leaf in range(6)}
    assert [one.reason for one in plan.rejected] == ["no_geometry"] * 6


def test_only_pages_are_lost_not_the_other_files_of_an_export(tmp_path):
    folder = tmp_path / "letters"
    for leaf in range(6):
        save_page(folder, f"leaf{leaf}")
        (folder / "alto").mkdir(exist_ok=True)
        page = Page(f"leaf{leaf}.png", 300, 200, (replace(LINE, baseline=()),) if leaf else (LINE,))
        (folder / "alto" / f"leaf{leaf}-alto.xml").write_text(write(page, "alto"), encoding="utf-8")
    (folder / "mets.xml").write_text('<mets xmlns="http://www.loc.gov/METS/"/>')
    save_page(folder / "elsewhere" / "deeper", "leaf1")  # which finds the image of another page only
    (folder / "elsewhere" / "deeper" / "leaf1.png").unlink()
    plan = planned(folder, "auto")
    assert sorted(one.reason for one in plan.rejected if not one.lost) == [
        *["no_geometry"] * 5, "not_a_page", "same_image",
    ]  # fmt: skip
    assert [one.page for one in plan.rejected if one.lost] == ["letters/elsewhere/deeper/leaf1"]


def test_a_page_without_its_image_does_not_get_that_of_a_page_that_cannot_be_used(tmp_path):
    for leaf in range(6):
        save_page(tmp_path / "a", f"leaf{leaf}")
    save_page(tmp_path / "b", "leaf6", (replace(LINE, baseline=()),))
    save_page(tmp_path / "a", "leaf6")
    (tmp_path / "a" / "leaf6.png").unlink()
    plan = planned(tmp_path, "auto")
    assert len(plan.pages) == 6
    rejected = {one.page.partition("/")[2]: (one.reason, one.lost) for one in plan.rejected}
    assert rejected["a/leaf6"] == ("same_image", True) and rejected["b/leaf6"] == ("no_geometry", True)
    (tmp_path / "b" / "leaf6.xml").unlink()
    plan = planned(tmp_path, "auto")
    assert len(plan.pages) == 7 and "another folder: 1, such as" in plan.notes[-1] and "a/leaf6." in plan.notes[-1]


def test_of_two_files_of_a_page_the_one_that_knows_more_of_its_lines_is_used(tmp_path):
    """As Transkribus exports them: ALTO has boxes, and PAGE the document."""
    for leaf in range(10):
        save_page(tmp_path, f"leaf{leaf}")
        boxes = (tmp_path / f"leaf{leaf}.xml").rename(tmp_path / f"leaf{leaf}-a.xml")
        outline = replace(LINE, polygon=((20, 40), (280, 44), (280, 70), (20, 66)), baseline=((20, 60), (280, 64)))
        written = write(Page(f"leaf{leaf}.png", 300, 200, (outline,)), "page")
        document = f'<TranskribusMetadata docId="{leaf // 2}"/></Metadata>'
        named = tmp_path / f"leaf{leaf}-b.xml" if leaf else boxes  # the document is taken from either file
        (tmp_path / f"leaf{leaf}-b.xml").write_text(written)
        named.write_text(named.read_text().replace("</Metadata>", document))
    plan = planned(tmp_path, "auto")
    assert [os.path.basename(file.path) for file, _ in plan.pages] == [f"leaf{leaf}-b.xml" for leaf in range(10)]
    assert [file.writer for file, _ in plan.pages] == [str(leaf // 2) for leaf in range(10)]
    assert not any("no document" in note for note in plan.notes)


def test_pages_without_a_document_are_told(tmp_path):
    for leaf in range(6):
        save_page(tmp_path, f"leaf{leaf}")
    (note,) = [note for note in planned(tmp_path, "auto").notes if "document" in note and "splits" not in note]
    assert note.startswith("6 pages of 6 name no document") and "pages.document=folder" in note
    assert not any("no document" in note for note in planned(tmp_path, ".*").notes)


def test_a_page_of_another_shape_does_not_take_the_image_of_a_page(tmp_path):
    for leaf in range(6):
        save_page(tmp_path / "letters", f"leaf{leaf}")
    wrong = Page("leaf0.png", 300, 300, (LINE,))
    (tmp_path / "letters" / "leaf0-alto.xml").write_text(write(wrong, "alto"), encoding="utf-8")
    plan = planned(tmp_path / "letters", "auto")
    assert len(plan.pages) == 6
    (rejected,) = plan.rejected
    assert (rejected.page, rejected.reason) == ("letters/leaf0-alto", "other_image") and "300 x 200" in rejected.detail


def test_too_few_documents_are_told_with_what_to_do(tmp_path):
    for leaf in range(6):
        save_page(tmp_path / "letters", f"leaf{leaf}")
    with pytest.raises(DatasetError, match=r"6 usable pages of 1 document cannot be divided .*pages\.document='\.\*'"):
        planned(tmp_path / "letters", "folder")
    assert len(planned(tmp_path / "letters", ".*").pages) == 6
    with pytest.raises(DatasetError, match=r"pages\.document \( is neither auto nor folder"):
        planned(tmp_path / "letters", "(")
    for leaf in range(2):
        save_page(tmp_path / "few", f"leaf{leaf}")
    with pytest.raises(DatasetError, match=r"2 usable pages of 2 documents .* four of like size usually do\.$"):
        planned(tmp_path / "few", ".*")


def test_a_changed_page_is_a_changed_input(tmp_path):
    save_page(tmp_path / "letters", "leaf")

    def taken():
        return list(stamps(DataConfig(paths=[str(tmp_path / "letters")]), PagesConfig()))

    before = taken()
    (tmp_path / "letters" / "notes.txt").write_text("no page")
    assert taken() == before and len(before) == 2
    (tmp_path / "letters" / "leaf.xml").write_text("<other/>")
    assert taken() != before


@pytest.mark.parametrize("place", ["beside", "linked"])
def test_a_changed_image_outside_of_the_data_is_a_changed_input(tmp_path, place):
    folder, scans = tmp_path / "letters", tmp_path / "scans"
    save_page(folder, "leaf")
    scans.mkdir()
    (folder / "leaf.png").rename(scans / "leaf.png")
    if place == "linked":
        (folder / "linked").symlink_to(scans)
    image = "../scans/leaf.png" if place == "beside" else "linked/leaf.png"
    (folder / "leaf.xml").write_text(write(Page(image, 300, 200, (LINE,)), "page"), encoding="utf-8")

    def taken():
        return list(stamps(DataConfig(paths=[str(folder)], allow_outside=True), PagesConfig()))

    before = taken()
    assert taken() == before
    (scans / "leaf.png").write_bytes(b"another")
    assert taken() != before


def test_images_may_lie_in_a_data_folder_of_their_own(tmp_path):
    scans, xml = tmp_path / "scans", tmp_path / "xml"
    for place in ("a/leaf", "b/leaf", "c/leaf", "d/leaf", "e/v1/leaf", "e/v2/leaf"):
        save_page(xml / Path(place).parent, "leaf")
        image = scans / f"{place}.png"
        image.parent.mkdir(parents=True)
        (xml / f"{place}.png").rename(image)
    (scans / "e" / "v1" / "leaf.png").rename(scans / "e" / "sheet.png")
    (scans / "e" / "v2" / "leaf.png").unlink()
    for volume in ("v1", "v2"):
        path = xml / "e" / volume / "leaf.xml"
        path.write_text(path.read_text().replace("leaf.png", "sheet.png"))
    data = DataConfig(paths=[str(xml), str(scans)])
    plan = plan_pages(data, PagesConfig(document="folder"))
    assert sorted(file.name for file, _ in plan.pages) == ["xml/a/leaf", "xml/b/leaf", "xml/c/leaf", "xml/d/leaf"]
    assert [(one.page, one.reason, one.lost) for one in plan.rejected] == [
        ("xml/e/v1/leaf", "ambiguous_file", True), ("xml/e/v2/leaf", "ambiguous_file", True)
    ]  # fmt: skip
    before = list(stamps(data, PagesConfig()))
    (scans / "a" / "leaf.png").write_bytes(b"another")
    assert list(stamps(data, PagesConfig())) != before


def test_a_workspace_within_the_data_holds_no_pages(tmp_path):
    for leaf in range(6):
        save_page(tmp_path, f"leaf{leaf}")
    config = DataConfig(paths=[str(tmp_path)])
    plan, taken = planned(tmp_path, "auto"), list(stamps(config, PagesConfig()))
    (tmp_path / "workspace" / "pipeline").mkdir(parents=True)
    (tmp_path / "workspace" / "metadata.db").touch()
    save_page(tmp_path / "workspace" / "pipeline" / "BulkInferrer", "transcribed")
    assert planned(tmp_path, "auto") == plan and list(stamps(config, PagesConfig())) == taken
    with pytest.raises(DatasetError, match="is the workspace of earlier runs"):
        planned(tmp_path / "workspace", "auto")


def labelled(*lines):
    return LabelledPage("page", "document", GREY, lines)


def test_what_is_read_in_found_lines_counts_where_they_lie():
    first, second = replace(straight(20, 280, 60), text="abcd"), replace(straight(20, 280, 120), text="efgh")
    unlabelled = straight(20, 280, 180)
    page = labelled(first, second, unlabelled)
    # In two parts, in the right order; the second line is missed, one without a label found.
    found = [straight(20, 140, 61), straight(150, 280, 61), straight(20, 280, 180)]
    errors = compare(page, ["abcx", "efgh", "?"], found, ["ab", "cd", "stamp"])
    assert (errors.true.edits, errors.true.length) == (1, 8)
    assert errors.found.edits == 1 + 4  # the space between the parts, all of the missed line
    assert errors.pages.edits > errors.found.edits  # which has the stamp, too
    assert errors.ratio == 5.0
    assert TextErrors().ratio == 1.0


def test_a_line_that_cannot_be_cut_counts_on_neither_side():
    lone = Line("abcd", baseline=((20, 60), (280, 60)))
    page = labelled(lone)
    read = texts_of(page, page.lines, lambda cut: [])
    errors = compare(page, read, [straight(20, 280, 61)], ["abcd"])
    assert (errors.true.length, errors.found.length, errors.uncut) == (0, 0, 1)
    assert TextErrors().merge(errors).uncut == 1


def test_parts_without_text_add_no_spaces():
    line = replace(straight(20, 280, 60), text="abcd")
    found = [straight(20, 90, 60), straight(100, 200, 60), straight(210, 280, 60)]
    assert compare(labelled(line), ["abcd"], found, ["", "abcd", None]).found.edits == 0


def test_a_line_over_two_columns_costs_both():
    left, right = replace(straight(20, 140, 60), text="abcd"), replace(straight(160, 280, 60), text="efgh")
    errors = compare(labelled(left, right), ["abcd", "efgh"], [straight(20, 280, 60)], ["abcd efgh"])
    assert errors.found.edits == 8  # it lies on neither


def metrics(edits_true, edits_found, score=ALL_FOUND):
    errors = TextErrors()
    errors.true.pairs[(edits_true, 100)] += 1
    errors.found.pairs[(edits_found, 100)] += 1
    errors.pages.pairs[(edits_found, 100)] += 1
    return metrics_of(2, score, errors)


BEFORE = Baseline("in_service", version=7, path="models/7")


def verdict(candidate, baseline=None, unchanged="", **bounds):
    compared = BEFORE if baseline else Baseline("none", reason="no version is in service yet")
    return decide(LineGateConfig(**bounds), candidate, baseline, compared, unchanged, "models/htr/3")


def test_a_line_finder_within_all_bounds_is_blessed_and_its_verdict_survives_json():
    found = verdict(metrics(20, 22), metrics(20, 22))
    assert found.blessed and not found.failures and not found.off
    assert LineVerdict.from_dict(found.as_dict()) == found


@pytest.mark.parametrize(
    ("found", "failure"),
    [
        (verdict(metrics(20, 24)), r"0\.2400, 1\.200 times .*0\.2000.*line_gate\.max_cer_ratio allows 1\.15"),
        (verdict(metrics(20, 20, LineScore(20, 20, 16))), r"F1 of the lines is 0\.8000 .*line_gate\.min_f1 asks for"),
        (
            verdict(metrics(20, 22), metrics(20, 20)),
            r"\+0\.100 against version 7 \(in service\), whose lines give 1\.000; line_gate\.max_ratio_increase allows",
        ),
        (verdict(metrics(20, 20), unchanged="version 7"), r"better than version 7, .* label more pages"),
    ],
)  # fmt: skip
def test_a_missed_bound_is_told_with_figure_and_setting(found, failure):
    assert not found.blessed and len(found.failures) == 1
    assert re.search(failure, found.failures[0])


def test_what_is_at_its_bound_meets_it_and_what_misses_it_by_little_is_told_with_more_digits():
    for edits in (50, 100, 150, 250, 400):
        found = verdict(metrics(edits, 1.02 * edits), metrics(edits, edits))
        assert found.blessed and found.metrics["cer_ratio"] - 1 > 0.02 - 1e-9, edits
    (told,) = verdict(metrics(10000, 11503)).failures
    assert "1.1503 times" in told and "allows 1.15" in told
    (told,) = verdict(metrics(10000, 10203), metrics(10000, 10000)).failures
    assert "+0.0203 against" in told and "give 1.0000; line_gate.max_ratio_increase allows +0.02" in told


def test_bounds_that_are_off_ask_nothing():
    found = verdict(metrics(20, 90, LineScore(20, 3, 1)), metrics(20, 20), max_cer_ratio=None, min_f1=None,
                    max_ratio_increase=None)  # fmt: skip
    assert found.blessed
    assert found.off == ["line_gate.max_cer_ratio", "line_gate.min_f1", "line_gate.max_ratio_increase"]
    assert [row.met for row in found.bounds] == [None, None, None]


def test_every_bound_is_told_with_what_was_measured():
    found = verdict(metrics(20, 24), metrics(20, 24), max_ratio_increase=None)
    assert [(row.setting, round(row.value, 3), row.bound, row.met) for row in found.bounds] == [
        ("line_gate.max_cer_ratio", 1.2, 1.15, False),
        ("line_gate.min_f1", 1.0, LineGateConfig().min_f1, True),
        ("line_gate.max_ratio_increase", 0.0, None, None),
    ]
    alone = verdict(metrics(20, 22)).bounds[-1]
    assert (alone.value, alone.met) == (None, None) and alone.bound is not None
