"""Training of any network with optax: mini-batches, held-out points, checkpoints, exact resume."""

from .._front_door import guard
from .checkpoints import Checkpoints
from .discretized import DiscretizedTraining, NetworkOptimiser, NetworkParameters
from .loop import Training, TrainingError, TrainingInfo, TrainingLoop, TrainingState
from .network_file import load_network, save_network

__all__ = [
    "Checkpoints",
    "DiscretizedTraining",
    "NetworkOptimiser",
    "NetworkParameters",
    "Training",
    "TrainingError",
    "TrainingInfo",
    "TrainingLoop",
    "TrainingState",
    "load_network",
    "save_network",
]

guard(globals())
