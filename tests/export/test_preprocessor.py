"""preprocessor.json: the model card's program and toprung read any image file alike, as it was prepared."""

import json
import runpy

import numpy as np
import pytest
from PIL import Image

from tests.exif import TURNED_WITH_TEXT_AS_RESOLUTION
from toprung.data import DatasetCard
from toprung.data.card import Preprocessing, read_card, write_card
from toprung.data.image_folder.decode import Unreadable
from toprung.data.image_folder.settings import MAX_SIDE
from toprung.errors import UserError
from toprung.export import preprocessor
from toprung.export.formats import SNIPPET
from toprung.export.preprocessor import preprocessor_of, read_images


def card(*, num_channels, fit, background="white", size=(20, 24)):
    return DatasetCard(
        name="photos",
        classes=("a", "b"),
        image_shape=(num_channels, *size),
        num_train=2,
        num_test=1,
        mean=(0.3,) * num_channels,
        std=(0.2,) * num_channels,
        augmentations=(),
        fingerprint="1" * 64,
        source="made here",
        preprocessing=None if fit == "array" else Preprocessing(fit=fit, background=background),
    )


def noise(mode, size=(90, 61)):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(values[..., :2].copy().view(np.uint16)[..., 0])
    return Image.fromarray(values, "RGBA").convert(mode)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Image files in each mode that a format can store, one turned by EXIF, one JPEG much larger than the result."""
    folder = tmp_path_factory.mktemp("files")
    turned = Image.Exif()
    turned[0x0112] = 5
    noise("RGB").save(folder / "turned.jpg", exif=turned)
    noise("RGB").save(folder / "turned-too.jpg", exif=TURNED_WITH_TEXT_AS_RESOLUTION)
    noise("RGB", (700, 500)).save(folder / "large.jpg")
    noise("CMYK").save(folder / "cmyk.jpg")
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        noise(mode).save(folder / f"{mode.replace(';', '')}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("num_channels", "background"), [(1, "black"), (3, "white")])
def test_the_model_cards_program_reads_each_kind_of_file_as_toprung(files, tmp_path, num_channels, background, fit):
    content = preprocessor_of(card(num_channels=num_channels, fit=fit, background=background))
    (tmp_path / "preprocessor.json").write_text(json.dumps(content))
    read_image = runpy.run_path(str(SNIPPET))["read_image"]
    images_NCHW = read_images(files, tmp_path)
    assert images_NCHW.shape == (len(files), num_channels, 20, 24)
    for file, image_CHW in zip(files, images_NCHW, strict=True):
        assert np.array_equal(read_image(file, content), image_CHW), file.name


@pytest.mark.parametrize("fit", [None, "array"])
def test_without_a_fit_only_files_of_the_prepared_size_are_read(tmp_path, fit):
    content = preprocessor_of(card(num_channels=1, fit=fit))
    (tmp_path / "preprocessor.json").write_text(json.dumps(content))
    read_image = runpy.run_path(str(SNIPPET))["read_image"]
    fits, other = tmp_path / "fits.png", tmp_path / "other.png"
    noise("L", (24, 20)).save(fits)
    noise("L", (24, 21)).save(other)
    assert np.array_equal(read_image(fits, content), read_images([fits], tmp_path)[0])
    with pytest.raises(Unreadable, match="another size"):
        read_images([other], tmp_path)
    with pytest.raises(ValueError, match="24 x 21 pixels, not 24 x 20"):
        read_image(other, content)


def test_only_a_dataset_of_image_files_records_how_they_were_fitted(tmp_path):
    for fit in ("crop", "array"):  # the bytes of the built-in datasets' cards are in dvc.lock
        folder = tmp_path / fit / "photos"
        folder.mkdir(parents=True)
        written = card(num_channels=1, fit=fit)
        write_card(written, folder)
        assert read_card(folder) == written
        assert ("preprocessing" in (folder / "card.json").read_text()) == (fit == "crop")


@pytest.mark.parametrize("side", [0, preprocessor.MAX_SIDE + 1])
def test_a_size_that_no_dataset_can_have_is_refused(side, tmp_path):
    assert preprocessor.MAX_SIDE == MAX_SIDE
    content = {"format": 1, "size": [side, 28], "mode": "L", "fit": "crop", "background": "white"}
    with pytest.raises(UserError, match=f"does not say how to read image files: .*a size of {side} x 28"):
        preprocessor.decode_options(content, folder=tmp_path)
