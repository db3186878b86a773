"""index.html and the lines in the terminal: all scores beside the accepted ones, and nothing that isn't escaped."""

from html.parser import HTMLParser

import pytest
from handmade_runs import handmade_plan, run

from imagelab.runs import batch_text, plan_text

NASTY = "\"><script>alert(1)</script><img onerror=alert(2) src=x> javascript: '& é"


class Page(HTMLParser):
    """Collects tags with their attributes, and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    run(folder, handmade_plan(count=20))
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "index.html").read_text())


def test_every_picture_is_shown_from_a_file_beside_the_page_with_a_text_in_its_place(folder, page):
    shown = [image["src"] for image in page.all("img")]
    assert sorted(shown) == sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.png"))
    assert all("seed" in image["alt"] and "luca" in image["alt"] for image in page.all("img"))
    assert page.text.count("no picture") == 4


def test_the_page_needs_no_network_and_runs_no_script(page):
    assert not page.all("script")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    addresses = [attributes.get(name) for _, attributes in page.tags for name in ("src", "href")]
    assert not [address for address in addresses if address and ":" in address]
    assert any("default-src 'none'" in meta.get("content", "") for meta in page.all("meta"))


def test_the_page_says_its_language_and_follows_the_dark_mode(folder, page):
    assert page.all("html") == [{"lang": "en"}]
    assert "color-scheme: light dark" in (folder / "index.html").read_text()
    assert len(page.all("h1")) == len(page.all("main")) == 1


def test_pictures_are_sorted_by_what_became_of_them_and_then_by_their_score(page):
    alts = [image["alt"] for image in page.all("img")]
    scores = [float(alt.rpartition(" ")[2]) for alt in alts if "accepted" in alt]
    assert len(scores) == 8
    assert scores == sorted(scores, reverse=True)
    assert "accepted" in alts[0]
    assert "unscorable" in alts[-1]


def test_all_scores_stand_beside_the_accepted_ones(tmp_path, page):
    result = run(tmp_path / "run", handmade_plan(count=20))
    assert len(result.consistency_scores) == 12
    assert len(result.accepted_scores) == 8
    assert result.mean_similarity < sum(result.accepted_scores) / 8
    for text in (batch_text(result), page.text):
        assert "all that were compared" in text
        assert "accepted ones alone" in text
        assert f"{result.mean_similarity:.3f}" in text
        assert f"{sum(result.accepted_scores) / 8:.3f}" in text


def test_whatever_is_told_is_escaped(tmp_path):
    """I5."""
    run(tmp_path / "run", handmade_plan(scene=NASTY))
    page = Page((tmp_path / "run" / "index.html").read_text())
    plain = Page((tmp_path / "run" / "index.html").read_text().replace("<script>", ""))
    assert not page.all("script")
    assert len(page.tags) == len(plain.tags)
    assert page.text.count(NASTY) >= 2
    assert {image.get("onerror") for image in page.all("img")} == {None}


def test_a_plan_says_what_would_be_drawn():
    text = plan_text(
        handmade_plan(count=20, until=5, negative_prompt="blurry", loras={"luca": {"weight": 0.8}}, controls=[])
    )
    for said in ("20, until 5 are accepted, seeds 7 to 26", "luca on the beach", "blurry", "luca 0.8", "0.500"):
        assert said in text


def test_one_picture_is_no_pictures(tmp_path):
    result = run(tmp_path / "run", handmade_plan(count=1))
    assert batch_text(result).startswith("1 picture: ")
    assert "<p>1 picture: " in (tmp_path / "run" / "index.html").read_text()


def test_a_run_until_enough_are_accepted_says_when_they_were_not(tmp_path):
    said = "2 of 9 wanted were accepted"
    result = run(tmp_path / "few", handmade_plan(count=5, until=9))
    assert result.fell_short
    assert said in batch_text(result).splitlines()
    assert f"<p>{said}</p>" in (tmp_path / "few" / "index.html").read_text()
    for other in (
        run(tmp_path / "stopped", handmade_plan(count=5, until=9), at_most=3),
        run(tmp_path / "enough", handmade_plan(count=5, until=2)),
        run(tmp_path / "all", handmade_plan(count=5)),
    ):
        assert not other.fell_short
        assert "wanted" not in batch_text(other)
