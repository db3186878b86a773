"""ControlNets and annotators of the real classes at puppet size, untrained, and a configuration that names them."""

import dataclasses

import torch
from diffusers import ControlNetModel, ControlNetUnionModel
from transformers import (
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessor,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
    VitPoseImageProcessor,
)

from imagelab.config import Source
from imagelab.config.controlnet import Preprocessor

_NORMALISED = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_SIDE = {"height": 64, "width": 64}
_UNET = ("in_channels", "block_out_channels", "layers_per_block", "norm_num_groups", "flip_sin_to_cos", "freq_shift")
_ATTENTION = ("down_block_types", "cross_attention_dim", "attention_head_dim", "transformer_layers_per_block")
_TEXT_TIME = ("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim")


def _config(unet, *names):
    return {name: unet.config[name] for name in (*_UNET, *names)}


def _let_act(net):
    """A new ControlNet's last layers are zero: it doesn't act before it is trained."""
    with torch.no_grad():
        for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
            layer.weight.normal_(std=0.05)
    return net


def plain_net(unet, seed):
    """Without attention and text: what the puppets' dedicated ControlNets are."""
    torch.manual_seed(seed)
    blocks = {"down_block_types": ("DownBlock2D",) * 3, "mid_block_type": "UNetMidBlock2D"}
    conditioning = {"conditioning_embedding_out_channels": (16, 32, 64, 96)}
    return _let_act(ControlNetModel(**_config(unet), **blocks, **conditioning))


def full_net(unet, seed):
    """With all that the UNet has: what SDXL's ControlNets are."""
    torch.manual_seed(seed)
    return _let_act(ControlNetModel.from_unet(unet))


def union_net(unet, seed):
    torch.manual_seed(seed)
    width = unet.config.block_out_channels[0]
    fuser = {"num_trans_channel": width, "num_proj_channel": width, "num_trans_head": 4, "num_control_type": 6}
    net = ControlNetUnionModel(
        **_config(unet, *_ATTENTION, *_TEXT_TIME),
        **fuser,
        use_linear_projection=True,
        conditioning_embedding_out_channels=(16, 32, 64, 96),
    )
    with torch.no_grad():
        net.spatial_ch_projs.weight.normal_(std=0.05)
    return _let_act(net)


def save_nets(folder, unet):
    """Write pose (fp16), canny (with attention), depth and union ControlNets, and a broken one of another size."""
    plain_net(unet, 1).half().save_pretrained(folder / "pose")
    full_net(unet, 2).save_pretrained(folder / "canny")
    plain_net(unet, 3).save_pretrained(folder / "depth")
    union_net(unet, 4).save_pretrained(folder / "union")


def save_annotators(folder):
    torch.manual_seed(0)
    backbone = VitPoseBackboneConfig(
        image_size=[64, 64], patch_size=[8, 8], hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    pose = VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, num_labels=17))
    pose.head.conv.bias.data.fill_(0.5)  # of every joint, half sure
    pose.save_pretrained(folder / "pose")
    VitPoseImageProcessor(size=_SIDE, **_NORMALISED).save_pretrained(folder / "pose")
    depth = DPTForDepthEstimation(
        DPTConfig(
            hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=64,
            patch_size=16, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=16, is_hybrid=False, use_auxiliary_head=False,
        )
    )  # fmt: skip
    depth.head.head[4].bias.data.fill_(1.0)  # before a ReLU: an untrained one may see nothing at all
    depth.save_pretrained(folder / "depth")
    DPTImageProcessor(size=_SIDE, **_NORMALISED).save_pretrained(folder / "depth")
    for name, labels in {"seg": 7, "normal": 3, "five": 5}.items():
        segformer = SegformerConfig(
            num_labels=labels, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, num_attention_heads=[1] * 4,
            decoder_hidden_size=16,
        )  # fmt: skip
        model = SegformerForSemanticSegmentation(segformer)
        model.decode_head.classifier.weight.data.mul_(100)  # so that not all pixels get one label
        model.save_pretrained(folder / name)
        SegformerImageProcessor(size=_SIDE, **_NORMALISED).save_pretrained(folder / name)


PREPROCESSORS = {"pose": "vitpose", "canny": "canny", "depth": "depth", "seg": "segmentation", "normal": "normals"}


def with_controls(configs, *, params=None, models=None, annotators=None, **changes):
    """The configuration with the models of `$IMAGELAB_MODELS`/controlnets and annotators for the profile puppet."""
    params, models, annotators = params or {}, models or {}, annotators or {}
    controls = {}
    for name, control in configs.controlnet.controls.items():
        net = models.get(name, name)
        estimator = None if name == "canny" else Source(folder=f"annotators/{annotators.get(name, name)}")
        given = {"palette": "puppet"} if name == "seg" else {}
        preprocessor = Preprocessor(name=PREPROCESSORS[name], model=estimator, params=given | params.get(name, {}))
        own = Source(folder=f"controlnets/{net}") if name in ("pose", "canny", "depth") else None
        update = {"models": {"puppet": own}, "preprocessors": {"puppet": preprocessor}}
        controls[name] = control.model_copy(update=update)
        controls[name]._name = name
    changes = {"union": {"puppet": Source(folder="controlnets/union")}, "controls": controls} | changes
    return dataclasses.replace(configs, controlnet=configs.controlnet.model_copy(update=changes))
