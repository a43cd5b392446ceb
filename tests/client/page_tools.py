"""Reads files of pages with tools that others have written; runs in the environment that `make page-tools` makes.

Usage: page_tools.py SCHEMAS FOLDER, where FOLDER holds out.page.xml, out.alto.xml and out.hocr. Prints JSON, and writes
theirs.page.xml, which pagexml-tools makes of what it has read.
"""

import json
import subprocess
import sys
from pathlib import Path

from hocr.parse import hocr_page_iterator, hocr_page_to_word_data
from lxml import etree
from pagexml.parser import parse_pagexml_file

schemas, folder = map(Path, sys.argv[1:])
page, alto, hocr = (str(folder / f"out.{ending}") for ending in ("page.xml", "alto.xml", "hocr"))


def problems(schema: str, file: str) -> str:
    # The schema of ALTO names that of XLink by its address, which is not asked.
    text = (schemas / "htrflow/serialization/schemas" / schema).read_text("utf-8")
    local = (schemas / "ocrd_validators/xlink.xsd").as_uri()
    text = text.replace("http://www.loc.gov/standards/xlink/xlink.xsd", local)
    validator = etree.XMLSchema(etree.fromstring(text.encode()))
    validator.validate(etree.parse(file))
    return str(validator.error_log)


scan = parse_pagexml_file(page)
lines = {
    line.id: {
        "text": line.text or "",
        "polygon": line.coords.points,
        "baseline": line.baseline.points if line.baseline else [],
        "words": [word.text for word in line.words],
    }
    for line in scan.get_lines()
}
tool = [Path(sys.executable).with_name("alto-tools"), "--text", alto]
text = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
(read,) = [hocr_page_to_word_data(element) for element in hocr_page_iterator(hocr)]
words = [
    [[word["text"], word["bbox"], word["confidence"]] for word in line["words"]]
    for paragraph in read
    for line in paragraph["lines"]
]
(folder / "theirs.page.xml").write_bytes(etree.tostring(scan.to_pagexml(), encoding="utf-8"))
problems_found = {"page": problems("pagecontent.xsd", page), "alto": problems("alto-4-4.xsd", alto)}
print(json.dumps({"problems": problems_found, "page": lines, "alto": text, "hocr": words}))
