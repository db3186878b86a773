"""The configuration: what is shipped is valid, what is broken is refused with everything that is wrong with it."""

import json
import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml

from imagelab.config import configs_root, load_configs, models_root, project_root
from imagelab.config.load import SCHEMAS
from imagelab.config.schema import render_schemas, write_schemas
from imagelab.errors import ConfigError, InvalidValueError, NotebookError, ProfileError, UnknownNameError
from imagelab.notebooks.paths import find_notebook

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
BAD_CONFIGS = ROOT / "tests" / "data" / "bad_configs"
FAULTS = sorted(path.stem for path in BAD_CONFIGS.glob("*.yaml"))
FILES = sorted(f"{name}.yaml" for name in SCHEMAS)


@pytest.fixture(scope="module")
def configs():
    return load_configs(CONFIGS)


@pytest.fixture
def good(tmp_path):
    """A folder of valid configuration files, free to be spoilt."""
    return Path(shutil.copytree(BAD_CONFIGS / "good", tmp_path / "configs"))


def problems_of(folder):
    with pytest.raises(ConfigError) as caught:
        load_configs(folder)
    return [str(problem) for problem in caught.value.problems]


def spoil(folder, file, old, new):
    path = folder / f"{file}.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# What is shipped


def test_the_default_profile_is_the_one_that_runs_anywhere(configs):
    assert configs.profile().name == "puppet"


@pytest.mark.parametrize("profile", ["puppet", "sdxl"])
@pytest.mark.parametrize("preset", ["draft", "standard", "high", "ultra"])
def test_every_profile_has_the_four_presets(configs, profile, preset):
    assert configs.preset(profile, preset).name == preset


def test_presets_cost_more_from_draft_to_ultra(configs):
    for profile in configs.sdxl.profiles.values():
        steps = [profile.preset(name).steps for name in ("draft", "standard", "high", "ultra")]
        assert steps == sorted(set(steps))


def test_sdxl_sizes_and_targets_are_those_of_the_specification(configs):
    sdxl = configs.profile("sdxl")
    assert sdxl.sizes == {"square": (1024, 1024), "portrait": (768, 1280), "landscape": (1280, 768)}
    latency, vram = sdxl.targets.latency_seconds, sdxl.targets.vram_gib
    assert (latency.base, latency.lora, latency.controlnet, vram.peak) == (15, 20, 25, 15.5)


def test_the_schedulers_and_styles_of_the_specification_are_there(configs):
    assert {"euler", "euler_a", "dpmpp_2m", "dpmpp_2m_karras", "ddim", "unipc"} <= set(configs.sdxl.schedulers)
    assert {"pixar", "disney", "dreamworks"} <= set(configs.sdxl.styles)


def test_a_character_is_called_by_a_trigger_word_of_its_own_loras(configs):
    for character in configs.character_presets.characters.values():
        words = {word for choice in character.loras for word in configs.lora(choice.name).trigger_words}
        assert character.trigger in words


def test_run_files_name_profiles_and_presets_that_exist(configs):
    paths = sorted((CONFIGS / "runs").glob("*.yaml"))
    assert [path.stem for path in paths] == ["draft", "full", "smoke"]
    for path in paths:
        parameters = yaml.safe_load(path.read_text())
        assert configs.preset(parameters["profile"], parameters["quality_preset"]).steps > 0
        assert "run_id" not in parameters


@pytest.mark.parametrize("file", FILES)
def test_every_file_says_what_it_is_and_names_its_schema(file):
    first, *rest = (CONFIGS / file).read_text().splitlines()
    header = [line for line in rest[:20] if line.startswith("#")]
    assert first == f"# yaml-language-server: $schema=schemas/{file.removesuffix('.yaml')}.schema.json"
    assert any("Read " in line for line in header)
    assert any("python -m imagelab" in line for line in header)


@pytest.mark.parametrize("name", sorted(render_schemas()))
def test_committed_schemas_are_fresh(name):
    assert (CONFIGS / "schemas" / name).read_text() == render_schemas()[name], "run `make schema`"


