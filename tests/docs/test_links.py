"""Links and pictures of the repository's own pages lead somewhere; the site's are checked when it is built."""

from __future__ import annotations

import pydoc
import re

import pytest

from tests.docs.blocks import ROOT, find_pages

BESIDE = ["CONTRIBUTING.md", "SECURITY.md"]
OLD_NAMES = "docs/renames.md"  # which test_renames.py holds against the code


@pytest.mark.parametrize("page", [*find_pages(), *BESIDE])
def test_links_and_pictures_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    local = [link for link in links if link and "://" not in link]
    assert [link for link in local if not (ROOT / page).parent.joinpath(link).exists()] == []
    assert local or page != "README.md"
    assert "@@" not in text


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", [page for page in find_pages() if page != OLD_NAMES])
def test_names_and_files_in_prose_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for name in re.findall(r"`(graft(?:\.\w+)+)[`(]", text):
        assert pydoc.locate(name) is not None, name
    files = re.findall(r"`((?:recipes|examples|artifacts|tests|docs)/[\w./-]*\.(?:yaml|py|md))`", text)
    files += re.findall(r"graft run (recipes/\w+\.yaml)", text)
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_a_name_that_is_gone_would_be_seen() -> None:
    assert pydoc.locate("graft.no_such_name") is None
