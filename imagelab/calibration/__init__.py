"""How well similarity scores tell a character from others, and the threshold that follows.

genuine, impostor = [0.81, 0.76, 0.88, 0.9], [0.21, 0.35, 0.1, 0.3]
calibration = calibrate(genuine, impostor, policy="eer")
calibration.threshold.value, calibration.fmr, calibration.describe()
"""

from imagelab.calibration.curves import Curve, error_curve
from imagelab.calibration.fitting import calibrate
from imagelab.calibration.intervals import Estimate
from imagelab.calibration.scores import Scores
from imagelab.calibration.separation import Separation, leave_one_out, separate
from imagelab.calibration.store import read_calibration, write_calibration
from imagelab.calibration.values import Calibration, OperatingPoint, Sample, needed_impostors

__all__ = [
    "Calibration",
    "Curve",
    "Estimate",
    "OperatingPoint",
    "Sample",
    "Scores",
    "Separation",
    "calibrate",
    "error_curve",
    "leave_one_out",
    "needed_impostors",
    "read_calibration",
    "separate",
    "write_calibration",
]
