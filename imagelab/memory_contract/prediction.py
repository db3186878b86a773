"""The peak of the GPU's memory while a picture is drawn, predicted before anything is allocated."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from imagelab.config import MemoryPolicy
from imagelab.memory_contract.activations import Activations, count_activations, upcasts
from imagelab.memory_contract.nets import Net, token_bytes, weight_bytes
from imagelab.memory_ladder import next_rung

_GIB = 2**30
# What cuBLAS and cuDNN keep for themselves: what is left of the peaks on an H200 when all else is counted, 0.19 to 0.20
_LIBRARIES_GIB = 0.19
_TILES = 16 / 9  # pixels of all tiles to those of the picture: each overlaps a quarter of the next, both ways
_COPIES_OF_PICTURES = 3  # as decoded, one beside the other, and brought to 0..1
_COPIES_OF_A_WEIGHT = 4  # in float32, while a LoRA is put in: pristine, the sum, the update, and that at its strength
_FLOAT32 = 4  # bytes
_CHUNK = 77  # tokens
_OWN_PROMPTS = 2  # the prompt and the negative one, as the text encoders said them
_JOINED = 3  # while they are encoded: the first of the two, the parts of the second, and what they are joined to


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is to be drawn, as far as memory depends on it."""

    width: int  # px
    height: int  # px
    pictures: int = 1  # at once
    guided: bool = True  # by a prompt and a negative one: two passes in one
    loras: bool = False  # are put into the weights first
    chunks: int = 1  # of 77 tokens: the longer of the two prompts
    controls: tuple[Net, ...] = ()  # the ControlNet of each
    net_bytes: int = 0  # weights of the ControlNets that act or are kept on the device

    @property
    def tokens(self) -> int:
        """Return how long each prompt is to the UNet."""
        return _CHUNK * self.chunks

    @property
    def passes(self) -> int:
        """Return how many latents the UNet gets at once."""
        return self.pictures * (2 if self.guided else 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """What a pipeline's models take: bytes of their weights, and their activations."""

    text: tuple[int, ...]  # one of each encoder
    text_layer: int  # of the encoders' largest layer
    unet: int
    vae: int
    largest: int  # numbers in the largest weight of one layer
    itemsize: int  # bytes of a number in a decoded picture
    upcasts: bool  # the VAE, from float16 to float32, while it decodes
    factor: int  # pixels to the side of a latent one
    embedding: int  # bytes of a token of the prompt, as the text encoders say it
    token: int  # bytes of its keys and values, which the UNet keeps while it draws
    activations: Activations
    libraries: float  # bytes that the device's libraries keep


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The most memory in GiB that each stage of a drawing takes, weights included."""

    loras: float  # while they are put in; at most, as if they touched the largest weight
    text: float
    denoise: float
    decode: float

    @property
    def peak_gib(self) -> float:
        """Return the most at any time."""
        return max(self.loras, self.text, self.denoise, self.decode)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """How much of a job is drawn at once and under which policy, what was given up for that, and whether it fits."""

    job: Job
    memory: MemoryPolicy
    prediction: Prediction
    given_up: tuple[str, ...]  # rungs of the ladder, the number of pictures left out
    fits: bool


def measure_footprint(pipe: Any, device: torch.device) -> Footprint:
    """Count what a pipeline's models take on a device; they may lie anywhere, also on the meta device."""
    vae, encoders, cuda = pipe.vae, (pipe.text_encoder, pipe.text_encoder_2), device.type == "cuda"
    return Footprint(
        text=tuple(weight_bytes(encoder) for encoder in encoders),
        text_layer=max(weight.nbytes for encoder in encoders for weight in encoder.parameters()),
        unet=weight_bytes(pipe.unet),
        vae=weight_bytes(vae),
        largest=max(weight.numel() for weight in pipe.unet.parameters()),
        itemsize=_FLOAT32 if upcasts(vae) else vae.dtype.itemsize,
        upcasts=upcasts(vae),
        factor=2 ** (len(vae.config.block_out_channels) - 1),
        embedding=pipe.unet.config.cross_attention_dim * pipe.unet.dtype.itemsize,
        token=token_bytes({name: weight.shape for name, weight in pipe.unet.named_parameters()}, pipe.unet.dtype),
        activations=count_activations(pipe.unet, vae, copies=cuda),
        libraries=_LIBRARIES_GIB * _GIB if cuda else 0.0,
    )


def predict(job: Job, memory: MemoryPolicy, models: Footprint, *, offloads: bool = True) -> Prediction:
    """Predict the peak of each stage.

    Under offloading a stage has the weights of its own model alone, or of one layer of it, and the ControlNets that
    act, which stay. Where only the text encoders are offloaded, everything else stays. `offloads`: whether the device
    can do that, else the policy counts as resident.
    """
    policy = memory.policy if offloads else "resident"
    vae = models.vae * (2 if models.upcasts else 1)  # float32 has twice the bytes
    layer = models.largest * models.itemsize
    drawing = models.unet + models.vae + job.net_bytes
    everything = sum(models.text) + drawing
    loras, text, denoise, decode = {
        "resident": (everything, everything, everything, everything + vae - models.vae),
        "text_encoder_offload": (drawing, drawing + models.text_layer, drawing, drawing + vae - models.vae),
        "model_offload": (0, max(models.text), models.unet + job.net_bytes, vae + job.net_bytes),
        "sequential_offload": (0, layer, layer + job.net_bytes, layer + job.net_bytes),
    }[policy]
    loras += job.loras * _COPIES_OF_A_WEIGHT * _FLOAT32 * models.largest
    kept = job.tokens * _token_bytes(job, models)
    return Prediction(
        loras=(models.libraries + loras) / _GIB,
        text=(models.libraries + text + job.tokens * _JOINED * models.embedding) / _GIB,
        denoise=(models.libraries + denoise + kept + _denoising(job, models)) / _GIB,
        decode=(models.libraries + decode + kept + _decoding(job, memory, models)) / _GIB,
    )


def fit(
    job: Job,
    memory: MemoryPolicy,
    models: Footprint,
    room_gib: float,
    device: torch.device,
    *,
    compiled: bool = False,
) -> Fit:
    """Go down the ladder until a job's prediction is within the room, or to its end.

    First half of the pictures at once, down to one, then `next_rung`: the order in which drawing meets memory that has
    run out.
    """
    given_up: list[str] = []
    while True:
        prediction = predict(job, memory, models, offloads=device.type == "cuda")
        fits = prediction.peak_gib <= room_gib
        rung = next_rung(memory, device, compiled=compiled)
        if fits or (job.pictures == 1 and rung is None):
            return Fit(job=job, memory=memory, prediction=prediction, given_up=tuple(given_up), fits=fits)
        if job.pictures > 1:
            job = replace(job, pictures=(job.pictures + 1) // 2)
        elif rung:
            memory, what = rung
            given_up.append(what)


def _token_bytes(job: Job, models: Footprint) -> int:
    """Return what is kept of one token of the prompts: as encoded, repeated for each picture, as keys and values."""
    nets = {net.name: net.token for net in job.controls}
    repeated = job.passes + job.guided * job.pictures  # diffusers keeps the negative one beside both in one
    return (_OWN_PROMPTS + repeated) * models.embedding + job.passes * (models.token + sum(nets.values()))


def _denoising(job: Job, models: Footprint) -> float:
    line = models.activations.controlled(job.controls) if job.controls else models.activations.unet
    return job.passes * line.at(job.width * job.height / models.factor**2) + _maps(job, models)


def _decoding(job: Job, memory: MemoryPolicy, models: Footprint) -> float:
    tile = memory.vae_tile_px
    tiled = memory.vae_tiling and max(job.width, job.height) > tile
    area = min(job.width, tile) * min(job.height, tile) if tiled else job.width * job.height
    at_once = 1 if memory.vae_slicing else job.pictures
    image = _image_bytes(job, models)
    there = (job.pictures - at_once) * image + (at_once * image * _TILES if tiled else 0)
    busy = there + at_once * models.activations.decoder.at(area / models.factor**2)
    return _maps(job, models) + max(busy, _COPIES_OF_PICTURES * job.pictures * image)


def _maps(job: Job, models: Footprint) -> float:
    return len(job.controls) * job.passes * _image_bytes(job, models)


def _image_bytes(job: Job, models: Footprint) -> int:
    return 3 * models.itemsize * job.width * job.height
