from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.report.page.markup import Html, Table, bullets, element, folded, join


class Reader(HTMLParser):
    """What a browser would make of it: texts, tags and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_a_text_is_escaped_and_html_is_not() -> None:
    assert element("b", "a < b & c", Html("<i>d</i>")).text == "<b>a &lt; b &amp; c<i>d</i></b>"
    assert element("p", None, "x", title=None).text == "<p>x</p>"


def test_attributes_are_named_and_escaped() -> None:
    assert element("img", alt='"><script>', klass="x", aria_label="y").text == (
        '<img alt="&quot;&gt;&lt;script&gt;" class="x" aria-label="y">'
    )


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=("C",)), max_size=20))
def test_any_text_comes_back_as_text(text: str) -> None:
    page = join(
        [element("p", text, title=text), bullets([text]), folded(text, text), Table([text], [[text]]).render(text)]
    )
    found = Reader(page.text)
    assert {tag for tag, _ in found.tags} == {*("p", "ul", "li", "details", "summary"), *TABLE}
    assert "".join(found.texts) == text * 6
    assert found.tags[0] == ("p", {"title": text})


TABLE = ("div", "table", "thead", "tbody", "tr", "th")


@pytest.mark.parametrize("strong", [frozenset[int](), frozenset({1})])
def test_a_table_scrolls_in_a_named_box_and_names_its_rows(strong: frozenset[int]) -> None:
    found = Reader(Table(["model", "ECE"], [["base", ".1"], ["graft", ".2"]], strong).render("the table").text)
    kinds = [tag for tag, _ in found.tags]
    assert kinds == ["div", "table", "thead", "tr", "th", "th", "tbody", "tr", "th", "td", "tr", "th", "td"]
    assert found.tags[0][1] == {"class": "scroll", "role": "region", "aria-label": "the table", "tabindex": "0"}
    assert [attributes.get("scope") for tag, attributes in found.tags if tag == "th"] == ["col", "col", "row", "row"]
    assert [attributes.get("class") for tag, attributes in found.tags if tag == "tr"][1:] == [
        None,
        "strong" if strong else None,
    ]
