"""ONNX files: any number of uint8 images in, the model's probabilities out, nothing of this machine inside."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tests.photos import NETWORK
from toprung.export.onnx_file import OnnxUnsupported, write_onnx
from toprung.vision import Normalise, build_model

PHOTO = {"num_classes": 3, "image_shape": (3, 40, 40), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}
DIGIT = {"num_classes": 10, "image_shape": (1, 8, 8), "mean": (0.3,), "std": (0.4,)}


class Attention(nn.Module):
    """A model of a user, with an operation that no convolutional network has."""

    def __init__(self):
        super().__init__()
        self.normalise = Normalise(mean=[0.3], std=[0.4])
        self.rows = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, images_NCHW):
        rows_NHW = self.normalise(images_NCHW)[:, 0]
        return self.head(self.rows(rows_NHW, rows_NHW, rows_NHW, need_weights=False)[0].flatten(1))


class Branching(nn.Module):
    """A model whose path depends on the pixels."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, images_NCHW):
        values_ND = images_NCHW.float().flatten(1)
        return self.head(values_ND) if values_ND.mean() > 100 else self.head(-values_ND)


@pytest.mark.parametrize(
    ("build", "image_shape"),
    [
        (lambda: build_model(**DIGIT, width=4, depth=2, dropout=0.5), (1, 8, 8)),
        (lambda: build_model(f"timm/{NETWORK}", **PHOTO, image_size=32), (3, 40, 40)),
        (Attention, (1, 8, 8)),
    ],
    ids=["convnet", "timm", "attention"],
)
def test_an_onnx_file_gives_the_models_probabilities_for_any_number_of_images(tmp_path, capfd, build, image_shape):
    torch.manual_seed(0)
    model, file = build().eval(), tmp_path / "model.onnx"
    images_NCHW = torch.randint(0, 256, (33, *image_shape), dtype=torch.uint8)
    with torch.inference_mode():
        expected_NK = model(images_NCHW).softmax(dim=1).numpy()
    write_onnx(model, file, image_shape=image_shape)
    assert capfd.readouterr() == ("", "")
    session = onnxruntime.InferenceSession(file)
    for size in (1, 33):
        (found_NK,) = session.run(None, {"images": images_NCHW[:size].numpy()})
        assert found_NK.dtype == np.float32
        np.testing.assert_allclose(found_NK, expected_NK[:size], atol=1e-6)


def test_an_onnx_file_has_no_traces_of_the_machine_that_wrote_it(tmp_path):
    write_onnx(build_model(**DIGIT, width=4, depth=1), tmp_path / "model.onnx", image_shape=(1, 8, 8))
    content = onnx.load(tmp_path / "model.onnx")
    assert not [node.name for node in content.graph.node if node.metadata_props or node.doc_string]
    raw = (tmp_path / "model.onnx").read_bytes()
    assert b".py" not in raw
    assert b"site-packages" not in raw


def test_why_a_model_cannot_be_exported_is_said_in_one_line(tmp_path, capfd):
    with pytest.raises(OnnxUnsupported) as error:
        write_onnx(Branching(), tmp_path / "model.onnx", image_shape=(1, 8, 8))
    assert "\n" not in str(error.value)
    assert "data-dependent" in str(error.value)
    assert not (tmp_path / "model.onnx").exists()
    assert capfd.readouterr() == ("", "")
