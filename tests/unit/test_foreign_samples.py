"""What other programs really wrote is read as it stands there: tests/data/foreign_metadata, by somebody else each."""

import json
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from imagelab import read_picture_metadata
from imagelab.metadata import LoraMention, PictureMetadata, read_metadata

FOLDER = Path(__file__).parents[1] / "data" / "foreign_metadata"
SAMPLES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.json")}

QUALITY = "general, masterpiece, best quality, amazing quality, \n1girl, solo, hatsune miku"
WORST = "bad quality, worst quality, worst detail, sketch, censor,"
WAI = ("waiIllustriousSDXL_v160", "45a21ea00a")
# {name: (writer, version, how the prompts begin, seed, steps, sampler, schedule, cfg, size, model, its hash)}
SAID = {
    "a1111": (
        "a1111", "v1.10.1", QUALITY.replace(" \n", "\n"), WORST,
        3782896554, 20, "DPM++ 2M", "Karras", 7, (1024, 1024), *WAI,
    ),
    "a1111_hires": (
        "a1111", "v1.10.1", QUALITY.replace(" \n", "\n"), WORST,
        3888671826, 20, "DPM++ 2M", "Karras", 5.5, (1024, 1024), *WAI,
    ),
    "a1111_jpeg": (
        "a1111", None, "photo of a duck", "monochrome",
        235284042, 15, "UniPC", "Automatic", 5, (512, 400), "realistic_realisticVisionV20_v20", "c0d1994c73",
    ),
    "forge": (
        "forge", "f2.0.1v1.10.1-previous-669-gdfdcbab6", QUALITY.replace(" \n", "\n"), WORST,
        747066619, 25, "Euler", "Karras", 5, (1024, 1024), *WAI,
    ),
    "forge_lora": (
        "forge", "f1.3.0-v1.10.1RC-latest-1038-g19395bf9", "1girl, solo, hatsune miku, テスト,\n<lora:", "bad anatomy",
        2582194946, 4, "LCM", "SGM Uniform", 1, (1024, 1024), "copycatNoob_v11", "6c015a2deb",
    ),
    "comfyui_controlnet": (
        "comfyui", None, "(messy hair) blonde hair", "(hands), text",
        894480165483805, 12, "DPM++ SDE", "Normal", 6, (768, 768), "AOM3A1", None,
    ),
    "comfyui_flux": (
        "comfyui", None, "cute anime girl with massive fluffy fennec ears", None,
        219670278747233, 20, "Euler", "Simple", None, (1024, 1024), "flux1-dev", None,
    ),
    "comfyui_img2img": (
        "comfyui", None, "photograph of victorian woman with wings", "watermark, text\n",
        280823642470253, 20, "DPM++ 2M", "Normal", 8, None, "v1-5-pruned-emaonly", None,
    ),
    "comfyui_lora": (
        "comfyui", None, "masterpiece best quality girl", "bad hands",
        513173432917412, 20, "Euler", "Normal", 8, (512, 512), "v1-5-pruned-emaonly", None,
    ),
    "comfyui_make": (
        "comfyui", None, QUALITY, WORST,
        813617545434765, 20, "Euler a", "Karras", 5, (1024, 1024), WAI[0], None,
    ),
    "comfyui_noisy_latents": (
        "comfyui", None, "sky clouds nature national park", "lowres, bad anatomy",
        364911269050258, 16, "DPM++ SDE", "Normal", 7, (1920, 1088), "wd-illusion-fp16", None,
    ),
    "comfyui_rgthree": (
        "comfyui", None, QUALITY, WORST,
        963381484256655, 20, "Euler a", "Karras", 5, (1024, 1024), WAI[0], None,
    ),
    "comfyui_several_chains": (
        "comfyui", None, QUALITY, WORST,
        942975376742792, 30, "Euler a", "Normal", 6, (1024, 1024), "waiNSFWIllustrious_v140", None,
    ),
    "comfyui_two_samplers": (
        "comfyui", None, QUALITY, WORST,
        662066908990052, 24, "Euler", "Beta", 5, (1216, 832), "anima-preview", None,
    ),
    "comfyui_user_comment": (
        "comfyui", None, QUALITY, WORST,
        453851843419278, 20, "Euler a", "Karras", 5, (1024, 1024), WAI[0], None,
    ),
    "invokeai": (
        "invokeai", "6.10.0", QUALITY, WORST,
        1860920704, 24, "Euler a", None, 6, (1024, 1024), WAI[0],
        "blake3:7c1631b481e1566448f49db7e3b67a8a9d04742fa3c7d4548a0c81b619160c56",
    ),
    "invokeai_3": (
        "invokeai", None, "digital artwork, oil painting.", "grainy+, photo",
        3293022630, 35, "Euler", None, 8, (1024, 1024), "juggernautXL", None,
    ),
    "invokeai_2": (
        "invokeai", "2.3.0", "professional photo of young woman, at night, city background", "rendering, glowing eyes",
        2980747362, 50, "LMS", None, 5, (512, 768), "deliberateForInvoke_v08",
        "56d1442a0feefd64836a19ac8e3527ec71c884fc962e246ddf67b03e42921272",
    ),
    "fooocus": (
        "fooocus", "Fooocus v2.4.3", "a smiling goldfish", "",
        6952411511246973023, 30, "DPM++ 2M SDE", "Karras", 4, (768, 1280), "juggernautXL_v8Rundiffusion", "aeb7e9e689",
    ),
    "swarmui": (
        "swarmui", "0.9.7.4", QUALITY, WORST,
        2083100758, 20, "Euler a", "Karras", 7, (1024, 1024), WAI[0],
        "22d8cb95b807b0c242576b676a12b07ae6b782b57ae4fe07a07254801b2d5d61",
    ),
    "swarmui_hires": (
        "swarmui", "0.9.7.4", QUALITY, WORST,
        733776228, 20, "Euler a", "Karras", 7, (768, 768), WAI[0],
        "22d8cb95b807b0c242576b676a12b07ae6b782b57ae4fe07a07254801b2d5d61",
    ),
}  # fmt: skip


