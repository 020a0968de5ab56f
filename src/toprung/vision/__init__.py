"""Building blocks of a training loop: models, optimizers, schedules, augmentation, batches, evaluation and metrics."""

from toprung.vision.augmentation import (
    LEVELS,
    OPERATIONS,
    STRENGTHS,
    Augmentation,
    AugmentationStrengths,
    build_augmentation,
)
from toprung.vision.balancing import class_weights
from toprung.vision.batches import ImageSplit, batches, num_batches
from toprung.vision.evaluation import evaluate, predict_logits
from toprung.vision.metrics import Calibration, ClassReport, calibration, class_report
from toprung.vision.models import Classifier, Normalise, build_model, build_with, load_model
from toprung.vision.optimizers import build_optimizer
from toprung.vision.schedules import build_schedule

__all__ = [
    "LEVELS",
    "OPERATIONS",
    "STRENGTHS",
    "Augmentation",
    "AugmentationStrengths",
    "Calibration",
    "ClassReport",
    "Classifier",
    "ImageSplit",
    "Normalise",
    "batches",
    "build_augmentation",
    "build_model",
    "build_optimizer",
    "build_schedule",
    "build_with",
    "calibration",
    "class_report",
    "class_weights",
    "evaluate",
    "load_model",
    "num_batches",
    "predict_logits",
]
