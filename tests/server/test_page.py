"""The page, in a headless browser that a real driver steers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graft.server.opening import open_service
from graft.server.page_files import _FOLDER, _TYPES
from tests.server.client import Client, running
from tests.server.conftest import SMALL
from tests.server.references import write_references
from tests.server.writer import SKILLS, write_writer
from tests.shared_builds import build_once

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, client: Client) -> Iterator[Any]:
    yield from opened(browser, client)


def opened(browser: Any, client: Client, **settings: Any) -> Iterator[Any]:
    """The page, which asks nobody but its server, and makes no error."""
    context = browser.new_context(**settings)
    page = context.new_page()
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(client.url)
    page.wait_for_selector("body[data-ready]")
    yield page
    context.close()
    assert all(url.startswith((client.url, "data:")) for url in asked)
    assert not [line for line in wrong if not line.startswith("Failed to load resource")]  # a refusal, which is shown


def answers(page: Any) -> list[str]:
    page.wait_for_selector(".answer")
    return [heading.inner_text() for heading in page.query_selector_all(".answer h3")]


def test_texts_are_labeled_side_by_side(page: Any, client: Client) -> None:
    page.fill("#texts", "the film was good\n\nsorry the soup was <b>awful</b>")
    page.click("#classify button[type=submit]")
    assert answers(page) == ["base", "moods", "noise", "few"] * 2
    assert page.query_selector_all("blockquote")[1].inner_text() == "sorry the soup was <b>awful</b>"
    body = {"texts": ["the film was good"], "skills": ["moods"], "task": "moods"}
    shares = client.post("/classify", **body)["results"][0]["predictions"][0]["probabilities"]
    shown = [share.inner_text() for share in page.query_selector_all(".answer")[1].query_selector_all(".share")]
    assert [float(text.strip("< %")) for text in shown] == pytest.approx([100 * share for share in shares], abs=0.51)
    widths = [bar.bounding_box()["width"] for bar in page.query_selector_all(".answer")[1].query_selector_all("i")]
    assert (widths[0] > widths[1]) == (shares[0] > shares[1])
    assert "softmax as it is" in page.inner_text("#legend")
    assert not page.is_visible("#tabs")  # an encoder does not write


def test_a_text_that_is_cut_is_shown_to_be(page: Any) -> None:
    page.fill("#texts", f"good\n{'the ' * 31}")
    page.click("#classify button[type=submit]")
    n = len(answers(page)) // 2
    assert not page.query_selector_all(".text")[0].query_selector_all(".cut")
    shown = [item.inner_text() for item in page.query_selector_all(".text")[1].query_selector_all(".cut")]
    assert shown == ["too long: only its beginning was read"] * n
    facts = page.query_selector(".place dl").inner_text()
    assert "Longest text" in facts
    assert "128 tokens" in facts


def test_skills_are_switched_and_composed(page: Any) -> None:
    for name in ("base", "noise", "few"):
        page.uncheck(f"input[name={name}]")
    assert [item.inner_text() for item in page.query_selector_all(".place h3")] == ["moods"]
    page.select_option("#first", "moods")
    page.select_option("#second", "few")
    page.click("#compose button")
    page.fill("#texts", "good")
    page.click("#classify button[type=submit]")
    assert answers(page) == ["moods", "moods+few"]
    assert [item.inner_text() for item in page.query_selector_all(".place h3")] == ["moods", "few"]
    page.select_option("#second", "moods")
    page.click("#compose button")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.inner_text("#problem") == "choose two different skills"


def test_a_map_shows_where_a_skill_is(page: Any) -> None:
    cells = page.query_selector_all(".place")[0].query_selector_all("td")
    assert sum(int(cell.inner_text() or 0) for cell in cells) == 300
    assert "300 (" in page.query_selector_all(".place")[0].query_selector("dl").inner_text()


def test_a_refusal_is_shown(page: Any) -> None:
    page.fill("#texts", "\n".join(["good"] * 33))
    page.click("#classify button[type=submit]")
    page.wait_for_selector("#problem:not([hidden])")
    assert "1 to 32 texts" in page.inner_text("#problem")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(browser: Any, client: Client, scheme: str) -> None:
    for page in opened(browser, client, viewport={"width": 360, "height": 740}, color_scheme=scheme):
        page.fill("#texts", "the film was good")
        page.click("#classify button[type=submit]")
        answers(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        ground, ink = (
            [int(part) for part in re.findall(r"\d+", page.evaluate(f"getComputedStyle(document.body).{key}"))[:3]]
            for key in ("backgroundColor", "color")
        )
        assert (sum(ground) < sum(ink)) == (scheme == "dark")
        assert abs(sum(ground) - sum(ink)) > 450


def test_generations_are_compared_word_by_word(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = build_once(tmp_path_factory, "writer", write_writer)
    skills = {name: folder / f"{name}.safetensors" for name in SKILLS}
    with running(open_service(str(folder / "base"), skills, limits=SMALL, on_overlap="last")) as client:
        for page in opened(browser, client):
            page.fill("#prompt", "add one to two : ")
            page.fill("#tokens", "12")
            page.uncheck("#chat")
            page.click("#write button[type=submit]")
            assert answers(page) == ["base", *SKILLS]
            texts = [item.text_content() for item in page.query_selector_all(".written")]
            settings = {"prompt": "add one to two : ", "max_tokens": 12, "temperature": 0}
            expected = [client.post("/v1/completions", model=name, **settings) for name in ("base", *SKILLS)]
            assert texts == [answer["choices"][0]["text"] for answer in expected]
            marks = [len(item.query_selector_all("mark")) for item in page.query_selector_all(".written")]
            assert marks[0] == 0
            assert min(marks[1:]) > 0
            changed = page.evaluate(
                "import('/page/results.js').then(({ markChanged }) => "
                "markChanged('the cat sat on a mat', 'the dog sat on the mat').map((part) => part.textContent ?? part))"
            )
            assert "".join(changed) == "the dog sat on the mat"


def test_every_file_of_the_page_is_sent_with_a_policy(client: Client) -> None:
    assert {path.name for path in Path(_FOLDER).iterdir()} == set(_TYPES)
    for name, kind in _TYPES.items():
        response = client.http.get("/" if name == "index.html" else f"/page/{name}")
        assert response.headers["content-type"].startswith(kind)
        assert response.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "http://" not in response.text
        assert "https://" not in response.text


def test_the_routers_choice_is_shown(browser: Any, shelf: Path, patches: dict[str, Path], tmp_path: Path) -> None:
    references = write_references(shelf, tmp_path)
    service = open_service(
        str(shelf / "base"), patches, router=True, references=references, limits=SMALL, on_overlap="last"
    )
    with running(service) as client:
        for page in opened(browser, client):
            for name in ("base", "moods", "noise", "few"):
                page.uncheck(f"input[name={name}]")
            page.check("input[name=auto]")
            page.fill("#texts", "the film plot was good with music\nthe soup and bread was good with cake")
            page.select_option("#task", label="each skill itself")
            page.click("#classify button[type=submit]")
            assert answers(page) == ["auto → moods", "auto → few"]
