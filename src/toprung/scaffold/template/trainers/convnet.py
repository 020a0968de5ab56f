"""A plain PyTorch loop that trains an image classifier.

    toprung train trainers.convnet --set lr=0.003 --set augment=light

`DEFAULTS` contains every hyperparameter that the loop reads. The first trial of a sweep uses these values; in the other
trials, a search space replaces some of them. To write your own training loop, start with a copy of this file.
"""

import torch
import torch.nn.functional as F

from toprung import session, vision

DEFAULTS = {
    "model": "convnet",  # or the name of a model in torchvision.models, such as "resnet18"
    "width": 16,
    "depth": 3,
    "dropout": 0.0,
    "optimizer": "adamw",  # sgd, adam or adamw
    "lr": 1e-3,
    "weight_decay": 1e-2,
    "momentum": 0.9,  # momentum and nesterov: sgd only
    "nesterov": True,
    "beta1": 0.9,  # beta1 and beta2: adam and adamw only
    "beta2": 0.999,
    "schedule": "cosine",  # constant, cosine or onecycle
    "batch_size": 128,
    "label_smoothing": 0.0,
    "augment": "none",  # none, light or heavy; for the strengths below, None means the default of the level
    "augment_flip": None,
    "augment_shift": None,
    "augment_rotation_degrees": None,
    "augment_scale": None,
    "augment_brightness": None,
    "augment_contrast": None,
    "augment_cutout": None,
    "augment_mixup": None,
    "precision": "float32",  # or bf16: faster on recent CPUs and GPUs, but check the accuracy
    "channels_last": True,  # memory format of images and weights; faster on CPUs, and on GPUs with bf16
    "compile": False,  # torch.compile: needs a C++ compiler and a minute to start; on a CPU, channels_last is faster
}


def train_loop_per_worker(config):
    data = session.dataset()
    num_classes = len(data.card.classes)
    steps_per_epoch = vision.num_batches(data.train, batch_size=config["batch_size"])

    model = vision.build_model(
        config["model"],
        num_classes=num_classes,
        image_shape=data.card.image_shape,
        mean=data.card.mean,
        std=data.card.std,
        width=config["width"],
        depth=config["depth"],
        dropout=config["dropout"],
    )
    if config["compile"]:
        model.compile()
    model = session.prepare(model, channels_last=config["channels_last"])
    optimizer = vision.build_optimizer(
        model,
        optimizer=config["optimizer"],
        lr=config["lr"],
        weight_decay=config["weight_decay"],
        momentum=config["momentum"],
        nesterov=config["nesterov"],
        beta1=config["beta1"],
        beta2=config["beta2"],
    )
    schedule = vision.build_schedule(
        optimizer,
        schedule=config["schedule"],
        num_epochs=config["num_epochs"],
        steps_per_epoch=steps_per_epoch,
    )
    augment = vision.build_augmentation(
        level=config["augment"],
        card_augmentations=data.card.augmentations,
        num_classes=num_classes,
        strengths={name: config[f"augment_{name}"] for name in vision.STRENGTHS},
    )

    run = session.restore(model, optimizer, schedule)
    for _epoch in range(run.next_epoch, config["num_epochs"]):
        train_loss = train_one_epoch(model, data.train, optimizer, schedule, augment, config)
        session.report({"train/loss": train_loss, **vision.evaluate(model, data.val, metrics=session.metrics())}, run)


def train_one_epoch(model, split, optimizer, schedule, augment, config):
    """Train for one epoch and return the mean loss per image."""
    device = session.device()
    loss_sum = torch.zeros((), device=device)  # on the device, because .item() in every step would wait for it
    model.train()
    for images, labels in vision.batches(split, batch_size=config["batch_size"], device=device):
        images, targets = augment(images, labels)
        with torch.autocast(device.type, torch.bfloat16, enabled=config["precision"] == "bf16"):
            logits = model(images)
            loss = F.cross_entropy(logits, targets, label_smoothing=config["label_smoothing"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        loss_sum += loss.detach() * len(images)
    return loss_sum.item() / len(split)
