"""Links and pictures of the repository's own pages lead somewhere; the site's are checked when it is built."""

from __future__ import annotations

import re

import pytest

from tests.docs.blocks import ROOT, find_pages

BESIDE = ["CONTRIBUTING.md", "SECURITY.md"]


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
