"""Which way a head is turned, from the five landmarks of its face.

Seen from far away, the nose tip moves against the plane of eyes and mouth as the head turns: sideways by
depth · sin(yaw), while the distance between the eyes shrinks by cos(yaw). Their ratio gives the angle in closed form.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from imagelab.errors import InvalidValueError

# The nose tip before the plane of eyes and mouth, as a fraction of the distance between the eyes and of that from the
# eyes to the mouth. Photographed adults have 0.42 and 0.36, 3D characters with small noses 0.28 and 0.33: between them,
# so that a yaw of 25 degrees is read as 21 to 29, whichever of the two it is.
_NOSE_BY_WIDTH, _NOSE_BY_HEIGHT = 0.35, 0.34
_NOSE_HEIGHT = 0.47  # how far down from the eyes to the mouth the nose tip lies in a level face


def head_pose(landmarks: ArrayLike) -> tuple[float, float, float]:
    """Return (yaw, pitch, roll) of a head in degrees, each 0 for one that looks at the camera upright.

    `landmarks` are (5, 2) pixels, y down: eyes, nose tip, mouth corners, image left first, as insightface gives them.
    Yaw is positive to the image's right, pitch is positive up, roll is positive clockwise. Good to about 8 degrees:
    five points don't tell a short nose from a small turn. Raises InvalidValueError.

    >>> [round(angle) for angle in head_pose([(38, 52), (74, 52), (56, 72), (42, 93), (70, 93)])]
    [0, -3, 0]
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise InvalidValueError("landmarks", f"shape {points.shape}", "(5, 2) finite pixels")
    across = points[1] - points[0] + points[4] - points[3]  # eyes and mouth: steadier than the eyes alone
    roll = math.atan2(across[1], across[0])
    upright = points @ np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
    eyes, nose, mouth = upright[:2].mean(0), upright[2], upright[3:].mean(0)
    width, height = upright[1, 0] - upright[0, 0], mouth[1] - eyes[1]
    aside, below = nose - (eyes + _NOSE_HEIGHT * (mouth - eyes))
    pitch = math.atan2(-below, _NOSE_BY_HEIGHT * height)
    yaw = math.atan2(aside, _NOSE_BY_WIDTH * width * math.cos(pitch))
    return math.degrees(yaw), math.degrees(pitch), math.degrees(roll)
