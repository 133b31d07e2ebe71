"""Training of any network with optax: mini-batches, held-out points, checkpoints, exact resume."""

from .checkpoints import Checkpoints
from .loop import Training, TrainingError, TrainingInfo, TrainingState

__all__ = ["Checkpoints", "Training", "TrainingError", "TrainingInfo", "TrainingState"]
