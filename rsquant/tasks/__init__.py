"""What a network is trained to tell: labels, losses and metrics, by name."""

from rsquant.tasks.base import Figure, Metric, Task
from rsquant.tasks.classification import Accuracy, Classification
from rsquant.tasks.registry import DEFAULT, by_name, names, register
from rsquant.tasks.segmentation import Segmentation

__all__ = [
    "DEFAULT",
    "Accuracy",
    "Classification",
    "Figure",
    "Metric",
    "Segmentation",
    "Task",
    "by_name",
    "names",
    "register",
]
