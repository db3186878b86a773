"""The explorer without a browser: buttons are pressed and what the panel says is read."""

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import yaml

from imagelab import CharacterReferenceManager, GenerationRequest
from imagelab.errors import GenerationError, InvalidValueError
from imagelab.explorer import Explorer, Session
from imagelab.explorer.events import Drawn, Progress
from imagelab.imagefiles import read_record, save_png

NOW = datetime.now(UTC)
QUICK = {"quality_preset": "draft", "seed": 3}


@pytest.fixture
def session(generator, checker, tmp_path):
    references = CharacterReferenceManager(checker, store=tmp_path / "nowhere")
    with Session(generator=generator, references=references, output_dir=tmp_path / "out") as session:
        yield session


@pytest.fixture
def explorer(session, tmp_path):
    panel = Explorer(session=session, output_dir=tmp_path / "out")
    panel.form.fill(replace(panel.settings, **QUICK))
    return panel


def drawn(explorer):
    explorer.generate.click()
    assert explorer.session.wait(300)
    return list(explorer.history)[-1]


def upload(name, data):
    return ({"name": name, "type": "image/png", "size": len(data), "content": data, "last_modified": NOW},)


def test_generate_draws_what_the_controls_say_and_judges_it(explorer, generator):
    entry = drawn(explorer)
    request = GenerationRequest(
        character="luca", scene_description=explorer.settings.scene, quality_preset="draft", seed=3
    )

    assert np.array_equal(entry.generation.image, generator.generate(request).image)
    assert entry.decision == "accepted"
    assert "accepted" in explorer.status.value
    assert read_record(entry.file) == entry.generation.record


def test_steps_time_left_and_previews_are_told_while_it_draws(session, explorer, generator):
    events = []
    session.tell = events.append
    drawn(explorer)
    steps = [event for event in events if isinstance(event, Progress) and event.state == "drawing"]
    left = [event.seconds_left for event in steps]

    assert [event.step for event in steps] == list(range(1, generator.profile.preset("draft").steps + 1))
    assert left[0] is None
    assert left[-1] == 0 < left[1]
    assert steps[0].preview.size == (128, 128)
    assert [type(event) for event in events[-2:]] == [Drawn, Progress]
    assert events[-1].state == "done"


def test_cancel_ends_after_the_step_and_leaves_the_models_as_they_were(session, explorer):
    before = drawn(explorer).generation.image
    show = session.tell

    def cancel_at_third(event):
        show(event)
        if isinstance(event, Progress) and event.step == 3:
            explorer.cancel.click()

    session.tell = cancel_at_third
    explorer.generate.click()
    assert session.wait(300)
    session.tell = show

    assert session.state == "cancelled"
    assert "Cancelled" in explorer.status.value
    assert (explorer.progress.value, len(explorer.history)) == (3, 1)
    assert "imagelab-off" not in explorer.generate._dom_classes
    assert np.array_equal(drawn(explorer).generation.image, before)


def test_second_generate_is_refused_while_the_first_draws(session, explorer):
    refused = []

    def again(event):
        if isinstance(event, Progress) and event.step == 1:
            with pytest.raises(GenerationError, match="is being drawn"):
                session.generate([explorer.settings])
            refused.append(event)

    session.tell = again
    explorer.generate.click()
    assert session.wait(300)
    assert len(refused) == 1


def test_what_goes_wrong_is_said_in_the_panel_and_the_next_picture_is_drawn(explorer):
    explorer.form.scene.value = "<lora:nobody>"
    explorer.generate.click()
    assert explorer.session.wait(300)

    assert "unknown LoRA" in explorer.error.value
    assert explorer.session.state == "failed"
    explorer.form.scene.value = "on the beach"
    assert drawn(explorer).settings.scene == "on the beach"
    assert explorer.error.value == ""


def test_restore_brings_every_setting_back(explorer):
    wanted = explorer.settings
    drawn(explorer)
    explorer.form.fill(replace(wanted, character="alberto", scene="at night", seed=9, loras={"beach": 0.5}, width=96))
    assert explorer.settings != wanted
    explorer.restore(1)

    assert explorer.settings == wanted


def test_choosing_a_character_brings_their_lora_and_scenes(explorer):
    explorer.form.character.value = "alberto"

    assert explorer.settings.loras == {"alberto": 1.0}
    assert "arms up on the beach, excited expression" in dict(explorer.form.scene_preset.options).values()


def test_decision_by_hand_stands_in_the_table_and_in_the_file(explorer, tmp_path):
    drawn(explorer)
    explorer.decide(1, "rejected")
    table = explorer.to_frame()
    (written,) = json.loads((tmp_path / "out/history.json").read_text(encoding="utf-8"))

    assert list(table[["decision", "decided_by"]].iloc[0]) == ["rejected", "by hand"]
    assert (written["decision"], written["decided_by"], written["status"]) == ("rejected", "by hand", "ok")


def test_seeds_count_up_from_the_given_one_and_a_row_keeps_its_seed(explorer):
    explorer.form.seed_mode.value, explorer.form.pictures.value = "counting up", 2
    drawn(explorer)
    explorer.form.seed_mode.value = "locked"
    explorer.grid.parameter.value, explorer.grid.values.value = "LoRA beach", "0, 1"
    explorer.grid.draw.click()
    assert explorer.session.wait(300)

    assert [entry.settings.seed for entry in explorer.history] == [3, 4, 3, 3]
    assert "LoRA beach 1" in explorer.grid.shown.value
    assert "LoRA beach: 0.0 → 1.0" in explorer.comparison.shown.value


