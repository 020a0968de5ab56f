"""Run the trainings of the part `workers` of bench/cluster.py with `torchrun`, without any framework.

    torchrun --standalone --nproc-per-node=2 bench/cluster_torchrun.py PROJECT DATASET NUM_IMAGES NUM_TRAININGS EPOCHS

There are no checkpoints, no reports and no Ray: the same loop trains the same network several times, one after another
in the same processes.
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
    data_spec = spec.Data(name=dataset, max_train=num_images, max_val=2000)
    arrays, _ = data.split_arrays(data_spec, root=root)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    train = vision.ImageSplit(tensors["train_images"], tensors["train_labels"])
    val = vision.ImageSplit(tensors["val_images"], tensors["val_labels"])
    trial_data = session.TrialData(train, val, data.open_prepared(dataset, root=root).card)
    config = {**measured.DEFAULTS, **CONFIGURATION, "num_epochs": num_epochs}
    with tempfile.TemporaryDirectory() as folder:
        standalone = session.Session(data=trial_data, folder=Path(folder), on_report=lambda metrics: None)
        for _ in range(num_trainings):
            trial = time.time_ns()
            # The session shards the data, sets the device and wraps the model in DDP; nothing is reported or saved.
            with session.open_session(standalone):
                images = session.dataset()
                model = session.prepare(measured.build(config, images.card))
                optimizer, schedule, augment = measured.build_training(config, model, images.train, images.card)
                for _ in range(num_epochs):
                    measured.measured_epoch(model, images, optimizer, schedule, augment, config, trial=trial)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
