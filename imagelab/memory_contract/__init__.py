"""How much memory drawing takes, said before it is taken: weights, activations by size and batch, ControlNets, LoRAs.

docs/decisions/0018 says what is counted, what is measured and how near it comes.
"""

from imagelab.memory_contract.activations import Activations, Line, count_activations
from imagelab.memory_contract.contract import Contract
from imagelab.memory_contract.live_bytes import LiveBytes
from imagelab.memory_contract.nets import Net, net_of, read_net, weight_bytes
from imagelab.memory_contract.prediction import Fit, Footprint, Job, Prediction, fit, measure_footprint, predict

__all__ = [
    "Activations",
    "Contract",
    "Fit",
    "Footprint",
    "Job",
    "Line",
    "LiveBytes",
    "Net",
    "Prediction",
    "count_activations",
    "fit",
    "measure_footprint",
    "net_of",
    "predict",
    "read_net",
    "weight_bytes",
]