@pytest.mark.parametrize("file", FILES)
def test_files_are_valid_to_an_editor_too(file):
    schema = json.loads((CONFIGS / "schemas" / f"{file.removesuffix('.yaml')}.schema.json").read_text())
    jsonschema.validate(yaml.safe_load((CONFIGS / file).read_text()), schema)


def test_schemas_are_written_where_they_are_asked_for(tmp_path):
    assert sorted(path.name for path in write_schemas(tmp_path / "schemas")) == sorted(render_schemas())


# Look-ups


@pytest.mark.parametrize(
    ("look_up", "says"),
    [
        (lambda configs: configs.profile("pupet"), "unknown profile 'pupet'; did you mean 'puppet'?"),
        (lambda configs: configs.preset("puppet", "ultar"), "unknown quality preset 'ultar'; did you mean 'ultra'?"),
        (lambda configs: configs.scheduler("eular"), "unknown scheduler 'eular'; did you mean 'euler'?"),
        (lambda configs: configs.style("pixr"), "unknown style 'pixr'; did you mean 'pixar'?"),
        (lambda configs: configs.negative_prompt("defualt"), "did you mean 'default'?"),
        (lambda configs: configs.character("Luka"), "unknown character 'Luka'; did you mean 'luca'?"),
        (
            lambda configs: configs.scene("luca", "beachrun"),
            "unknown scene preset 'beachrun'; did you mean 'beach_run'?",
        ),
        (lambda configs: configs.lora("lucca"), "unknown LoRA 'lucca'; did you mean 'luca'?"),
        (lambda configs: configs.combination("nobody"), "unknown LoRA combination 'nobody'."),
        (lambda configs: configs.control("poze"), "unknown control type 'poze'; did you mean 'pose'?"),
        (lambda configs: configs.profile("puppet").size_px("sqare"), "unknown size 'sqare'; did you mean 'square'?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_name(configs, look_up, says):
    with pytest.raises(UnknownNameError) as caught:
        look_up(configs)
    assert says in str(caught.value)


def test_a_name_that_is_no_text_is_an_unknown_name(configs):
    with pytest.raises(UnknownNameError, match="unknown character 7"):
        configs.character(7)


def test_a_profile_without_a_controlnet_says_which_profiles_have_one(configs):
    match = r"profile sdxl: no pose ControlNet yet\. Profiles that have it: puppet"
    with pytest.raises(ProfileError, match=match):
        configs.control_source("pose", "sdxl", "dedicated")


def test_the_union_controlnet_serves_a_control_without_one_of_its_own(configs):
    assert configs.control_source("pose", "sdxl").folder == "controlnet-union-sdxl-1.0"
    assert configs.control_source("pose", "sdxl", "union") == configs.control_source("seg", "sdxl")
    assert configs.control_source("pose", "puppet").package.endswith("controlnets/pose")
    assert configs.control_source("pose", "puppet", "union").package.endswith("controlnets/union")


def test_a_profile_without_a_preprocessor_says_so(good):
    spoil(good, "controlnet_config", "{name: vitpose, model: {folder: vitpose}}", "null")
    with pytest.raises(ProfileError, match=r"no pose preprocessor yet.*is_map: True"):
        load_configs(good).preprocessor("pose", "tiny")


def test_a_character_without_references_says_where_to_add_them(good):
    spoil(good, "character_presets", "    references: {tiny: {folder: references/luca}}\n", "")
    with pytest.raises(ProfileError, match=r"No profile has it; add it to characters\.luca\.references"):
        load_configs(good).references_source("luca", "tiny")


def test_a_lora_has_a_file_for_each_profile_that_can_use_it(configs):
    assert configs.lora_file("luca", "puppet") == "luca.safetensors"
    with pytest.raises(UnknownNameError, match="unknown profile 'flux'"):
        configs.lora_file("luca", "flux")


def test_a_lora_has_a_base_model_for_each_of_its_files(configs):
    assert configs.lora_base("luca", "sdxl") == "SDXL"
    assert all(lora.base.keys() == lora.files.keys() for lora in configs.lora_registry.loras.values())


@pytest.mark.parametrize(
    ("width", "height"), [(100, 128), (128, 100), (0, 128), (128, 4096), (128.0, 128), (True, 128)]
)
def test_a_size_that_the_profile_cannot_draw_is_refused(configs, width, height):
    with pytest.raises(InvalidValueError, match="must be a multiple of 8 between 64 and 256"):
        configs.profile("puppet").check_size(width, height)


def test_every_named_size_can_be_drawn(configs):
    for profile in configs.sdxl.profiles.values():
        for name in profile.sizes:
            profile.check_size(*profile.size_px(name))


def test_loaded_values_cannot_be_changed(configs):
    with pytest.raises(ValueError, match="frozen"):
        configs.profile().default_quality_preset = "ultra"


# Faults


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported_with_its_place_value_and_nearest_name(good, fault):
    case = yaml.safe_load((BAD_CONFIGS / f"{fault}.yaml").read_text())
    if "old" in case:
        spoil(good, case["file"], case["old"], case["new"])
    elif case["content"] is None:
        (good / f"{case['file']}.yaml").unlink()
    else:
        (good / f"{case['file']}.yaml").write_text(case["content"])
    assert problems_of(good) == case["says"]


def test_all_faults_of_all_files_are_reported_at_once(good):
    spoil(good, "sdxl_config", "steps: 4", "steps: 0")
    spoil(good, "sdxl_config", "scheduler: euler", "scheduler: eular")
    spoil(good, "sdxl_config", "sizes: {square: [128, 128]}", "sizes: {square: [128, 512]}")
    spoil(good, "lora_registry", "kind: character", "kind: charakter")
    spoil(good, "character_presets", "trigger: luca", "triger: luca")
    spoil(good, "character_presets", "{name: luca,", "{name: lucca,")
    (good / "controlnet_config.yaml").unlink()
    with pytest.raises(ConfigError) as caught:
        load_configs(good)
    assert {(Path(problem.file).stem, problem.path) for problem in caught.value.problems} == {
        ("sdxl_config", "profiles.tiny.quality_presets.draft.steps"),
        ("sdxl_config", "profiles.tiny.quality_presets.draft.scheduler"),
        ("sdxl_config", "profiles.tiny.sizes.square.1"),
        ("lora_registry", "loras.luca.kind"),
        ("character_presets", "characters.luca.trigger"),
        ("character_presets", "characters.luca.triger"),
        ("character_presets", "characters.luca.loras.0.name"),
        ("controlnet_config", ""),
    }


def test_the_report_groups_problems_by_file_in_the_order_of_the_lines(good, monkeypatch):
    monkeypatch.chdir(good.parent)
    spoil(good, "lora_registry", "default_weight: 1.0", "default_weight: 8")
    spoil(good, "lora_registry", "kind: character", "kind: style\n    kind: pose")
    spoil(good, "character_presets", "{name: luca,", "{name: lucca,")
    with pytest.raises(ConfigError) as caught:
        load_configs(good)
    assert str(caught.value).splitlines() == [
        "3 problems in the configuration",
        "configs/character_presets.yaml",
        "  characters.luca.loras.0.name (line 5): unknown LoRA 'lucca'; did you mean 'luca'? Known: luca",
        "configs/lora_registry.yaml",
        "  loras.luca.kind (line 4): duplicate key, first given on line 3",
        "  loras.luca.default_weight (line 7): must be ≤ 2, got 8",
    ]


def test_a_missing_folder_names_the_variable_that_points_elsewhere(tmp_path):
    assert len(problems_of(tmp_path / "nowhere")) == 4
    assert all("IMAGELAB_CONFIGS" in problem for problem in problems_of(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"loras: {a: \xe9}", "can't be read"),
        ("loras: {}".encode("utf-16"), "can't be read"),
        (b"loras: {a: some\0body}", "special characters are not allowed"),
        (b"a: " + b"[" * 5000, "nested too deeply"),
        (b"a: " + b"9" * 5000, "isn't a number"),
        (b"a: " + b"x" * (1 << 20), "larger than 1 MiB"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "aliases"),
    ],
)
def test_hostile_bytes_are_one_clear_problem_and_no_work(good, raw, says):
    (good / "lora_registry.yaml").write_bytes(raw)
    assert any(says in problem for problem in problems_of(good))


def test_a_byte_order_mark_is_no_fault(good):
    path = good / "lora_registry.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_configs(good).lora("luca").name == "luca"


def test_words_that_yaml_1_1_took_for_booleans_are_text(good):
    spoil(good, "character_presets", "trigger: luca", "trigger: no")
    assert load_configs(good).character("luca").trigger == "no"


def test_a_folder_in_place_of_a_file_is_a_problem(good):
    (good / "lora_registry.yaml").unlink()
    (good / "lora_registry.yaml").mkdir()
    assert any("can't be read" in problem for problem in problems_of(good))


# Where things are


def test_the_configuration_is_found_by_argument_then_variable_then_project(good, tmp_path, monkeypatch):
    monkeypatch.delenv("IMAGELAB_CONFIGS", raising=False)
    monkeypatch.setenv("IMAGELAB_ROOT", str(tmp_path))
    assert configs_root() == tmp_path / "configs"
    monkeypatch.setenv("IMAGELAB_CONFIGS", str(tmp_path / "elsewhere"))
    assert configs_root() == tmp_path / "elsewhere"
    assert configs_root(good) == good


def test_the_project_is_found_upward_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("IMAGELAB_ROOT", raising=False)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "imagelab"\n')
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "pyproject.toml").write_text('[project]\nname = "other"\n')
    monkeypatch.chdir(tmp_path / "notebooks")
    assert project_root() == tmp_path


def test_outside_any_project_it_is_the_source_checkout(tmp_path, monkeypatch):
    monkeypatch.delenv("IMAGELAB_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert (project_root() / "imagelab").is_dir() or "site-packages" in str(project_root())


def test_models_lie_where_the_variable_says_else_in_the_project(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGELAB_ROOT", str(tmp_path))
    monkeypatch.delenv("IMAGELAB_MODELS", raising=False)
    assert models_root() == tmp_path / "models"
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path / "warehouse"))
    assert models_root() == tmp_path / "warehouse"


@pytest.mark.parametrize("variable", ["IMAGELAB_ROOT", "IMAGELAB_MODELS", "IMAGELAB_CONFIGS"])
@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("~nosuchuser/x", "the path of a folder"),
        ("/" + "x" * 300, "the path of a folder"),
        ("models", "an absolute path, perhaps '/"),
    ],
)
def test_a_variable_that_is_no_path_is_refused_by_name_and_value(monkeypatch, variable, value, says):
    find = {"IMAGELAB_ROOT": project_root, "IMAGELAB_MODELS": models_root, "IMAGELAB_CONFIGS": configs_root}[variable]
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidValueError) as caught:
        find()
    assert str(caught.value).startswith(f"{variable} must be {says}")
    assert value[:70] in str(caught.value)


def test_a_variable_that_begins_with_a_tilde_is_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("IMAGELAB_MODELS", "~/no-such-folder")
    assert models_root() == Path.home().resolve() / "no-such-folder"


def test_a_project_without_notebooks_names_the_folder_that_was_searched(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGELAB_ROOT", str(tmp_path))
    with pytest.raises(NotebookError, match=f"no notebooks in {tmp_path}/notebooks. Run this .* IMAGELAB_ROOT"):
        find_notebook("22_filter_batches")


def test_a_lora_that_a_preset_cannot_do_without_needs_a_file_for_the_presets_profile(good):
    spoil(good, "sdxl_config", "size: square}\n", "size: square, loras: [{name: luca}]}\n")
    spoil(good, "lora_registry", "files: {tiny:", "files: {other:")
    place = "profiles.tiny.quality_presets.draft.loras.0.name (line 21)"
    assert any(
        problem.startswith(f"{place}: LoRA 'luca' has no file for profile tiny") for problem in problems_of(good)
    )