def test_settings_come_back_from_a_dropped_picture(explorer, tmp_path, generator):
    request = GenerationRequest(character="alberto", scene_description="at night", quality_preset="draft", seed=11)
    made = generator.generate(request)
    data = save_png(made.image, tmp_path / "x.png", made.record).read_bytes()
    explorer.import_file.value = upload("../x.png", data)
    found = explorer.settings

    assert (found.character, found.scene, found.seed) == ("alberto", "at night", 11)
    explorer.form.seed.value = 12
    explorer.import_file.value = upload("../x.png", data)  # the same once more
    assert explorer.settings == found
    explorer.import_file.value = upload("y.png", b"no picture")
    assert "y.png: isn&#x27;t a PNG, JPEG or WebP" in explorer.error.value


def test_map_of_the_picture_to_follow_is_shown_and_followed(explorer, luca_image, tmp_path):
    data = save_png(luca_image, tmp_path / "luca.png").read_bytes()
    explorer.form.upload.value = upload("luca.png", data)
    explorer.form.control_type.value = "canny"
    explorer.form.show_map.click()
    assert explorer.session.wait(300)
    entry = drawn(explorer)

    assert "<img" in explorer.form.map.value
    assert [control.type for control in entry.generation.record.controls] == ["canny"]


def test_exported_parameters_draw_the_same_picture(explorer, tmp_path, generator):
    explorer.form.loras["beach"].value = 0.5
    entry = drawn(explorer)
    explorer.export_path.value = str(tmp_path / "p/params.yaml")
    explorer.export.click()
    given = yaml.safe_load((tmp_path / "p/params.yaml").read_text(encoding="utf-8"))
    request = GenerationRequest(
        character=given["character"],
        scene_description=given["scene"],
        quality_preset=given["presets"][0],
        seed=given["seed"],
        width=given["width"],
        height=given["height"],
    )

    assert np.array_equal(generator.generate(request).image, entry.generation.image)


def test_every_control_has_a_label(explorer):
    widgets = [one for one in vars(explorer.form).values() if hasattr(one, "description")]
    buttons = [explorer.generate, explorer.cancel, explorer.export, explorer.grid.draw]

    assert len(widgets) > 10
    assert [
        one
        for one in (*widgets, *explorer.form.loras.values(), *buttons)
        if not one.description and one is not explorer.form.map
    ] == []


def test_later_session_in_the_folder_keeps_what_an_earlier_one_has_left(session, explorer, tmp_path):
    first = drawn(explorer)
    explorer.decide(1, "rejected")
    (tmp_path / "out/004.png").write_bytes(b"of somebody else")
    again = Session(generator=session.generator, references=session.references, output_dir=tmp_path / "out")
    with again, Explorer(session=again) as later:
        later.form.fill(replace(later.settings, **QUICK))
        assert drawn(later).number == 5
        table = later.to_frame()

    assert list(table["number"]) == [1, 5]
    assert list(table["decided_by"]) == ["by hand", "automatic"]
    assert read_record(first.file) == first.generation.record


def test_history_that_is_none_is_refused_before_anything_is_drawn(session, tmp_path):
    (tmp_path / "history.json").write_text('[{"number": "1"}]', encoding="utf-8")
    with pytest.raises(InvalidValueError, match=r"history.json must be a history"):
        Session(generator=session.generator, references=session.references, output_dir=tmp_path)
    with pytest.raises(InvalidValueError, match="output_dir must be"):
        Session(generator=session.generator, output_dir=tmp_path / "history.json" / "x")


def test_cancel_that_comes_too_late_leaves_the_panel_ready(session, explorer):
    show, late = session.tell, []

    def cancel_at_the_end(event):
        if isinstance(event, Progress) and event.state == "done":
            late.append(threading.Thread(target=session.cancel))
            late[0].start()
        show(event)

    session.tell = cancel_at_the_end
    drawn(explorer)
    late[0].join()
    session.tell = show

    assert session.state == "done"
    assert "imagelab-off" in explorer.cancel._dom_classes
    assert drawn(explorer).number == 2


def test_history_that_cannot_be_written_is_said_beside_the_picture(explorer, tmp_path):
    (tmp_path / "out/history.json/in_the_way").mkdir(parents=True)
    entry = drawn(explorer)

    assert (tmp_path / "out/001.png").is_file()
    assert "Picture 1" in explorer.picture.value
    assert "history.json" in explorer.error.value
    with pytest.raises(InvalidValueError, match=r"history.json"):
        explorer.decide(1, "rejected")
    assert explorer.history[1] == entry


@pytest.mark.parametrize("decision", ["<b>hm", None])
def test_no_other_word_is_a_decision(explorer, decision):
    drawn(explorer)
    with pytest.raises(InvalidValueError, match="accepted, rejected, unscorable"):
        explorer.decide(1, decision)
    with pytest.raises(InvalidValueError, match="one of this session: 1"):
        explorer.decide(2, "accepted")


def test_pictures_chosen_for_comparison_stay_chosen(explorer):
    for _ in range(3):
        drawn(explorer)
    pair = explorer.comparison
    assert (pair.first.value, pair.second.value) == (2, 3)
    pair.first.value = 1
    drawn(explorer)

    assert (pair.first.value, pair.second.value) == (1, 3)
    pair.second.value = 1
    assert pair.shown.value == "Choose two pictures to compare them."


def test_panel_that_is_closed_says_so(session):
    explorer = Explorer(session=session)
    explorer.cleanup()

    assert explorer.generate.disabled
    assert "closed" in explorer.status.value


def test_panel_is_made_of_widgets_that_every_front_end_brings(explorer):
    """VS Code and Voila have its module built in; any other would be fetched from a CDN."""
    found, left = set(), [explorer.widget]
    while left:
        one = left.pop()
        found |= {one._model_module, one._view_module}
        left += getattr(one, "children", ())

    assert found == {"@jupyter-widgets/controls"}
