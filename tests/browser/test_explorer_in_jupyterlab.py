"""40_explore in a real JupyterLab: what a person presses, sees and gets.

Every wait is for something that the panel shows. The tests share one kernel, but none needs another one to have run.
"""

import os
import re
from pathlib import Path

import pytest
import yaml

from imagelab.imagefiles import read_record

pytestmark = [pytest.mark.browser, pytest.mark.slow]

_PATIENCE = 300_000  # ms; nothing here takes so long, unless the machine is busy with something else
_CONTROLS = "button|slider|combobox|textbox|spinbutton|checkbox|radio|tab|progressbar|img"
_SECTIONS = ["Words", "Size, quality, seed", "LoRAs", "Follow a picture"]
# Notes every picture that the panel shows large, as it comes about: looking now and then could miss some.
_WATCH = """panel => {
  window.seen = new Set();
  const note = () => { const img = panel.querySelector('.imagelab-frame img'); if (img) window.seen.add(img.src); };
  window.watcher = new MutationObserver(note);
  window.watcher.observe(panel, {childList: true, subtree: true, attributes: true});
}"""


@pytest.fixture(scope="module")
def page(browser, lab):
    """The notebook, run to its end."""
    page = browser.new_page(viewport={"width": 1500, "height": 1300})
    page.set_default_timeout(_PATIENCE)
    page.goto(lab.url)
    page.locator(".jp-Notebook").wait_for()
    page.get_by_text("| Idle").wait_for()  # a kernel that isn't there yet runs nothing
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator("[data-command='runmenu:run-all']").click()
    page.locator(".jp-OutputArea-output", has_text='"character": "luca"').wait_for()  # the last that is printed
    page.get_by_text("| Idle").wait_for()
    yield page
    page.close()


@pytest.fixture
def panel(page):
    """The panel at rest, with what it was opened with."""
    panel = page.locator(".imagelab-panel").first
    panel.scroll_into_view_if_needed()  # what is scrolled out of sight, JupyterLab doesn't lay out
    at_rest(panel)
    button(panel, "History").click()
    cards(panel).last.get_by_role("button", name="Restore").click()
    status(panel).get_by_text("The settings of picture 1 are restored").wait_for()
    return panel


def at_rest(panel):
    button(panel, "Cancel").and_(panel.page.locator(".imagelab-off")).wait_for()


def button(panel, name):
    return panel.get_by_role("button", name=name, exact=True)


def status(panel):
    return panel.get_by_role("status")


def drawn_into(lab):
    (folder,) = (lab.root / "reports/runs").glob("*-explorer")
    return folder


def keep_screenshot(place, name):
    """Save what is shown, where the environment names a folder: docs/images/ has its own from here."""
    if folder := os.environ.get("IMAGELAB_SCREENSHOTS"):
        place.screenshot(path=Path(folder) / name)


def cards(panel):
    return panel.locator(".imagelab-card")


def choose(panel, label, text):
    panel.get_by_label(label, exact=True).select_option(label=text)


def fill(panel, label, text):
    panel.get_by_label(label, exact=True).fill(text)
    panel.get_by_label(label, exact=True).press("Tab")


def open_section(panel, title):
    button(panel, title).click()


def chosen(panel, label):
    words = panel.get_by_label(label, exact=True).locator("option:checked").inner_text()
    return " ".join(words.split())  # with spaces that don't break


def next_picture(panel):
    return cards(panel).count() + 1


def wait_for_picture(panel, number):
    status(panel).get_by_text(f"Picture {number} is done").wait_for()


def test_notebook_runs_without_an_error_and_every_widget_is_shown(page, panel):
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts() == []
    assert page.get_by_text("Click to show javascript error").count() == 0
    assert panel.locator(".imagelab-frame img").evaluate("img => img.naturalWidth") == 384


def test_picture_comes_about_before_your_eyes_and_is_judged(page, panel):
    open_section(panel, "Size, quality, seed")
    choose(panel, "Quality", "ultra, 50 steps")
    number = next_picture(panel)
    panel.evaluate(_WATCH)
    button(panel, "Generate").click()
    wait_for_picture(panel, number)

    assert page.evaluate("window.watcher.disconnect(), window.seen.size") > 2
    assert re.search(r"Similarity 0\.\d+, configured threshold 0\.65", status(panel).inner_text())
    assert cards(panel).count() == number


def test_cancel_is_heard_while_it_draws(panel):
    open_section(panel, "Size, quality, seed")
    choose(panel, "Quality", "ultra, 50 steps")
    choose(panel, "Seed is", "counting up")
    fill(panel, "Pictures", "16")  # so many that the last can't be done before the button is pressed
    before = cards(panel).count()
    button(panel, "Generate").click()
    status(panel).get_by_text(re.compile(r"Step \d+ of 50")).wait_for()
    button(panel, "Cancel").click()
    status(panel).get_by_text("Cancelled").wait_for()

    assert cards(panel).count() < before + 16
    at_rest(panel)


def test_history_restores_what_was_changed_since(panel):
    open_section(panel, "Size, quality, seed")
    choose(panel, "Quality", "high, 30 steps")
    fill(panel, "Seed", "7")
    open_section(panel, "LoRAs")
    fill(panel, "beach", "0.8")
    cards(panel).last.get_by_role("button", name="Restore").click()
    panel.page.wait_for_function(
        "field => field.value === '0'", arg=panel.get_by_label("beach", exact=True).element_handle()
    )
    open_section(panel, "Size, quality, seed")

    assert panel.get_by_label("Seed", exact=True).input_value() == "42"
    assert chosen(panel, "Quality") == "draft, 6 steps"


