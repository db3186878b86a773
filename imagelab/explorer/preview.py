"""What the latents of a picture look like while it is drawn."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

# Mean colour of an SDXL latent's cell, from -1 to 1: ComfyUI's latent_formats.SDXL, fitted by least squares there.
_SDXL_RGB = np.array(
    [[0.3651, 0.4232, 0.4341], [-0.2533, -0.0042, 0.1068], [0.1076, 0.1111, -0.0362], [-0.3165, -0.2492, -0.2188]]
)
_SDXL_BIAS = np.array([0.1084, -0.0175, -0.0011])
_DECODED_CELLS = 32 * 32  # so few latents are decoded faster than a step is made, larger ones never


def preview(latents: Any, vae: Any, tiny: Any = None) -> "Image":
    """Return a picture of latents (1, 4, h, w).

    A `tiny` VAE shows them in the size of the picture. Without one they are decoded if they are few, else a pixel a
    cell by a linear map. Call it where the pipeline's `on_step` is called, whose gradients are off.
    """
    from PIL import Image

    cells = latents.shape[-2] * latents.shape[-1]
    decoder = tiny if tiny is not None else vae if cells <= _DECODED_CELLS else None
    values = linear_rgb(_as_array(latents[0])) if decoder is None else _decoded(latents, decoder)
    return Image.fromarray((np.clip(values / 2 + 0.5, 0, 1) * 255).round().astype(np.uint8))


def linear_rgb(latent: NDArray[np.float32]) -> NDArray[np.float64]:
    """Map an SDXL latent (4, h, w) to colours (h, w, 3) of about -1 to 1."""
    colours: NDArray[np.float64] = np.einsum("chw,cr->hwr", latent, _SDXL_RGB) + _SDXL_BIAS
    return colours


def _decoded(latents: Any, vae: Any) -> NDArray[np.float32]:
    (pixels,) = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)
    return _as_array(pixels[0]).transpose(1, 2, 0)


def _as_array(tensor: Any) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array
