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
from toprung.vision.crops import center_crop
from toprung.vision.evaluation import evaluate, predict_logits
from toprung.vision.finetuning import (
    PRECISIONS,
    autocast,
    build_ema,
    compute_features,
    fit_head,
    freeze_backbone,
    get_head,
    parameter_groups,
)
from toprung.vision.loading import load_model
from toprung.vision.metrics import Calibration, ClassReport, calibration, class_report
from toprung.vision.models import Classifier, Normalise, build_model, build_with
from toprung.vision.optimizers import build_optimizer
from toprung.vision.photo_augmentation import (
    PHOTO_LEVELS,
    PHOTO_STRENGTHS,
    PhotoAugmentation,
    PhotoAugmentationStrengths,
    build_photo_augmentation,
)
from toprung.vision.pretrained import PretrainedWeights
from toprung.vision.schedules import build_schedule

__all__ = [
    "LEVELS",
    "OPERATIONS",
    "PHOTO_LEVELS",
    "PHOTO_STRENGTHS",
    "PRECISIONS",
    "STRENGTHS",
    "Augmentation",
    "AugmentationStrengths",
    "Calibration",
    "ClassReport",
    "Classifier",
    "ImageSplit",
    "Normalise",
    "PhotoAugmentation",
    "PhotoAugmentationStrengths",
    "PretrainedWeights",
    "autocast",
    "batches",
    "build_augmentation",
    "build_ema",
    "build_model",
    "build_optimizer",
    "build_photo_augmentation",
    "build_schedule",
    "build_with",
    "calibration",
    "center_crop",
    "class_report",
    "class_weights",
    "compute_features",
    "evaluate",
    "fit_head",
    "freeze_backbone",
    "get_head",
    "load_model",
    "num_batches",
    "parameter_groups",
    "predict_logits",
]
