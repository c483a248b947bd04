"""The page holds the report and its pictures, and nothing in it can run."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

import pytest

from models.report import Grid
from models.reporting.markdown import as_markdown
from models.reporting.page import as_page

GRID = Grid("Ours & theirs", "A | note.", ("method", "ndcg@10"), (("ours | <b>", "0.5"),))
TEXT = as_markdown([GRID], {"name": "shop", "requests": 9}, {GRID.title: [("a.svg", "a plot")]})


class Read(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


def read(page: str) -> Read:
    found = Read()
    found.feed(page)
    return found


def test_the_page_is_the_report_with_its_pictures_inside():
    picture = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    found = read(as_page(TEXT, {"a.svg": picture}))
    (source,) = found.sources
    kind, _, coded = source.partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(coded) == picture
    assert "Evaluation of shop" in found.text
    assert {"ours | <b>", "0.5", "ndcg@10", "Ours & theirs"} <= set(found.text)
    assert found.tags.count("table") == 1


def test_html_in_names_is_text():
    page = as_page(TEXT.replace("shop", "<script>alert(1)</script>"), {})
    assert "script" not in read(page).tags


def test_a_file_that_is_no_picture_is_refused():
    with pytest.raises(ValueError, match=r"a\.exe is no picture"):
        as_page(TEXT, {"a.exe": b""})