def test_every_sample_has_its_values_here_and_its_source_in_the_readme():
    assert SAMPLES.keys() == SAID.keys() | {"other_space"}
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    first = [line.split(" | ")[0].removeprefix("| ") for line in readme.splitlines() if line.startswith("| ")]
    assert SAMPLES.keys() == {name for names in first[1:] for name in names.split(", ")}


@pytest.mark.parametrize("name", SAID)
def test_what_a_program_really_wrote_is_read_as_it_stands_there(name):
    read = read_metadata(SAMPLES[name])
    writer, version, prompt, negative, *rest = SAID[name]
    assert (read.writer, read.version) == (writer, version)
    assert read.prompt.startswith(prompt)
    assert read.negative_prompt.startswith(negative) if negative else read.negative_prompt == negative
    assert [
        read.seed, read.steps, read.sampler, read.schedule, read.cfg, read.size, read.model, read.model_hash
    ] == rest  # fmt: skip
    assert PictureMetadata.from_json(read.to_json()) == read


def test_json_of_a_program_that_isnt_known_is_nothing_rather_than_somebody_elses():
    assert read_metadata(SAMPLES["other_space"]).writer is None


def test_loras_and_controls_that_programs_really_named_are_found():
    assert read_metadata(SAMPLES["forge_lora"]).loras == (
        LoraMention(name="NoobV065sHyperDmd", weight=1.0, text_encoder_weight=1.0, hash="45b5bd0819cf"),
    )
    loras = read_metadata(SAMPLES["comfyui_lora"]).loras
    assert [(lora.name, lora.weight) for lora in loras] == [
        ("theovercomer8sContrastFix_sd15", 1.0),
        ("epiNoiseoffset_v2", 1.0),
    ]
    controls = read_metadata(SAMPLES["comfyui_controlnet"]).controls
    assert {(unit.model, round(unit.weight, 6)) for unit in controls} == {
        ("control_scribble", 0.8),
        ("control_openpose", 1.0),
    }


def test_a_picture_that_was_put_together_is_read_from_what_the_parts_were_put_into():
    read = read_metadata(SAMPLES["comfyui_noisy_latents"])
    assert read.samplings[0].seed == read.seed == 364911269050258
    assert len(read.samplings) == 5
    assert read.samplings[-1].seed == 0  # the one that goes on from all of them


def test_of_several_chains_in_a_graph_the_saved_one_comes_first():
    read = read_metadata(SAMPLES["comfyui_several_chains"])
    graph = json.loads(SAMPLES["comfyui_several_chains"]["prompt"])
    del graph["128"]  # what saves it: then the one that goes on longest and stands first
    other = read_metadata({"prompt": json.dumps(graph)})
    assert (read.cfg, other.cfg) == (6.0, 5.0)


def test_a_size_that_no_graph_says_is_the_pictures_own(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", SAMPLES["comfyui_img2img"]["prompt"])
    Image.new("RGB", (48, 32)).save(tmp_path / "a.png", pnginfo=info)
    assert read_picture_metadata(tmp_path / "a.png").size == (48, 32)
    Image.new("RGB", (48, 32)).save(tmp_path / "b.png")
    assert read_picture_metadata(tmp_path / "b.png").size is None


def test_invokeais_oldest_text_is_its_command_line():
    read = read_metadata({"Dream": SAMPLES["invokeai_2"]["Dream"]})
    assert (read.writer, read.seed, read.steps, read.sampler) == ("invokeai", 2980747362, 50, "LMS")
    assert (read.size, read.negative_prompt) == ((512, 768), "rendering, glowing eyes, skinny")
    read = read_metadata({"Dream": '"a "quoted" boy -s 3 [blurry] on [dark] sand" -s 20 -S 1'})
    assert (read.prompt, read.negative_prompt) == ('a "quoted" boy -s 3  on  sand', "blurry, dark")
    assert (read.steps, read.seed, read.size) == (20, 1, None)
    assert read_metadata({"Dream": "no command line"}).writer is None
    plain = json.dumps({"image": {"prompt": "a boy [blurry]", "seed": 5}})
    assert read_metadata({"sd-metadata": plain}).prompt == "a boy"
