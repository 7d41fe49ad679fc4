"""Images become the values that the slow processors of transformers make of them, bit for bit."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from transformers import (
    BitImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    ViTImageProcessor,
)
from transformers.image_utils import load_image

from maskpack.formats import DataError, ExportError
from maskpack.runtime.images import ImageRule, bytes_of_url, url_of_bytes
from maskpack.runtime.pixels import centre

PROCESSORS = {
    "vit": ViTImageProcessor,
    "vit-oblong": lambda: ViTImageProcessor(size={"height": 17, "width": 30}, resample=3),
    "vit-plain": lambda: ViTImageProcessor(do_normalize=False, do_rescale=False),
    "deit": DeiTImageProcessor,
    "deit-framed": lambda: DeiTImageProcessor(
        size={"height": 15, "width": 15}, crop_size={"height": 20, "width": 18}
    ),
    "bit": BitImageProcessor,
    "dinov2": lambda: BitImageProcessor(
        size={"shortest_edge": 256}, crop_size=224, image_mean=[0.485, 0.456, 0.406]
    ),
    "bit-framed": lambda: BitImageProcessor(
        size={"shortest_edge": 21}, crop_size={"height": 30, "width": 19}
    ),
    "bit-uncut": lambda: BitImageProcessor(do_resize=False, crop_size={"height": 9, "width": 9}),
    "clip": CLIPImageProcessor,
}
SIZES = ((40, 60), (61, 37), (8, 8), (300, 211))


@pytest.mark.parametrize("name", PROCESSORS)
def test_values_are_those_of_transformers(name):
    processor = PROCESSORS[name]()
    rule, rng = ImageRule.of_json(processor.to_json_string()), np.random.default_rng(0)
    for size in SIZES:
        image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        (wanted,) = processor(image, return_tensors="np")["pixel_values"]
        pixels = rule.pixels(image)
        assert (pixels.dtype, pixels.shape) == (np.uint8, (*rule.size, 3))
        (found,) = rule.values(pixels[None])
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted)


def images_of_all_modes():
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    clear = colours.convert("RGBA")
    clear.putalpha(Image.fromarray(rng.integers(0, 256, (20, 30), dtype=np.uint8)))
    for mode in ("L", "1", "P", "LA", "CMYK", "YCbCr"):
        yield mode, colours.convert(mode)
    yield "RGBA", clear


@pytest.mark.parametrize(("mode", "image"), list(images_of_all_modes()))
@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_modes_become_rgb_as_transformers_loads_them(mode, image, ending, tmp_path):
    if (mode, ending) in {("CMYK", "png"), ("YCbCr", "png")}:
        pytest.skip("PNG has no such mode")
    path = tmp_path / f"x.{ending}"
    image.save(path)
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    rule = ImageRule.of_json(processor.to_json_string())
    (wanted,) = processor(load_image(str(path)), return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(rule.values(rule.pixels(path)[None])[0], wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_exif_says(orientation, tmp_path):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "x.png", exif=exif)
    rule = ImageRule(
        resize=10, resample=2, crop=(10, 10), factor=1 / 255, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    found = rule.pixels(tmp_path / "x.png")
    np.testing.assert_array_equal(found, rule.pixels(load_image(str(tmp_path / "x.png"))))
    assert np.array_equal(found, rule.pixels(image)) == (orientation == 1)


def test_16_bits_are_refused_rather_than_cut(tmp_path):
    deep = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
    deep.save(tmp_path / "x.png")
    rule = ImageRule((4, 4), 2, None, None, None, None)
    with pytest.raises(DataError, match="has more than 8 bits a pixel") as caught:
        rule.pixels(tmp_path / "x.png")
    assert caught.value.hint.startswith("save it with 8 bits")


def test_bytes_and_data_urls_are_images():
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    file = io.BytesIO()
    image.save(file, "PNG")
    rule = ImageRule((4, 4), 0, None, None, None, None)
    wanted = np.asarray(image)
    for form in (file.getvalue(), url_of_bytes(file.getvalue()), image, wanted):
        np.testing.assert_array_equal(rule.pixels(form), wanted)
    for odd in ("data:image/png,none", "data:image/png;base64,?"):
        with pytest.raises(DataError, match="is no data URL in base64"):
            bytes_of_url(odd)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"an array of uint8 \(4, 4, 4\) is no image"),
        (np.zeros((0, 4, 3), np.uint8), r"an array of uint8 \(0, 4, 3\) is no image"),
        (np.zeros((4, 4, 3)), "an array of float64"),
        (7, "7 is no image"),
        (b"nothing", "image of 7 bytes is no image that Pillow reads"),
        ("gone.png", "there is no image `gone.png`"),
        (".", "image `.` cannot be read"),
    ],
)
def test_what_is_no_image(image, why):
    with pytest.raises(DataError, match=why):
        ImageRule((4, 4), 0, None, None, None, None).pixels(image)


def test_a_frame_has_its_odd_pixel_first():
    small = np.full((1, 1, 3), 9, dtype=np.uint8)
    assert centre(small, 2, 2)[..., 0].tolist() == [[0, 0], [0, 9]]
    assert centre(small, 3, 3)[..., 0].tolist() == [[0, 0, 0], [0, 9, 0], [0, 0, 0]]


def test_rules_that_are_not_followed():
    tree = ViTImageProcessor().to_dict()
    with pytest.raises(ExportError, match="is of a `ConvNextImageProcessor`"):
        ImageRule.of_json(ConvNextImageProcessor().to_json_string())
    for change, why in (
        ({"size": {"height": 0, "width": 4}}, "has the sizes"),
        ({"do_resize": False}, "leaves images in sizes of their own"),
        ({"resample": 9}, "has the filter 9"),
        ({"image_std": [0, 1, 1]}, "divides by"),
        ({"image_mean": [0, 1]}, "where 3 numbers are expected"),
        ({"size": None}, "is damaged"),
        ({"size": {"longest_edge": 8, "shortest_edge": 4}}, "is damaged"),
    ):
        with pytest.raises(ExportError, match=why):
            ImageRule.of_json(json.dumps({**tree, **change}, default=str))
    for text in ("", "[]", "{}", "nul"):
        with pytest.raises(ExportError, match="is damaged"):
            ImageRule.of_json(text)
