"""Several ControlNets that act on one picture, as diffusers' pipeline wants them: as one model."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ControlNetModel, ControlNetUnionModel, MultiControlNetModel
from torch import Tensor


class ControlSet(MultiControlNetModel):  # type: ignore[misc]  # diffusers is untyped
    """ControlNets that act on one picture together, dedicated and union ones side by side.

    `nets` holds one for each control, a union one once for each of its modes. To diffusers' pipeline it is several
    ControlNets, whose outputs are summed. What diffusers' own classes do otherwise, and not as asked: a scale of 0, a
    window that hasn't begun or is over too, still costs a pass, and a union ControlNet of several modes goes on acting
    when all of them are at 0 (`ControlNetUnionModel.forward` scales what goes in, not what comes out). Here a control
    at 0 is absent, to the bit.
    """

    def __init__(self, nets: Sequence[ControlNetModel | ControlNetUnionModel], modes: Sequence[int]) -> None:
        super().__init__(nets)
        self.modes = tuple(modes)

    def forward(
        self,
        sample: Tensor,
        timestep: Any,
        encoder_hidden_states: Tensor,
        controlnet_cond: Sequence[Tensor],
        conditioning_scale: Sequence[float],
        **given: Any,
    ) -> tuple[Any, Any]:
        """Return the sums of what those that act add to the UNet's blocks; None and None when none does."""
        acting = [index for index, scale in enumerate(conditioning_scale) if scale]
        down: list[Tensor] | None = None
        mid: Tensor | None = None
        while acting:
            together = self._together(acting)
            acting = [index for index in acting if index not in together]
            added_down, added_mid = self.nets[together[0]](
                sample,
                timestep,
                encoder_hidden_states=encoder_hidden_states,
                **self._conditions(together, controlnet_cond, conditioning_scale, sample),
                **given,
            )
            down = added_down if down is None else [a + b for a, b in zip(down, added_down, strict=True)]
            mid = added_mid if mid is None else mid + added_mid
        return down, mid

    def _together(self, acting: Sequence[int]) -> list[int]:
        """Return the controls that the first one's ControlNet takes in one pass: a union one all of its modes."""
        first = self.nets[acting[0]]
        union = isinstance(first, ControlNetUnionModel)
        return [index for index in acting if self.nets[index] is first] if union else [acting[0]]

    def _conditions(
        self, together: Sequence[int], maps: Sequence[Tensor], scales: Sequence[float], sample: Tensor
    ) -> dict[str, Any]:
        net = self.nets[together[0]]
        if isinstance(net, ControlNetModel):
            return {"controlnet_cond": maps[together[0]], "conditioning_scale": scales[together[0]]}
        modes = [self.modes[index] for index in together]
        kinds = torch.zeros(1, net.config.num_control_type, dtype=sample.dtype, device=sample.device)
        kinds[0, modes] = 1
        return {
            "controlnet_cond": [maps[index] for index in together],
            "conditioning_scale": [scales[index] for index in together],
            "control_type": kinds.repeat(len(sample), 1),
            "control_type_idx": modes,
        }
