"""LoRA files as others write them: peft, diffusers, and writers of kohya's and LyCORIS's layouts.

Each returns ({(component, module): what it adds at strength 0.8}), worked out by the library or the paper's formula.
"""

import copy
import json
import shutil

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from handmade_lora import LAYERS, kohya_tensors, peft_tensors, random_pairs, write
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict

STRENGTH = 0.8
QUERY = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"
SD_NAMES = {  # the puppets' UNet has one layer a block
    QUERY: "input_blocks_3_1_transformer_blocks_0_attn1_to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0": (
        "input_blocks_3_1_transformer_blocks_0_attn2_to_out_0"
    ),
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj": "middle_block_1_transformer_blocks_0_ff_net_0_proj",
    "mid_block.attentions.0.proj_in": "middle_block_1_proj_in",
    "mid_block.resnets.1.conv2": "middle_block_2_out_layers_3",
    CONV: "input_blocks_1_0_in_layers_2",
    "down_blocks.0.downsamplers.0.conv": "input_blocks_2_0_op",
    "up_blocks.0.upsamplers.0.conv": "output_blocks_1_2_conv",
    "up_blocks.1.resnets.0.conv_shortcut": "output_blocks_2_0_skip_connection",
    "down_blocks.0.resnets.0.time_emb_proj": "input_blocks_1_0_emb_layers_1",
    "time_embedding.linear_1": "time_embed_0",
    "add_embedding.linear_2": "label_emb_0_2",
    "conv_in": "input_blocks_0_0",
    "conv_out": "out_2",
}


def low_rank(pairs, scale):
    return {
        slot: STRENGTH * scale * (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])
        for slot, (down, up) in pairs.items()
    }


def trained(part, config):
    """A copy of a model with peft's adapter in it, all of it random."""
    torch.manual_seed(0)
    model = get_peft_model(copy.deepcopy(part), config)
    for name, parameter in model.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1 + 0.3 * torch.rand_like(parameter)
        elif any(kind in name for kind in ("lora_", "hada_", "lokr_")):
            parameter.data = 0.2 * torch.randn_like(parameter)
    return model


def merged(model, part, component):
    """What peft adds at `set_adapters(..., 0.8)`."""
    touched = [name for name, module in model.base_model.model.named_modules() if isinstance(module, BaseTunerLayer)]
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.scale_layer(STRENGTH)
    result = model.merge_and_unload()
    return {
        (component, name): (result.get_submodule(name).weight - part.get_submodule(name).weight).detach()
        for name in touched
    }


def plain(model):
    """The adapter's tensors under the names that diffusers gives them."""
    return {
        key.removeprefix("base_model.model."): t.contiguous()
        for key, t in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }


def unet_config(**options):
    return LoraConfig(r=4, lora_alpha=6, target_modules=list(LAYERS["unet"]), **options)


# peft's own format: one model, its configuration beside it


def peft_alone(config):
    def put(pipe, path):
        model = trained(pipe.unet, config)
        model.save_pretrained(path.parent / "adapter", save_embedding_layers=False)
        expected = merged(model, pipe.unet, "unet")
        shutil.copy(path.parent / "adapter/adapter_config.json", path.with_name("adapter_config.json"))
        shutil.copy(path.parent / "adapter/adapter_model.safetensors", path)
        return expected

    return put


# diffusers: all models in one file, in several layouts


def diffusers_file(*, layout="peft", text=False, metadata=True, **options):
    def put(pipe, path):
        parts = {"unet": unet_config(**options)}
        if text:
            layers = ["q_proj", "out_proj", "fc1"]
            text_config = {"r": 3, "lora_alpha": 5, "target_modules": layers} | options
            parts |= {part: LoraConfig(**text_config) for part in ("text_encoder", "text_encoder_2")}
        models = {part: trained(getattr(pipe, part), config) for part, config in parts.items()}
        tensors = {part: plain(model) for part, model in models.items()}
        if layout == "diffusers":
            tensors = {part: convert_state_dict_to_diffusers(held) for part, held in tensors.items()}
        facts = {f"{part}_lora_adapter_metadata": config.to_dict() for part, config in parts.items()}
        StableDiffusionXLPipeline.save_lora_weights(
            path.parent,
            **{f"{part}_lora_layers": held for part, held in tensors.items()},
            **(facts if metadata else {}),
            weight_name=path.name,
        )
        expected = {}
        for part, model in models.items():
            expected |= merged(model, getattr(pipe, part), part)
        return expected

    return put


