"""A plain PyTorch loop that trains only the last layer of a pretrained network, on cached features.

    toprung weights add tf_efficientnet_lite0.in1k FILE
    toprung train trainers.linear_probe --dataset photos

The network sees each image once, without augmentation; a configuration then trains in a fraction of a second. Its score
is the one that fine-tuning should exceed.
"""

import functools

import torch
import torch.nn.functional as F

from toprung import session, vision

DEFAULTS = {
    "model": "timm/tf_efficientnet_lite0.in1k",  # a network of timm, with weights in data/weights
    "image_size": 160,  # side of the network's input
    "optimizer": "adamw",  # sgd, adam or adamw
    "lr": 3e-3,
    "weight_decay": 1e-2,
    "momentum": 0.9,  # sgd only
    "schedule": "cosine",  # constant, cosine or onecycle
    "batch_size": 128,
    "dropout": 0.0,  # of the features
    "label_smoothing": 0.0,
    "class_weights": "none",  # none, balanced or sqrt: weights of the classes in the loss
}


@functools.lru_cache(maxsize=1)  # the next trial in this process needs the same network
def build_network(name, image_size, num_classes, image_shape):
    """Build the pretrained network, without drawing from the trial's random numbers."""
    with torch.random.fork_rng():
        return vision.build_model(
            name,
            num_classes=num_classes,
            image_shape=image_shape,
            mean=(0.0,) * image_shape[0],  # the mean and std of the weights are used
            std=(1.0,) * image_shape[0],
            image_size=image_size,
            weights=session.weights(name),
        )


def train_loop_per_worker(config):
    data, device = session.dataset(), session.device()
    num_classes = len(data.card.classes)
    network = build_network(config["model"], config["image_size"], num_classes, data.card.image_shape).to(device)
    features = session.features(network)
    head = vision.get_head(network)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)

    model = session.prepare(head)
    optimizer = vision.build_optimizer(
        model,
        optimizer=config["optimizer"],
        lr=config["lr"],
        weight_decay=config["weight_decay"],
        momentum=config["momentum"],
    )
    schedule = vision.build_schedule(
        optimizer,
        schedule=config["schedule"],
        num_epochs=config["num_epochs"],
        steps_per_epoch=vision.num_batches(features.train, batch_size=config["batch_size"]),
    )
    class_weights = vision.class_weights(data.train, num_classes=num_classes, mode=config["class_weights"]).to(device)

    run = session.restore(model, optimizer, schedule, exported=network)
    for _epoch in range(run.next_epoch, config["num_epochs"]):
        loss_sum = torch.zeros((), device=device)
        model.train()
        for inputs, labels in vision.batches(features.train, batch_size=config["batch_size"], device=device):
            logits = model(F.dropout(inputs, config["dropout"]))
            batch_loss = F.cross_entropy(
                logits,
                labels,
                weight=class_weights,
                label_smoothing=config["label_smoothing"],
                reduction="sum",  # "mean" divides by the weights of these few images, which would cancel them
            )
            optimizer.zero_grad()
            (batch_loss / len(labels)).backward()
            optimizer.step()
            schedule.step()
            loss_sum += batch_loss.detach()
        train_loss = loss_sum.item() / len(features.train)
        scores = vision.evaluate(head, features.val, metrics=session.metrics())
        session.report({"train/loss": train_loss, **scores}, run)
