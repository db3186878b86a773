"""What a pipeline may take of its device's memory, held before it draws."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from imagelab.config import MemoryPolicy
from imagelab.errors import OutOfMemoryError
from imagelab.memory_contract.prediction import Fit, Footprint, Job, fit, measure_footprint, predict

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


@dataclass(kw_only=True, slots=True)
class Contract:
    """Says how much of a job fits into a device's memory, and how much memory it will have taken.

    What another pipeline of this process has on the device isn't known here: that is for the ladder to meet.
    """

    pipe: "StableDiffusionXLPipeline"
    device: torch.device
    limit_gib: float | None = None  # what may be in use at once; None: no limit
    compiled: bool = False  # which ends the ladder earlier; what compiling itself takes isn't predicted
    _footprint: Footprint | None = field(default=None, init=False, repr=False)

    @property
    def footprint(self) -> Footprint:
        """Return what the models take, counted once: about a second."""
        if self._footprint is None:
            self._footprint = measure_footprint(self.pipe, self.device)
        return self._footprint

    def predict_gib(self, job: Job, memory: MemoryPolicy) -> float:
        """Return the predicted peak."""
        return predict(job, memory, self.footprint, offloads=self.device.type == "cuda").peak_gib

    def fit(self, job: Job, memory: MemoryPolicy) -> Fit:
        """Go down the ladder as far as a job needs; raises OutOfMemoryError where it fits in no way."""
        room = math.inf if self.limit_gib is None else self.limit_gib
        fitted = fit(job, memory, self.footprint, room, self.device, compiled=self.compiled)
        if not fitted.fits:
            least = fitted.prediction.peak_gib
            reason = (
                f"{job.width} x {job.height} px need {least:.3g} GiB of memory at the least, {room:.3g} are allowed"
            )
            ways = ["Draw a smaller picture"]
            ways += ["by a shorter prompt"] if job.chunks > 1 else []
            ways += ["with fewer ControlNets"] if job.controls else []
            raise OutOfMemoryError(reason, ", or ".join([*ways, "raise limit_gib of the profile's memory"]))
        return fitted
