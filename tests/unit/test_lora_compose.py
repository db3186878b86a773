"""Several LoRAs in one model: by component, by block and by step, and nothing of them stays behind."""

import gc
import itertools
import os
import random
import tracemalloc

import psutil
import pytest
import torch
from handmade_lora import LAYERS, kohya_tensors, peft_tensors, random_pairs, write

from imagelab import GenerationError, ImageLabError, ModelFileError, UnknownNameError
from imagelab.config.blocks import BLOCKS, PRESETS, block_weights
from imagelab.encoding import encode_prompt
from imagelab.loading import load_pipeline
from imagelab.lora import LoraPatcher, compare_loras
from imagelab.lora.blocks import block_of, strength
from imagelab.pipeline import draw
from imagelab.prompts import Prompt
from imagelab.results import LoraRecord

COMPONENTS = tuple(LAYERS)
STEPS = 4


@pytest.fixture(scope="module")
def loaded(configs):
    return load_pipeline(configs.profile("puppet"), "cpu")


@pytest.fixture(scope="module")
def pipe(loaded):
    return loaded.pipe


@pytest.fixture(scope="module")
def everywhere(pipe):
    """{component: every linear and convolution layer that it has}."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    found = {
        part: tuple(name for name, module in getattr(pipe, part).named_modules() if isinstance(module, kinds))
        for part in COMPONENTS
    }
    return found | {"text_encoder_2": tuple(name for name in found["text_encoder_2"] if "layers" in name)}


@pytest.fixture(scope="module")
def files(pipe, tmp_path_factory):
    """Three LoRAs on the same layers, in two formats."""
    folder = tmp_path_factory.mktemp("loras")
    pairs = {name: random_pairs(pipe, seed=seed, size=0.2) for seed, name in enumerate("abc")}
    paths = {name: write(folder / f"{name}.safetensors", peft_tensors(pairs[name])) for name in "ab"}
    paths["c"] = write(folder / "c.safetensors", kohya_tensors(pairs["c"], alpha=4.0))  # alpha / rank = 1
    return paths, pairs


@pytest.fixture
def patcher(pipe):
    patcher = LoraPatcher(pipe=pipe)
    yield patcher
    patcher.clear()


@pytest.fixture
def paint(loaded, configs):
    """Draw a small picture in few steps with the LoRAs of a patcher; `hook(step)` is called after each."""
    embeddings = encode_prompt(loaded.pipe, Prompt(positive="luca on the beach", negative=""))

    def paint(patcher, hook=None, seed=1):
        with patcher.stepping(STEPS) as go_to:

            def after_step(step, *_):
                if hook is not None:
                    hook(step)
                go_to(step)

            given = {"seeds": [seed], "width": 64, "height": 64, "steps": STEPS, "guidance_scale": 4.0}
            return draw(loaded, embeddings, configs.scheduler("euler"), on_step=after_step, **given)[0].tobytes()

    return paint


def record(name="a", weight=1.0, text=None, **given):
    return LoraRecord(
        name=name, weight=weight, text_encoder_weight=weight if text is None else text, sha256="", **given
    )


def weights(pipe):
    return {
        (part, key): value.clone() for part in COMPONENTS for key, value in getattr(pipe, part).state_dict().items()
    }


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def changed(before, after):
    return {
        (part, key.removesuffix(".weight"))
        for part, key in before
        if not torch.equal(before[part, key], after[part, key])
    }


# --- the sum


def test_several_loras_are_the_sum_of_their_updates_each_with_its_own_weights(pipe, patcher, files):
    paths, pairs = files
    records = {
        "a": record("a", 0.7, 0.3),
        "b": record("b", -0.4, text_encoder_2_weight=0.9),
        "c": record("c", 1.2, blocks=block_weights([0.5, 1, 1, 0.3, 1, 0.7, 1, 1, 1, 1, 1, 1])),
    }
    before = weights(pipe)
    patcher.apply([(paths[name], records[name]) for name in "cab"])
    after = weights(pipe)
    for part, module in pairs["a"]:
        expected = before[part, f"{module}.weight"].double()
        for name in "abc":
            down, up = pairs[name][part, module]
            update = (up.double().flatten(1) @ down.double().flatten(1)).reshape(expected.shape)
            expected = expected + strength(records[name], (part, module)) * update
        torch.testing.assert_close(after[part, f"{module}.weight"].double(), expected, rtol=0, atol=1e-6)
    assert changed(before, after) <= set(pairs["a"])


def test_the_text_encoders_have_a_weight_each(pipe, patcher, files):
    before = weights(pipe)
    for given, parts in (
        ({"weight": 1.0, "text": 0.0}, {"unet"}),
        ({"weight": 0.0, "text": 1.0}, {"text_encoder", "text_encoder_2"}),
        ({"weight": 0.0, "text": 1.0, "text_encoder_2_weight": 0.0}, {"text_encoder"}),
        ({"weight": 0.0, "text": 0.0, "text_encoder_2_weight": 1.0}, {"text_encoder_2"}),
    ):
        patcher.apply([(files[0]["a"], record(**given))])
        assert {part for part, _ in changed(before, weights(pipe))} == parts


def test_a_block_of_weight_zero_is_the_base_to_the_bit_convolutions_included(pipe, patcher, everywhere, tmp_path):
    path = write(tmp_path / "a.safetensors", peft_tensors(random_pairs(pipe, layers=everywhere, rank=1)))
    slots = {(part, name) for part, names in everywhere.items() for name in names}
    before = weights(pipe)
    for block in ("BASE", "IN00", "IN03", "IN04", "MID", "OUT02", "OUT04", "OUT08"):
        inside = {slot for slot in slots if block_of(slot) == block}
        assert inside
        patcher.apply([(path, record(blocks=tuple(float(name != block) for name in BLOCKS)))])
        assert changed(before, weights(pipe)) == slots - inside
        patcher.apply([(path, record(blocks=tuple(float(name == block) for name in BLOCKS)))])
        assert changed(before, weights(pipe)) == inside


def test_a_lora_that_changes_no_block_is_refused_and_copies_no_weight(pipe, patcher, files):
    before = weights(pipe)
    with pytest.raises(GenerationError, match="LoRA a acts on nothing"):
        patcher.apply([(files[0]["a"], record(blocks=PRESETS["NONE"]))])
    assert same(before, weights(pipe))
    assert not patcher._pristine


def test_only_what_a_switch_leaves_is_restored_and_the_rest_is_rewritten(patcher, files):
    for name in "ba":  # both are read by now: a file is fitted to the base alone
        patcher.apply([(files[0][name], record(name))])
    kept = {slot: tensor.data_ptr() for slot, tensor in patcher._pristine.items()}
    patcher.apply([(files[0]["b"], record("b", 0.5))])
    assert {slot: tensor.data_ptr() for slot, tensor in patcher._pristine.items()} == kept, "no second copy"


def test_ten_loras_cost_no_module_no_hook_and_no_parameter_more_than_none(pipe, patcher, files):
    def anatomy():
        parts = [(name, module) for part in COMPONENTS for name, module in getattr(pipe, part).named_modules()]
        hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for _, module in parts)
        addresses = [parameter.data_ptr() for part in COMPONENTS for parameter in getattr(pipe, part).parameters()]
        return [(name, type(module)) for name, module in parts], hooks, addresses

    before = anatomy()
    patcher.apply([(files[0]["abc"[index % 3]], record(f"lora_{index}", 0.1)) for index in range(10)])
    assert anatomy() == before


# --- steps


def test_each_step_is_drawn_with_the_loras_of_that_step_in_the_unet(pipe, patcher, files, paint):
    paths, _ = files
    records = {
        "a": record("a", start=0.0, stop=0.5),
        "b": record("b", 0.5, start=0.25, stop=0.75),
        "c": record("c", 0.3),
    }
    expected = []
    for names in ("ac", "abc", "bc", "c"):
        patcher.apply([(paths[name], records[name]) for name in names])
        expected.append(weights(pipe))
    patcher.apply([(paths[name], records[name]) for name in "abc"])
    whole, seen = weights(pipe), []
    with pipe.unet.register_forward_pre_hook(lambda *_: seen.append(weights(pipe))):
        paint(patcher)
    assert len(seen) == STEPS
    for now, then in zip(seen, expected, strict=True):
        for slot, value in now.items():
            assert torch.equal(value, then[slot] if slot[0] == "unet" else whole[slot])
    assert same(weights(pipe), whole)


@pytest.mark.parametrize("stop_at", range(1, STEPS + 1))
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_picture_that_breaks_off_leaves_what_applied_says(pipe, patcher, files, paint, stop_at, error):
    records = (record("a", start=0.5), record("b", stop=0.5))
    loras = [(files[0][lora.name], lora) for lora in records]
    patcher.apply(loras)
    whole = weights(pipe)

    def break_off(step):
        if step == stop_at:
            raise error

    with pytest.raises(error):
        paint(patcher, break_off)
    assert patcher.applied == records
    assert same(weights(pipe), whole)


@pytest.mark.parametrize(("stop", "still_there"), [(1.0, [True] * 4), (0.5, [True, True, False, False])])
def test_while_drawing_only_a_change_of_loras_rewrites_anything(pipe, patcher, files, paint, stop, still_there):
    patcher.apply([(files[0]["a"], record("a", 0.5, stop=stop))])
    parameter = pipe.unet.get_submodule(LAYERS["unet"][0]).weight
    seen = []

    def mark(step):
        if step == 1:
            parameter.data[0, 0] = 7.0
        seen.append(parameter[0, 0].item() == 7)

    paint(patcher, mark)
    assert seen == still_there


# --- files


def test_going_back_to_a_lora_does_not_read_it_again(pipe, patcher, files, tmp_path):
    path = write(tmp_path / "a.safetensors", peft_tensors(files[1]["a"]))
    patcher.apply([(path, record("a"))])
    first, stat = weights(pipe), path.stat()
    patcher.apply([(files[0]["b"], record("b"))])
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    patcher.apply([(path, record("a"))])
    assert same(weights(pipe), first)


def test_a_file_that_has_changed_is_read_again(pipe, patcher, files, tmp_path):
    path = write(tmp_path / "a.safetensors", peft_tensors(files[1]["a"]))
    patcher.apply([(path, record("a"))])
    first, stat = weights(pipe), path.stat()
    write(path, peft_tensors(files[1]["b"]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    patcher.apply([(path, record("a", 0.999))])
    patcher.apply([(path, record("a"))])
    assert not same(weights(pipe), first)
    assert len(patcher._files._kept) == 1, "the older version is forgotten"


def test_of_the_files_out_of_use_the_latest_are_kept_and_none_in_use_is_dropped(patcher, files, monkeypatch):
    monkeypatch.setattr("imagelab.lora.files._KEPT_BYTES", files[0]["c"].stat().st_size)
    for name in "abcb":
        patcher.apply([(files[0][name], record(name))])
    assert [path.stem for path, _, _ in patcher._files._kept] == ["c", "b"]
    monkeypatch.setattr("imagelab.lora.files._KEPT_BYTES", 0)
    patcher.apply([(files[0][name], record(name)) for name in "abc"])
    assert [path.stem for path, _, _ in patcher._files._kept] == ["a", "b", "c"]


# --- and nothing stays behind


class Chance:
    """Random LoRAs, some of them bad, and random accidents."""

    def __init__(self, paths, seed):
        self.paths, self.random = paths, random.Random(seed)

    def loras(self):
        chosen = self.random.sample(sorted(self.paths), self.random.randint(0, 3))
        return [(self.paths[name], self.record(name)) for name in chosen]

    def record(self, name):
        pick = self.random
        start = pick.choice([0.0, 0.0, 0.25, 0.5])
        blocks = pick.choice([None, *PRESETS.values(), tuple(pick.uniform(-1, 1) for _ in BLOCKS)])
        return record(name, pick.uniform(-1, 1), pick.uniform(-1, 1), blocks=blocks, start=start, stop=start + 0.5)

    def accident(self):
        at, error = self.random.randint(1, 2 * STEPS), self.random.choice([KeyboardInterrupt, MemoryError])

        def happen(step):
            if step == at:
                raise error

        return happen


@pytest.fixture
def bad_files(files, pipe, tmp_path):
    whole = files[0]["a"].read_bytes()
    nan = peft_tensors(random_pairs(pipe, seed=9))
    next(iter(nan.values()))[0, 0] = float("nan")
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    return {
        "cut": tmp_path / "cut.safetensors",
        "nan": write(tmp_path / "nan.safetensors", nan),
        "missing": tmp_path / "missing.safetensors",
        "overflow": write(tmp_path / "overflow.safetensors", peft_tensors(random_pairs(pipe, size=1e20))),
    }


def tensors():
    gc.collect()
    return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())


def live_through(cycles, chance, pipe, patcher, paint, base):
    """Load, switch, draw, fail and unload at random; return how often what happened."""
    happened = dict.fromkeys(("refused", "drawn", "broken off", "unloaded"), 0)
    for _ in range(cycles):
        try:
            patcher.apply(chance.loras())
            whole = weights(pipe) if chance.random.random() < 0.1 else None
        except ImageLabError:
            happened["refused"] += 1
            assert patcher.applied == ()
            assert same(weights(pipe), base)
            continue
        if chance.random.random() < 0.35:
            try:
                paint(patcher, chance.accident())
                happened["drawn"] += 1
            except (KeyboardInterrupt, MemoryError, ImageLabError):  # such LoRAs can spoil a picture
                happened["broken off"] += 1
            assert whole is None or same(weights(pipe), whole)
        if chance.random.random() < 0.3:
            patcher.clear()
            happened["unloaded"] += 1
            assert same(weights(pipe), base)
    patcher.clear()
    return happened


def test_two_hundred_cycles_leave_the_base_to_the_bit_and_no_memory(pipe, patcher, files, bad_files, paint):
    base = weights(pipe)
    chance = Chance(files[0] | bad_files, seed=3)
    for name in ("a", "b", "c", "overflow"):  # those that can be read, and are kept then
        patcher._files.read(chance.paths[name])
    live_through(20, chance, pipe, patcher, paint, base)  # what is made once, like kernels' workspaces, is made
    tensors_before, rss_before = tensors(), psutil.Process().memory_info().rss
    tracemalloc.start()
    try:
        traced_before = tracemalloc.get_traced_memory()[0]
        happened = live_through(200, chance, pipe, patcher, paint, base)
        gc.collect()
        traced = tracemalloc.get_traced_memory()[0] - traced_before
    finally:
        tracemalloc.stop()
    assert min(happened.values()) >= 5, happened
    assert same(weights(pipe), base)
    assert not patcher._pristine
    assert not patcher._terms
    assert tensors() <= tensors_before
    assert traced < 2**20
    assert psutil.Process().memory_info().rss - rss_before < 64 * 2**20


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_after_a_thousand_switches_the_weights_are_those_of_a_fresh_model_where_they_always_were(configs, dtype, files):
    puppet = configs.profile("puppet")
    of_dtype = puppet.model_copy(update={"dtype": puppet.dtype.model_copy(update={"cpu": dtype})})
    pipe = load_pipeline(of_dtype, "cpu").pipe
    patcher = LoraPatcher(pipe=pipe)
    paths, records = files[0], {}
    for index, name in enumerate("abc"):
        records[name] = record(name, 0.4 + 0.3 * index, 0.2 * index)
    sets = [(), *itertools.combinations("abc", 1), *itertools.combinations("abc", 2), tuple("abc")]
    base, fresh = weights(pipe), {}
    assert {str(value.dtype) for value in base.values() if value.is_floating_point()} == {f"torch.{dtype}"}
    for chosen in sets:
        alone = LoraPatcher(pipe=pipe)
        alone.apply([(paths[name], records[name]) for name in chosen])
        fresh[chosen] = weights(pipe)
        alone.clear()
    where = {part: [weight.data_ptr() for weight in getattr(pipe, part).parameters()] for part in COMPONENTS}
    pick = random.Random(11)
    for number in range(1000):
        chosen = pick.choice(sets)
        patcher.apply([(paths[name], records[name]) for name in chosen])
        if number % 20 == 19:
            assert same(weights(pipe), fresh[chosen])
    assert where == {part: [weight.data_ptr() for weight in getattr(pipe, part).parameters()] for part in COMPONENTS}
    patcher.apply([])
    assert same(weights(pipe), base)
    assert not any(same(base, there) for chosen, there in fresh.items() if chosen), "each set changes something"


def test_a_switch_writes_only_the_weights_on_which_something_else_acts_than_before(pipe, patcher, tmp_path):
    first, second = LAYERS["unet"][:2]
    one = write(tmp_path / "one.safetensors", peft_tensors(random_pairs(pipe, layers={"unet": (first, second)})))
    other = write(tmp_path / "other.safetensors", peft_tensors(random_pairs(pipe, layers={"unet": (second,)})))
    patcher.apply([(one, record("one"))])
    kept, changed = (pipe.unet.get_submodule(name).weight for name in (first, second))
    with_one = changed.clone()
    kept.data[0, 0] = 7  # a mark that writing would wipe out
    patcher.apply([(one, record("one")), (other, record("other"))])
    assert kept.flatten()[0] == 7
    assert not torch.equal(changed, with_one)
    patcher.apply([(one, record("one", 0.5))])
    assert kept.flatten()[0] != 7


def test_what_acts_on_the_text_encoders_is_told_from_what_acts_on_the_unet(patcher, files):
    patcher.apply([(files[0]["a"], record("a", 1.0, 0.0))])
    assert not patcher.in_text_encoders
    patcher.apply([(files[0]["a"], record("a", 1.0, 0.5))])
    half = patcher.in_text_encoders
    patcher.apply([(files[0]["a"], record("a", 0.3, 0.5))])
    assert patcher.in_text_encoders == half
    patcher.apply([(files[0]["a"], record("a", 0.3, 0.6))])
    assert patcher.in_text_encoders != half


# --- effect and interference


def test_the_effect_is_the_norm_of_the_update_relative_to_the_blocks_weights(pipe, everywhere, files):
    paths, pairs = files
    comparison = compare_loras(pipe, [(paths["a"], record("a", 0.5, 0.25)), (paths["c"], record("c"))])
    base = weights(pipe)
    inside = {slot: update(pair) for slot, pair in pairs["a"].items() if block_of(slot) == "MID"}
    norm = torch.stack([0.5 * part.norm() for part in inside.values()]).norm()
    of_block = [base["unet", f"{name}.weight"].norm() for name in everywhere["unet"] if name.startswith("mid_block")]
    assert comparison.effect("a", "MID") == pytest.approx((norm / torch.stack(of_block).norm()).item(), rel=1e-5)
    assert comparison.effect("a", "OUT08") == 0
    assert comparison.effects().loc["all", "c"] == comparison.effect("c")
    blocks = [block for block in BLOCKS if block not in {"IN02", "IN05", "IN08"}]
    assert list(comparison.effects().index) == [*blocks, "all"]


def update(pair):
    down, up = pair
    return up.double().flatten(1) @ down.double().flatten(1)


def test_interference_is_the_cosine_between_the_updates(pipe, files, tmp_path):
    paths, pairs = files
    against = {slot: (down, -up) for slot, (down, up) in pairs["a"].items()}
    elsewhere = random_pairs(pipe, layers={"unet": ("mid_block.resnets.0.conv1",)})
    loras = [
        (paths["a"], record("a", 0.5)),
        (paths["b"], record("b")),
        (write(tmp_path / "against.safetensors", peft_tensors(against)), record("against")),
        (write(tmp_path / "elsewhere.safetensors", peft_tensors(elsewhere)), record("elsewhere")),
    ]
    comparison = compare_loras(pipe, loras)
    assert comparison.interference("a", "against") == pytest.approx(-1)
    assert comparison.interference("a", "elsewhere") == 0
    assert comparison.interference("a", "elsewhere", "BASE") != comparison.interference("a", "elsewhere", "BASE"), "NaN"
    one, other = (
        torch.cat([update(pairs[name][slot]).flatten() for slot in pairs[name] if block_of(slot) == "IN04"])
        for name in "ab"
    )
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=0).item()
    assert comparison.interference("a", "b", "IN04") == pytest.approx(cosine, abs=1e-6)
    table = comparison.interferences()
    assert list(table.columns)[:2] == ["a × b", "a × against"]
    with pytest.raises(UnknownNameError, match="did you mean 'elsewhere'"):
        comparison.effect("elsewere")
    with pytest.raises(UnknownNameError, match="block of the base model 'IN99'"):
        comparison.interference("a", "b", "IN99")
    assert table.loc["IN04", "a × b"] == comparison.interference("a", "b", "IN04")


def test_measuring_changes_no_weight_and_refuses_what_applying_refuses(pipe, files, bad_files):
    before = weights(pipe)
    compare_loras(pipe, [(files[0]["a"], record("a"))])
    assert same(before, weights(pipe))
    with pytest.raises(ModelFileError):
        compare_loras(pipe, [(bad_files["nan"], record("nan"))])
