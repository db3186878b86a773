"""How well similarity scores tell a character from others, and the threshold that follows.

genuine, impostor = [0.81, 0.76, 0.88, 0.9], [0.21, 0.35, 0.1, 0.3]
calibration = calibrate(genuine, impostor, policy="eer")
calibration.threshold.value, calibration.fmr, calibration.describe()
"""

from imagelab.calibration.curves import Curve, error_curve
from imagelab.calibration.fitting import calibrate
from imagelab.calibration.intervals import Estimate
from imagelab.calibration.realised import Promise, RealisedRates, check_promises, realised_rates
from imagelab.calibration.scores import Scores
from imagelab.calibration.store import read_calibration, write_calibration
from imagelab.calibration.values import Calibration, OperatingPoint, Sample, needed_impostors

__all__ = [
    "Calibration",
    "Curve",
    "Estimate",
    "OperatingPoint",
    "Promise",
    "RealisedRates",
    "Sample",
    "Scores",
    "calibrate",
    "check_promises",
    "error_curve",
    "needed_impostors",
    "read_calibration",
    "realised_rates",
    "write_calibration",
]
