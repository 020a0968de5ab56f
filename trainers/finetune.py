"""A plain PyTorch loop that fine-tunes a pretrained network on photographs.

    toprung weights add tf_efficientnet_lite0.in1k FILE
    toprung train trainers.finetune --dataset photos --set model=timm/tf_efficientnet_lite0.in1k

The last layer is first fitted to the pretrained features (`fit_head`); then all layers are trained, earlier ones with a
lower learning rate. `DEFAULTS` contains every hyperparameter that the loop reads; a search space replaces some of them.
"""

import torch
import torch.nn.functional as F

from toprung import session, vision

DEFAULTS = {
    "model": "timm/tf_efficientnet_lite0.in1k",  # a network of timm
    "pretrained": True,  # start from its weights in data/weights; False: from random ones
    "image_size": 160,  # side of the network's input; the prepared images should be larger
    "fit_head": True,  # start from a last layer fitted to the pretrained features; False: from a random one
    "freeze_epochs": 0,  # epochs in which only the last layer is trained
    "freeze_batch_norm": True,  # keep the pretrained statistics of batch normalisation
    "optimizer": "adamw",  # sgd, adam or adamw
    "lr": 1e-3,  # of the last layer
    "backbone_lr_scale": 0.3,  # learning rate of the other layers, as a fraction of lr
    "layer_decay": 0.9,  # each layer's learning rate, as a fraction of the next one's
    "weight_decay": 1e-2,
    "momentum": 0.9,  # sgd only
    "schedule": "cosine",  # constant, cosine or onecycle
    "warmup_epochs": 0.5,
    "batch_size": 16,
    "accumulation_steps": 1,  # parts that a batch is trained in, to save memory
    "clip_norm": 1.0,  # largest norm of the gradient; 0: any
    "ema_decay": 0.99,  # of the average of weights that is evaluated and exported; 0: none
    "dropout": 0.2,
    "drop_path": 0.0,
    "label_smoothing": 0.0,
    "class_weights": "none",  # none, balanced or sqrt: weights of the classes in the loss
    "balanced_sampling": False,  # draw all classes equally often
    "augment": "light",  # none, light or heavy; for the strengths below, None means the default of the level
    "augment_crop_scale": None,
    "augment_flip": None,
    "augment_color_jitter": None,
    "augment_policy": None,
    "augment_rand_magnitude": None,
    "augment_erasing": None,
    "augment_mixup": None,
    "augment_cutmix": None,
    "precision": "float32",  # bf16, or on a GPU fp16: faster, but check the metrics
}


def train_loop_per_worker(config):
    data, device = session.dataset(), session.device()
    num_classes = len(data.card.classes)

    model = vision.build_model(
        config["model"],
        num_classes=num_classes,
        image_shape=data.card.image_shape,
        mean=data.card.mean,
        std=data.card.std,
        image_size=config["image_size"],
        dropout=config["dropout"],
        drop_path=config["drop_path"],
        weights=session.weights(config["model"]) if config["pretrained"] else None,
    )
    crop_pct = model.crop.crop_pct
    class_weights = vision.class_weights(data.train, num_classes=num_classes, mode=config["class_weights"]).to(device)
    if config["pretrained"] and config["fit_head"]:
        vision.fit_head(model, session.features(model.to(device)).train, class_weights=class_weights)
    model = session.prepare(model)
    optimizer = vision.build_optimizer(
        model,
        optimizer=config["optimizer"],
        lr=config["lr"],
        momentum=config["momentum"],
        groups=vision.parameter_groups(
            model,
            lr=config["lr"],
            weight_decay=config["weight_decay"],
            backbone_lr_scale=config["backbone_lr_scale"],
            layer_decay=config["layer_decay"],
        ),
    )
    steps_per_epoch = vision.num_batches(data.train, batch_size=config["batch_size"])
    schedule = vision.build_schedule(
        optimizer,
        schedule=config["schedule"],
        num_epochs=config["num_epochs"],
        steps_per_epoch=steps_per_epoch,
        warmup_epochs=config["warmup_epochs"],
    )
    augment = vision.build_photo_augmentation(
        level=config["augment"],
        size=config["image_size"],
        card_augmentations=data.card.augmentations,
        num_classes=num_classes,
        strengths={name: config[f"augment_{name}"] for name in vision.PHOTO_STRENGTHS},
        crop_pct=crop_pct,
    )
    ema = vision.build_ema(model, decay=config["ema_decay"])
    scaler = torch.amp.GradScaler(device.type, enabled=config["precision"] == "fp16")
    freeze_batch_norm = config["pretrained"] and config["freeze_batch_norm"]

    run = session.restore(model, optimizer, schedule, ema=ema, scaler=scaler)
    for epoch in range(run.next_epoch, config["num_epochs"]):
        vision.freeze_backbone(model, epoch < config["freeze_epochs"], freeze_batch_norm=freeze_batch_norm)
        model = session.prepare(model)  # again, because DistributedDataParallel must know which layers are trained
        loss_sum = torch.zeros((), device=device)
        batches = vision.batches(
            data.train, batch_size=config["batch_size"], device=device, balanced=config["balanced_sampling"]
        )
        for step, (images, labels) in enumerate(batches, start=epoch * steps_per_epoch + 1):
            images, targets = augment(images, labels)
            optimizer.zero_grad()
            loss_sum += train_on_batch(model, images, targets, class_weights, scaler, config)
            scaler.unscale_(optimizer)
            if config["clip_norm"]:
                torch.nn.utils.clip_grad_norm_(model.parameters(), config["clip_norm"])
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            if ema is not None:
                ema.update(run.model, step=step)

        scored = run.model if ema is None else ema.module
        train_loss = loss_sum.item() / len(data.train)
        session.report({"train/loss": train_loss, **vision.evaluate(scored, data.val, metrics=session.metrics())}, run)


def train_on_batch(model, images, targets, class_weights, scaler, config):
    """Add the gradient of a batch's mean loss, computed in parts, and return the sum of the images' losses."""
    loss_sum = torch.zeros((), device=images.device)
    num_parts = min(config["accumulation_steps"], len(images))
    for part, part_targets in zip(images.chunk(num_parts), targets.chunk(num_parts), strict=True):
        with vision.autocast(images.device, config["precision"]):
            part_loss = F.cross_entropy(
                model(part),
                part_targets,
                weight=class_weights,
                label_smoothing=config["label_smoothing"],
                reduction="sum",  # "mean" divides by the weights of these few images, which would cancel them
            )
        scaler.scale(part_loss / len(images)).backward()
        loss_sum += part_loss.detach()
    return loss_sum
