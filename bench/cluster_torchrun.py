"""The trainings of bench/cluster.py's trials with two workers, by `torchrun` and without any framework.

    torchrun --standalone --nproc-per-node=2 bench/cluster_torchrun.py PROJECT DATASET NUM_IMAGES NUM_TRAININGS EPOCHS

No checkpoint, no report, no Ray: the same loop, the same network, one training after another in the same processes.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

CONFIGURATION = {"lr": 1e-3, "weight_decay": 1e-2, "schedule": "cosine", "label_smoothing": 0.0}


def main():
    project, dataset = Path(sys.argv[1]), sys.argv[2]
    num_images, num_trainings, num_epochs = map(int, sys.argv[3:])
    sys.path.insert(0, str(project))
    dist.init_process_group("gloo")
    from toprung import data, session, spec, vision
    from trainers import measured

    torch.set_num_threads(1)
    root = project / data.PREPARED
    wanted = spec.Data(name=dataset, max_train=num_images, max_val=2000)
    arrays, _ = data.split_arrays(wanted, root=root)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    train = vision.ImageSplit(tensors["train_images"], tensors["train_labels"])
    val = vision.ImageSplit(tensors["val_images"], tensors["val_labels"])
    everything = session.TrialData(train, val, data.open_prepared(dataset, root=root).card)
    config = {**measured.DEFAULTS, **CONFIGURATION, "num_epochs": num_epochs}
    with tempfile.TemporaryDirectory() as folder:
        alone = session.Session(data=everything, folder=Path(folder), on_report=lambda metrics: None)
        for _ in range(num_trainings):
            trial = time.time_ns()
            with session.open_session(
                alone
            ):  # for its part of the data, its device and DDP: nothing is reported or saved
                images = session.dataset()
                model = session.prepare(measured.build(config, images.card))
                optimizer, schedule, augment = measured.parts(config, model, images.train, images.card)
                for _ in range(num_epochs):
                    measured.measured_epoch(model, images, optimizer, schedule, augment, config, trial=trial)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
