"""Train an image classifier: a plain PyTorch loop.

    toprung train trainers.convnet --set lr=0.003 --set augment=light

`DEFAULTS` names every hyperparameter the loop reads. Its values are the sweep's first trial; a search space
replaces some of them. Copy this file to train in your own way.
"""

import torch
import torch.nn.functional as F

from toprung import session, vision

DEFAULTS = {
    "model": "convnet",  # or a name from torchvision.models, such as "resnet18"
    "width": 16,
    "depth": 3,
    "dropout": 0.0,
    "optimizer": "adamw",  # sgd, adam or adamw
    "lr": 1e-3,
    "weight_decay": 1e-2,
    "momentum": 0.9,  # sgd only, as is nesterov
    "nesterov": True,
    "beta1": 0.9,  # adam and adamw only, as is beta2
    "beta2": 0.999,
    "schedule": "cosine",  # constant, cosine or onecycle
    "batch_size": 128,
    "label_smoothing": 0.0,
    "augment": "none",  # none, light or heavy; below, None keeps the level's own strength
    "augment_flip": None,
    "augment_shift": None,
    "augment_rotation_degrees": None,
    "augment_scale": None,
    "augment_brightness": None,
    "augment_contrast": None,
    "augment_cutout": None,
    "augment_mixup": None,
    "precision": "float32",  # or bf16: faster on recent CPUs and GPUs, its accuracy is yours to check
    "channels_last": True,  # memory format of images and weights; faster on CPUs, and on GPUs under bf16
    "compile": False,  # torch.compile: takes a C++ compiler and a minute first; slower than channels_last on a CPU
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
        session.report({"train/loss": train_loss, **vision.evaluate(model, data.val)}, run)


def train_one_epoch(model, split, optimizer, schedule, augment, config):
    """One pass over the split; returns the mean loss an image."""
    device = session.device()
    loss_sum = torch.zeros((), device=device)  # stays on the device: .item() in every step would wait for it
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