def diffusers_until_0_20(pipe, path):
    attention = [name for name in LAYERS["unet"] if ".attn" in name]
    text = [f"encoder.layers.0.self_attn.{name}_proj" for name in ("q", "out")]
    pairs = random_pairs(pipe, layers={"unet": attention, "text_encoder": text})
    tensors = {}
    for (component, name), (down, up) in pairs.items():
        if component == "unet":
            name = name.replace(".to_q", ".processor.to_q").replace(".to_out.0", ".processor.to_out")  # noqa: PLW2901
        else:
            name = "text_model." + name.replace("q_proj", "to_q").replace("out_proj", "to_out")  # noqa: PLW2901
        tensors[f"{component}.{name}_lora.down.weight"] = down
        tensors[f"{component}.{name}_lora.up.weight"] = up
    write(path, tensors)
    return low_rank(pairs, 1.0)


def peft_without_configuration(pipe, path):
    pairs = random_pairs(pipe)
    write(path, peft_tensors(pairs))
    return low_rank(pairs, 1.0)


def unet_alone_without_prefix(pipe, path):
    model = trained(pipe.unet, LoraConfig(r=4, lora_alpha=4, target_modules=[QUERY, "conv_in"]))
    write(path, plain(model))
    return merged(model, pipe.unet, "unet")


# kohya's sd-scripts


def kohya_file(*, alpha=2.0, layers=None, dtype=torch.float32, whole_alpha=False):
    def put(pipe, path):
        pairs = random_pairs(pipe, layers=layers, size=0.2)
        pairs = {slot: tuple(part.to(dtype) for part in pair) for slot, pair in pairs.items()}
        tensors = kohya_tensors(pairs, alpha=int(alpha) if whole_alpha else alpha or 4.0)
        if alpha is None:
            tensors = {key: tensor for key, tensor in tensors.items() if not key.endswith(".alpha")}
        write(path, tensors, {"ss_network_module": "networks.lora"})
        rounded = {slot: tuple(part.float() for part in pair) for slot, pair in pairs.items()}
        return low_rank(rounded, 1.0 if alpha is None else alpha / 4)

    return put


def kohya_sd_names(pipe, path):
    """What kohya writes for SDXL: Stability's block names for the UNet, transformers' for the text encoders."""
    layers = {**LAYERS, "unet": tuple(SD_NAMES)}
    pairs = random_pairs(pipe, layers=layers, size=0.2)
    renamed = {}
    for key, tensor in kohya_tensors(pairs).items():
        name, dot, ending = key.partition(".")
        names = {f"lora_unet_{own.replace('.', '_')}": f"lora_unet_{sd}" for own, sd in SD_NAMES.items()}
        renamed[names.get(name, name) + dot + ending] = tensor
    write(path, renamed, {"ss_base_model_version": "sdxl_base_v1-0"})
    return low_rank(pairs, 0.5)


def comfyui(pipe, path):
    """What ComfyUI's LoraSave writes: Stability's names, with dots."""
    pairs = random_pairs(pipe, layers={"unet": ("mid_block.attentions.0.proj_in", "conv_in")})
    names = {"mid_block.attentions.0.proj_in": "middle_block.1.proj_in", "conv_in": "input_blocks.0.0"}
    tensors = {}
    for (_, name), (down, up) in pairs.items():
        tensors[f"diffusion_model.{names[name]}.lora_down.weight"] = down
        tensors[f"diffusion_model.{names[name]}.lora_up.weight"] = up
    write(path, tensors)
    return low_rank(pairs, 1.0)


def kohya_with_cores(pipe, path):
    """LoCon with `use_cp`: down 1×1, a core with the kernel, up 1×1; the sum of what the three convolutions do."""
    weight = pipe.unet.get_submodule(CONV).weight
    torch.manual_seed(0)
    down, up = torch.randn(4, weight.shape[1], 1, 1), torch.randn(weight.shape[0], 4, 1, 1)
    mid = torch.randn(4, 4, 3, 3) * 0.1
    stem = "lora_unet_input_blocks_1_0_in_layers_2"
    matrices = {f"{stem}.lora_{name}.weight": part for name, part in {"down": down, "mid": mid, "up": up}.items()}
    write(path, {**matrices, f"{stem}.alpha": torch.tensor(2.0)})
    # a convolution's weight is what it answers to a pulse in each channel, mirrored
    pulses = torch.zeros(weight.shape[1], weight.shape[1], 5, 5)
    pulses[range(weight.shape[1]), range(weight.shape[1]), 2, 2] = 1
    answers = torch.nn.functional.conv2d(pulses, down)
    answers = torch.nn.functional.conv2d(torch.nn.functional.conv2d(answers, mid), up)
    return {("unet", CONV): STRENGTH * 0.5 * answers.flip(2, 3).transpose(0, 1)}


# LyCORIS, whose layouts of matrices peft took over


def lycoris_file(config, *, alpha=None, prefix="lora_unet_"):
    def put(pipe, path):
        model = trained(pipe.unet, config)
        tensors = {}
        for key, tensor in plain(model).items():
            name, _, matrix = key.rpartition(".")
            stem = prefix + name.replace(".", "_")
            tensors[f"{stem}.{matrix}"] = tensor
            tensors[f"{stem}.alpha"] = torch.tensor(float(config.alpha if alpha is None else alpha))
        write(path, tensors, {"ss_network_module": "lycoris.kohya"})
        return merged(model, pipe.unet, "unet")

    return put


