"""diffusers' own pipeline on the models of a generator: what a wrapper costs shows beside it."""

import torch
from diffusers import StableDiffusionXLPipeline
from torch.overrides import TorchFunctionMode

from imagelab.pipeline import build_scheduler
from imagelab.plan import plan_generation

# What a GPU is waited for in; `to` where it leads to the CPU at once.
WAITING = {"item", "tolist", "numpy", "cpu", "nonzero", "equal", "allclose", "is_nonzero", "__bool__", "__int__"}
WAITING |= {"__float__", "__index__", "__array__", "__contains__"}


def raw_call(generator, request, *, keep_scheduler=True):
    """Return a function of a seed that draws a request without imagelab; whatever can be prepared before is."""
    plan, loaded = plan_generation(generator.configs, generator.profile, request), generator.load()
    models = generator._ready()
    models.patcher.apply([(lora.path, lora.record) for lora in plan.loras])
    embeddings = models.prompts.encode(plan.prompt, models.patcher.in_text_encoders)
    pipe = StableDiffusionXLPipeline(**loaded.pipe.components, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    scheduler = build_scheduler(plan.scheduler, loaded.scheduler_config)

    def draw(seed):
        pipe.scheduler = scheduler if keep_scheduler else build_scheduler(plan.scheduler, loaded.scheduler_config)
        (image,) = pipe(
            prompt_embeds=embeddings.positive,
            negative_prompt_embeds=embeddings.negative,
            pooled_prompt_embeds=embeddings.pooled_positive,
            negative_pooled_prompt_embeds=embeddings.pooled_negative,
            generator=torch.Generator("cpu").manual_seed(seed),
            width=plan.width,
            height=plan.height,
            num_inference_steps=plan.steps,
            guidance_scale=plan.guidance_scale,
        ).images
        return image

    return draw


class Waits(TorchFunctionMode):
    """Counts the calls that would have waited for a GPU, had the models been on one; on the CPU nothing else tells.

    What has come to the CPU is waited for no more.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Call the function, and count."""
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        comes = name == "cpu" or (name == "to" and "cpu" in map(str, [*args[1:], *(kwargs or {}).values()]))
        if not getattr(args[0] if args else None, "is_at_hand", False):
            self.count += name in WAITING or (comes and not (kwargs or {}).get("non_blocking", False))
        if comes:
            result = result.detach()  # on the CPU `to` gives the tensor itself; from a GPU it would be another
            result.is_at_hand = True
        return result
