"""Files of pictures: what is damaged, or would unpack into gigabytes, is named, or left out and counted on request."""

import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms

from flint_posthoc.classifier.adapter import Crop, Normalization
from flint_posthoc.cli import main
from flint_posthoc.data import FirstPass, batches
from flint_posthoc.errors import UnreadablePictureError
from flint_posthoc.sources.pictures import ImageForm, InOrder, PictureDataset, ReadablePictures, open_data, open_picture

FORM = ImageForm(Normalization((0.5,), (0.5,)), (3, 8, 8))
BROKEN = {"cut.png": 45, "empty.jpg": 0, "header.png": 25}  # bytes that are left of a picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of five good pictures, and three broken ones among those of the first."""
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("RGB", (12, 10), (40 * number, 20, 200)).save(tmp_path / name / f"{number}.png")
    whole = (tmp_path / "ant" / "0.png").read_bytes()
    for name, left in BROKEN.items():
        (tmp_path / "ant" / name).write_bytes(whole[:left])
    return tmp_path


def png(width: int, height: int) -> bytes:
    """A picture of so many pixels in a few bytes: a header, and a body that unpacks without end."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress(b"\0" * 2**20, 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(2**14, 2**14), (2**31 - 1, 2**31 - 1), (100_000, 2_000), (1, 2**30)])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "bomb.png").write_bytes(png(*size))
    with pytest.raises(UnreadablePictureError, match=r"bomb.png (has .* pixels; at most 134,217,728 are read|cannot be read as a picture)"):
        open_picture(tmp_path / "bomb.png")


def test_a_large_photograph_is_no_bomb(tmp_path: Path) -> None:
    Image.new("L", (10_000, 9_500)).save(tmp_path / "large.png")
    assert open_picture(tmp_path / "large.png").size == (10_000, 9_500)


def test_a_program_for_a_printer_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "evil.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(UnreadablePictureError, match=r"evil.jpg cannot be read as a picture"):
        open_picture(tmp_path / "evil.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning")  # of what Pillow can still read
@given(st.data())
def test_no_damage_to_a_picture_escapes_the_typed_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]))
    path = tmp_path_factory.mktemp("damaged") / "picture"
    Image.linear_gradient("L").resize((16, 16)).convert("RGB").save(path, kind)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(UnreadablePictureError):
        assert FORM(open_picture(path)).shape == FORM.shape


@pytest.mark.parametrize("shape", [None, (1, 8, 8), (3, 8, 8)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])  # the last comes in mode I
def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path: Path, kind: str, shape: tuple[int, int, int] | None) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "deep", kind)
    image = ImageForm(Normalization((0.0,), (1.0,)), shape)(open_picture(tmp_path / "deep"))
    assert image.shape == (shape or (1, 8, 8))
    torch.testing.assert_close(image, torch.from_numpy(values / 65535).float().expand_as(image), atol=0.5 / 255 + 1e-6, rtol=0)


def test_the_bytes_of_sixteen_bits_may_stand_in_either_order() -> None:
    picture = Image.frombytes("I;16B", (8, 8), np.full((8, 8), 0x8000, ">u2").tobytes())
    assert FORM(picture).unique().tolist() == pytest.approx([(128 / 255 - 0.5) / 0.5], abs=1e-6)


@pytest.mark.parametrize("values", [np.full((8, 8), 70_000, np.int32), np.full((8, 8), -1, np.int32), np.full((8, 8), 0.5, np.float32)])
def test_values_without_a_known_white_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "measured.tiff")
    with pytest.raises(UnreadablePictureError, match=r"a picture of mode [IF] with values from .* expected 8 or 16 bits a channel"):
        FORM(open_picture(tmp_path / "measured.tiff"))


def test_the_first_broken_picture_is_named(folder: Path) -> None:
    loader = DataLoader(PictureDataset(open_data(str(folder), "train"), FORM, labelled=True), batch_size=4)
    with pytest.raises(UnreadablePictureError, match=r"picture 5 of the data cannot be read: .*ant/cut.png cannot be read as a picture"):
        list(batches(loader, device="cpu"))


def test_broken_pictures_are_left_out_and_counted_on_request(folder: Path) -> None:
    readable = ReadablePictures(open_data(str(folder), "train"), FORM, labelled=True)
    found = list(batches(DataLoader(readable, batch_size=3, collate_fn=readable.collate), device="cpu"))
    assert torch.cat([batch.labels for batch in found]).tolist() == [0] * 5 + [1] * 5  # type: ignore[misc]
    assert sorted(readable.skipped) == [5, 6, 7]
    assert all(any(name in said for said in readable.skipped.values()) for name in BROKEN)


def test_a_batch_of_broken_pictures_alone_is_passed_over_also_at_the_beginning(folder: Path) -> None:
    readable = ReadablePictures(open_data(str(folder), "train"), ImageForm(FORM.normalization), labelled=False)
    loader = DataLoader(readable, batch_size=1, sampler=[5, 6, 0, 7, 1], collate_fn=readable.collate)
    first = FirstPass(loader)
    assert first.images.shape == (1, 3, 10, 12)
    assert sum(len(batch.images) for batch in batches(first, device="cpu")) == 2


@pytest.mark.parametrize("size", [(320, 200), (200, 320), (256, 256), (56, 72)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_middle_is_cut_as_torchvision_cuts_it(size: tuple[int, int], interpolation: str) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 3, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    form = ImageForm(Normalization((0.0,), (1.0,)), (3, 112, 112), Crop(112 / 128, interpolation))
    usual = [transforms.Resize(128, transforms.InterpolationMode(interpolation)), transforms.CenterCrop(112), transforms.ToTensor()]
    difference = (form(picture) - transforms.Compose(usual)(picture)).abs()
    assert difference.mean() < 0.01  # which rounds to whole pixels on the way
    whole = (ImageForm(form.normalization, form.shape)(picture) - transforms.Compose(usual)(picture)).abs()
    assert difference.mean() < whole.mean() / 2


@pytest.mark.filterwarnings("always::flint_posthoc.errors.FlintWarning")
@pytest.mark.parametrize(("skip", "workers"), [(True, 0), (True, 2), (False, 0)])
def test_the_command_line_skips_on_request_and_says_what(
    folder: Path, skip: bool, workers: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", "torchvision:squeezenet1_1", "--model-args", '{"num_classes": 2}', "--weights", str(tmp_path / "w.safetensors")]
    from safetensors.torch import save_file
    from torchvision.models import squeezenet1_1

    save_file(squeezenet1_1(num_classes=2).state_dict(), tmp_path / "w.safetensors")
    half = ["0.5", "0.5", "0.5"]
    options = ["--data", str(folder), "--size", "64", "--mean", *half, "--std", *half, "--max-steps", "2", "--num-attributes", "3"]
    loading = ["--skip-unreadable", "--workers", str(workers), "--batch-size", "5"] if skip else []
    code = main(["fit", *model, *options, *loading, "--output", str(tmp_path / "out")])
    said = capfd.readouterr().err
    assert code == (0 if skip else 2), said
    assert ("left out: picture 5 of the data cannot be read" in said) is skip
    assert ("3 pictures could not be read and were left out" in said) is (skip and not workers)  # each worker says it for itself
    assert ("ant/cut.png cannot be read as a picture" in said) or not skip


def test_folders_in_another_order_than_the_classes_are_told_by_name(folder: Path) -> None:
    pictures = open_data(str(folder), "train")
    ordered = InOrder(pictures, ("bee", "ant"))
    assert len(ordered) == len(pictures)
    last = len(pictures) - 1
    assert (pictures[last][1], ordered[last][1]) == (1, 0)