def test_slider_and_number_of_a_lora_go_together(panel):
    open_section(panel, "LoRAs")
    fill(panel, "beach", "0.5")
    slider = panel.get_by_role("slider").nth(5)  # beach is the sixth LoRA of the registry

    assert float(slider.get_attribute("aria-valuenow")) == 0.5
    slider.press("ArrowRight")
    panel.page.wait_for_function(
        "field => field.value === '0.55'", arg=panel.get_by_label("beach", exact=True).element_handle()
    )


def test_decision_by_hand_is_shown_on_the_card(panel):
    cards(panel).last.get_by_role("button", name="Reject").click()
    cards(panel).last.get_by_text(re.compile(r"rejected 0\.\d+ by hand")).wait_for()
    cards(panel).last.get_by_role("button", name="Accept").click()
    cards(panel).last.get_by_text(re.compile(r"accepted 0\.\d+ by hand")).wait_for()


def test_settings_come_from_the_file_of_a_picture(panel, lab):
    picture = drawn_into(lab) / "001.png"
    open_section(panel, "Words")
    fill(panel, "Scene", "at night")
    with panel.page.expect_file_chooser() as chooser:
        panel.get_by_role("button", name="Settings from a picture").click()
    chooser.value.set_files(picture)
    status(panel).get_by_text("The settings of the picture are set").wait_for()

    assert panel.get_by_label("Scene", exact=True).input_value() == read_record(picture).scene_description


def test_map_of_a_picture_to_follow_is_shown_and_two_pictures_are_compared(panel, lab):
    open_section(panel, "Follow a picture")
    with panel.page.expect_file_chooser() as chooser:
        panel.get_by_role("button", name="Picture to follow").click()
    chooser.value.set_files(drawn_into(lab) / "001.png")
    choose(panel, "Follow its", "canny")
    panel.get_by_text("001.png is there").wait_for()
    button(panel, "Show its map").click()
    panel.get_by_alt_text("The map that the picture follows").wait_for()
    number = next_picture(panel)
    button(panel, "Generate").click()
    wait_for_picture(panel, number)
    button(panel, "Compare two").click()

    panel.get_by_text(re.compile(r"difference, \d+\.\d of 255 on average")).wait_for()
    assert chosen(panel, "Second picture").startswith(f"{number}: luca")
    keep_screenshot(panel.locator(".imagelab-page").last, "explorer_compare.png")


def test_row_over_one_parameter_shows_a_picture_for_each_value(panel):
    button(panel, "Vary one").click()
    choose(panel, "Parameter", "LoRA luca")
    fill(panel, "Values", "0, 1")
    button(panel, "Draw the row").click()
    panel.get_by_text(re.compile(r"LoRA luca 1: \d")).wait_for()

    assert panel.get_by_text(re.compile(r"LoRA luca [01]: \d")).count() == 2


def test_picture_is_drawn_by_keyboard_alone(panel):
    number = next_picture(panel)
    button(panel, "Words").focus()
    reached = []
    while "Generate" not in reached and len(reached) < 30:
        panel.page.keyboard.press("Tab")
        reached.append(panel.page.evaluate("document.activeElement.innerText.trim()"))
    panel.page.keyboard.press("Enter")

    assert reached[:3] == _SECTIONS[1:]
    wait_for_picture(panel, number)
    at_rest(panel)
    panel.page.keyboard.press("Enter")  # where one was, one still is
    wait_for_picture(panel, number + 1)


@pytest.mark.parametrize("section", [*_SECTIONS, "History", "Compare two", "Vary one"])
def test_every_control_has_a_name_that_a_screen_reader_says(panel, section):
    open_section(panel, section)
    found = re.findall(rf"^\s*- '?({_CONTROLS})\b(.*)$", panel.aria_snapshot(), re.MULTILINE)
    sliders = [role for role, _ in found if role == "slider"]  # nameless in ipywidgets: a number stands beside each
    numbers = [name for role, name in found if role == "spinbutton"]

    assert len(found) > 10
    assert [(role, rest) for role, rest in found if not rest.startswith(' "') and role != "slider"] == []
    assert len(sliders) <= len(numbers)


def test_exported_parameters_are_taken_by_a_headless_run_as_they_are(panel, lab):
    open_section(panel, "Size, quality, seed")
    fill(panel, "Seed", "7")
    button(panel, "Export").click()
    status(panel).get_by_text("Wrote params.yaml").wait_for()
    file = drawn_into(lab) / "params.yaml"
    given = yaml.safe_load(file.read_text(encoding="utf-8"))

    assert (given["character"], given["presets"], given["seed"]) == ("luca", ["draft"], 7)


def test_what_goes_wrong_is_said_in_plain_words(panel):
    open_section(panel, "Words")
    fill(panel, "Scene", "<lora:nobody>")
    button(panel, "Generate").click()
    alert = panel.get_by_role("alert").get_by_text("unknown LoRA 'nobody'")
    alert.wait_for()

    assert "Traceback" not in panel.inner_text()


def test_panel_fits_its_column_and_cuts_no_label_off(panel):
    for section in _SECTIONS:
        open_section(panel, section)
        cut = "labels => labels.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.innerText)"

        assert panel.locator(".widget-label, button").evaluate_all(cut) == []
    open_section(panel, "LoRAs")
    keep_screenshot(panel, "explorer.png")