def lycoris_dora(*, by_rows):
    """`apply_weight_decompose` of LyCORIS, its lengths those of rows or of columns."""

    def put(pipe, path):
        pairs = random_pairs(pipe, layers={"unet": (QUERY, CONV)}, size=0.2)
        tensors, expected = kohya_tensors(pairs, alpha=4.0), {}
        for slot, update in low_rank(pairs, 1.0).items():
            weight = getattr(pipe, slot[0]).get_submodule(slot[1]).weight.detach()
            across = [axis for axis in range(weight.ndim) if axis != (0 if by_rows else 1)]
            lengths = 1.2 * torch.linalg.vector_norm(weight, dim=across, keepdim=True)
            tensors[f"lora_unet_{slot[1].replace('.', '_')}.dora_scale"] = lengths
            summed = weight + update
            norms = torch.linalg.vector_norm(summed, dim=across, keepdim=True)
            expected[slot] = lengths * summed / norms - weight
        write(path, tensors)
        return expected

    return put


LOHA = {"r": 3, "alpha": 5, "target_modules": [QUERY, CONV]}
LOKR = {"r": 2, "alpha": 3, "target_modules": [QUERY, CONV]}

# name: (writer, whether diffusers reads the file and with the same result)
GOOD = {
    "peft": (peft_alone(unet_config()), False),
    "peft_rslora": (peft_alone(unet_config(use_rslora=True)), False),
    "peft_dora": (peft_alone(unet_config(use_dora=True)), False),
    "peft_patterns": (
        peft_alone(unet_config(rank_pattern={"conv1": 2, "proj_in": 8}, alpha_pattern={"attn1.to_q": 1})),
        False,
    ),
    "peft_loha": (peft_alone(LoHaConfig(**LOHA)), False),
    "peft_lokr": (peft_alone(LoKrConfig(**LOKR)), False),
    "diffusers_of_peft": (diffusers_file(text=True), True),
    "diffusers_rslora": (diffusers_file(use_rslora=True), True),
    "diffusers_dora": (diffusers_file(use_dora=True), True),
    "diffusers_dora_with_text": (diffusers_file(text=True, use_dora=True), False),
    "diffusers_patterns": (diffusers_file(rank_pattern={"conv1": 2}, alpha_pattern={"proj_in": 9}), True),
    # diffusers writes it, but reads it by the format of its first key alone
    "diffusers_own_names": (diffusers_file(layout="diffusers", text=True), False),
    "diffusers_until_0_20": (diffusers_until_0_20, True),
    "peft_names_without_configuration": (peft_without_configuration, True),
    "unet_alone_without_prefix": (unet_alone_without_prefix, False),
    "kohya": (kohya_file(), True),
    "kohya_without_alpha": (kohya_file(alpha=None), True),
    "kohya_whole_alpha": (kohya_file(alpha=4, whole_alpha=True), True),
    "kohya_half": (kohya_file(dtype=torch.float16), True),
    "kohya_bfloat16": (kohya_file(dtype=torch.bfloat16), True),
    "kohya_float8": (kohya_file(dtype=torch.float8_e4m3fn), False),
    "kohya_text_encoders_alone": (
        kohya_file(layers={part: LAYERS[part] for part in ("text_encoder", "text_encoder_2")}),
        True,
    ),
    "kohya_convolutions_alone": (kohya_file(layers={"unet": (CONV, "up_blocks.1.resnets.0.conv_shortcut")}), True),
    "kohya_sd_names": (kohya_sd_names, True),
    "comfyui": (comfyui, False),
    "kohya_cores": (kohya_with_cores, False),
    "lycoris_loha": (lycoris_file(LoHaConfig(**LOHA)), False),
    "lycoris_loha_cores": (lycoris_file(LoHaConfig(**LOHA, use_effective_conv2d=True)), False),
    "lycoris_lokr": (lycoris_file(LoKrConfig(**LOKR)), False),
    "lycoris_lokr_cores": (lycoris_file(LoKrConfig(**LOKR, use_effective_conv2d=True, decompose_both=True)), False),
    # the alpha of a LoKr of two whole matrices counts for nothing
    "lycoris_lokr_whole": (lycoris_file(LoKrConfig(**LOKR | {"r": 64, "alpha": 64}), alpha=7), False),
    "lycoris_simpletuner": (lycoris_file(LoKrConfig(**LOKR), prefix="lycoris_"), False),
    "lycoris_dora_rows": (lycoris_dora(by_rows=True), False),
    "lycoris_dora_columns": (lycoris_dora(by_rows=False), False),
}


def metadata_of(config):
    return {"format": "pt", "lora_adapter_metadata": json.dumps(config)}
