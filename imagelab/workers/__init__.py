"""Draw a run's jobs in several processes, on this machine or on a Ray cluster; who asked commits what they draw."""

from imagelab.workers.on_ray import RayCrew
from imagelab.workers.processes import ProcessCrew
from imagelab.workers.sharing import Crew, Drawn, MakeDrawer, share

__all__ = ["Crew", "Drawn", "MakeDrawer", "ProcessCrew", "RayCrew", "share"]
