"""From a picture to the map that a ControlNet obeys."""

from imagelab.preprocess.maker import ControlMap, MapMaker, make_control_map, map_maker

__all__ = ["ControlMap", "MapMaker", "make_control_map", "map_maker"]
