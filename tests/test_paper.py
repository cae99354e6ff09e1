"""The paper's experiments: networks, data on disk, fits that are made once, cells, and the verdicts of the first tables."""

import dataclasses
import hashlib
import io
import math
import pickle
import statistics
import sys
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.datasets import CIFAR100
from torchvision.models import resnet18

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the examples are no part of what is installed

from examples.paper import classifiers, fidelity, networks, pretrained  # noqa: E402
from examples.paper.ablations import TABLES  # noqa: E402
from examples.paper.cells import cell  # noqa: E402
from examples.paper.datasets import DATASETS, batches, cub200, shuffled, validation_split  # noqa: E402
from examples.paper.fits import Fits  # noqa: E402
from examples.paper.networks import LeNet, ResNet18  # noqa: E402
from examples.paper.tasks import TASKS, from_nothing, with_batch_norm  # noqa: E402
from flint_posthoc import FlintExplainer  # noqa: E402
from flint_posthoc.data import augments  # noqa: E402
from flint_posthoc.errors import ConfigurationError, DataError  # noqa: E402
from flint_posthoc.learning.settings import FitSettings  # noqa: E402

# ---- networks ----


def outputs(model: nn.Module, images: Tensor, layers: tuple[str, ...]) -> tuple[Tensor, list[Tensor]]:
    """Logits, and what each layer puts out."""
    seen: list[Tensor] = []
    hooks = [model.get_submodule(layer).register_forward_hook(lambda module, given, output: seen.append(output)) for layer in layers]
    with torch.no_grad():
        logits = model(images)
    for hook in hooks:
        hook.remove()
    return logits, seen


def batch_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("task", "shape", "classes", "taps"),
    [
        ("mnist", (1, 28, 28), 10, [(32, 14, 14)]),
        ("fashion_mnist", (1, 28, 28), 10, [(32, 14, 14)]),
        ("quickdraw", (1, 28, 28), 10, [(256, 7, 7), (512, 4, 4)]),
        ("cifar10", (3, 32, 32), 10, [(256, 8, 8), (512, 4, 4)]),
        ("cifar100", (3, 32, 32), 100, [(256, 8, 8), (512, 4, 4)]),
        ("cub200", (3, 224, 224), 200, [(256, 14, 14), (512, 7, 7)]),
    ],
)
def test_a_network_has_the_papers_taps(task: str, shape: tuple[int, ...], classes: int, taps: list[tuple[int, ...]]) -> None:
    known = TASKS[task]
    network = (from_nothing(known) if task == "cub200" else known).network().eval()
    logits, seen = outputs(network, torch.rand(2, *shape), known.layers)
    assert logits.shape == (2, classes)
    assert [tuple(maps.shape[1:]) for maps in seen] == taps
    assert all(bool((maps >= 0).all()) for maps in seen)  # behind a ReLU
    assert (batch_norms(network) > 0) == (task == "cub200")


@pytest.mark.parametrize("stride", [1, 2])
def test_few_places_are_convolved_as_many(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, maps = networks.Convolution(5, 7, stride, bias=True), torch.randn(3, 5, 4, 6, requires_grad=True)
    found = []
    for few in (0, 24):
        monkeypatch.setattr(networks, "FEW_PLACES", few)
        result = layer(maps)
        found.append([result, *torch.autograd.grad(result.square().sum(), [maps, *layer.parameters()])])
    assert all(torch.allclose(plain, product, atol=1e-4) for plain, product in zip(*found, strict=True))


def test_batch_norm_is_to_be_had() -> None:
    assert batch_norms(with_batch_norm(TASKS["quickdraw"]).network()) == 17  # a stem, and two in each of eight blocks


@pytest.mark.parametrize("seed", range(2))
def test_a_resnet_without_batch_norm_starts_with_activations_of_one_size(seed: int) -> None:
    torch.manual_seed(seed)
    _, seen = outputs(ResNet18(3), torch.randn(8, 3, 32, 32), ("stem", "layer1", "layer2", "layer3", "layer4"))
    sizes = [float(maps.square().mean().sqrt()) for maps in seen]
    assert 0.1 < sizes[0] < 1
    assert all(0.2 < size / sizes[0] < 2 for size in sizes)


def test_dropout_is_for_training() -> None:
    network, images = LeNet(), torch.rand(4, 1, 28, 28)
    assert not torch.equal(network(images), network(images))
    assert torch.equal(network.eval()(images), network(images))


def test_a_pretrained_network_starts_from_what_lies_in_torchs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    published = resnet18().state_dict()
    torch.save(published, file)
    network = pretrained.imagenet_resnet18(5)
    assert network.fc.out_features == 5
    assert torch.equal(network.layer4[0].conv1.weight, published["layer4.0.conv1.weight"])


def test_weights_that_cannot_be_fetched_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **named: Any) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(ConfigurationError, match=r"resnet18-f37072fd.pth cannot be fetched: .*Put the file into .*checkpoints, or pass"):
        pretrained.imagenet_resnet18(5)


# ---- data ----

TRAIN, TEST = 6, 3  # pictures a class of a stand-in; those of the second class are brighter
CIFAR = ("apple", "aquarium_fish")
BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
NOISE = np.random.default_rng(0)


def drawn(label: int, width: int, height: int) -> np.ndarray:
    return NOISE.integers(0, 80, (height, width, 3), dtype=np.uint8) + np.uint8(120 * label)


def encoded(label: int, width: int, height: int, kind: str, mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.fromarray(drawn(label, width, height)).convert(mode).save(content, kind)
    return content.getvalue()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def folders(root: Path, names: tuple[str, ...], kind: str, width: int, height: int) -> None:
    for part, count in (("train", TRAIN), ("test", TEST)):
        for label, name in enumerate(names):
            for number in range(count):
                write(root / part / name / f"{number}.{kind}", encoded(label, width, height, {"jpg": "JPEG", "png": "PNG"}[kind]))


def cifar100_pickles(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As published, with the checksums that torchvision asks for."""
    root = data / "cifar-100-python"

    def pickled(name: str, content: dict[str, Any]) -> list[str]:
        write(root / name, pickle.dumps(content))
        return [name, hashlib.md5((root / name).read_bytes()).hexdigest()]

    for part, count in (("train", TRAIN), ("test", TEST)):
        labels = [0, 1] * count
        pixels = np.stack([drawn(label, 32, 32).transpose(2, 0, 1).ravel() for label in labels])
        monkeypatch.setattr(CIFAR100, f"{part}_list", [pickled(part, {"data": pixels, "fine_labels": labels})])
    _, digest = pickled("meta", {"fine_label_names": list(CIFAR)})
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": digest})


def cifar100_folders(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(data / "cifar100", CIFAR, "png", 32, 32)


def cub_published(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published tables, test pictures first; one picture is grey, as some are."""
    root, lines = data / "CUB_200_2011", []
    for part, count in (("0", TEST), ("1", TRAIN)):
        for label, name in enumerate(BIRDS):
            for number in range(count):
                file, mode = f"{name}/{part}_{number}.jpg", "L" if number == 0 else "RGB"
                write(root / "images" / file, encoded(label, 60, 45, "JPEG", mode))
                lines.append((file, label + 1, part))
    for column, table in enumerate(("images", "image_class_labels", "train_test_split")):
        (root / f"{table}.txt").write_text("".join(f"{number} {line[column]}\n" for number, line in enumerate(lines, 1)))
    (root / "classes.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(BIRDS, 1)))


def cub_folders(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(data / "cub200", BIRDS, "jpg", 45, 60)


def cifar10_archives(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(data / "loose", ("bird", "cat"), "jpg", 32, 32)
    (data / "cifar10_jpeg").mkdir()
    for part in ("train", "test"):
        with tarfile.open(data / "cifar10_jpeg" / f"{part}.tar.gz", "w:gz") as archive:
            archive.add(data / "loose" / part, part)


def quickdraw_archive(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawings = {
        name: NOISE.integers(0, 80, (3000, 784), dtype=np.uint8) + np.uint8(120 * label) for label, name in enumerate(("cat", "dog"))
    }
    np.savez(data / "quickdraw.npz", **dict(reversed(drawings.items())))


Writer = Callable[[Path, pytest.MonkeyPatch], None]
STAND_INS: dict[str, tuple[str, Writer, tuple[str, ...], tuple[int, int], tuple[int, ...]]] = {
    "pickles": ("cifar100", cifar100_pickles, ("apple", "aquarium fish"), (2 * TRAIN, 2 * TEST), (3, 32, 32)),
    "folders": ("cifar100", cifar100_folders, ("apple", "aquarium fish"), (2 * TRAIN, 2 * TEST), (3, 32, 32)),
    "tables": ("cub200", cub_published, ("Black footed Albatross", "Laysan Albatross"), (2 * TRAIN, 2 * TEST), (3, 224, 224)),
    "birds": ("cub200", cub_folders, ("Black footed Albatross", "Laysan Albatross"), (2 * TRAIN, 2 * TEST), (3, 224, 224)),
    "archives": ("cifar10", cifar10_archives, ("bird", "cat"), (2 * TRAIN, 2 * TEST), (3, 32, 32)),
    "drawings": ("quickdraw", quickdraw_archive, ("cat", "dog"), (4800, 1200), (1, 28, 28)),
}


@pytest.mark.parametrize("stand_in", STAND_INS)
def test_data_on_disk_becomes_pictures(stand_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, written, names, sizes, shape = STAND_INS[stand_in]
    written(tmp_path, monkeypatch)
    pictures = DATASETS[key](tmp_path)
    assert pictures.class_names == names
    assert (len(pictures.train), len(pictures.test)) == sizes
    for part in (pictures.train, pictures.test):
        images, labels = (torch.cat(column) for column in zip(*batches(part), strict=True))
        assert (images.dtype, labels.dtype, tuple(images.shape[1:])) == (torch.float32, torch.int64, shape)
        assert labels.bincount().tolist() == [len(part) // 2] * 2
        pixels = pictures.normalization.denormalize(images)
        assert float(pixels.min()) > -1e-5
        assert float(pixels.max()) < 1 + 1e-5
        assert torch.equal(pixels.mean(dim=(1, 2, 3)) > 0.4, labels == 1)  # the second class is the bright one


@pytest.mark.parametrize("stand_in", STAND_INS)
def test_images_to_choose_settings_on_are_training_images_that_nothing_learns_from(
    stand_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, written, *_ = STAND_INS[stand_in]
    written(tmp_path, monkeypatch)
    pictures = DATASETS[key](tmp_path)
    learnt, judged = validation_split(pictures)
    assert sorted([*learnt.indices, *judged.indices]) == list(range(len(pictures.train)))
    assert len(judged) == len(pictures.train) // 6
    assert torch.equal(judged[1][0], pictures.train[6][0])


@pytest.mark.parametrize("split", [False, True])
def test_photographs_are_moved_only_where_f_learns_from_them(split: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cub_folders(tmp_path, monkeypatch)
    pictures = cub200(tmp_path, side=40)
    dataset = validation_split(pictures)[0] if split else pictures.train
    assert augments(shuffled(dataset, 4, flips=pictures.flips))
    assert not augments(batches(dataset))
    (images, _), *_ = shuffled(dataset, 4, flips=pictures.flips)
    assert images.shape == (4, 3, 40, 40)


def test_half_of_the_small_photographs_are_mirrored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar100_folders(tmp_path, monkeypatch)
    pictures = DATASETS["cifar100"](tmp_path)
    originals = pictures.train.tensors[0]
    seen = torch.cat([images for _ in range(8) for images, _ in shuffled(pictures.train, 4, flips=pictures.flips)])

    def among(images: Tensor) -> Tensor:
        return (seen[:, None] == images).flatten(2).all(dim=2).any(dim=1)

    kept, turned = among(originals), among(originals.flip(-1))
    assert bool((kept ^ turned).all())
    assert 0.3 < float(turned.float().mean()) < 0.7


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("cifar100", r"CIFAR-100 is not there; expected .*cifar-100-python with .* or .*cifar100 with \{train,test\}.* at https://"),
        ("cub200", r"CUB-200-2011 is not there; expected .*CUB_200_2011 with .* or .*cub200 with \{train,test\}.* at https://"),
    ],
)
def test_data_that_is_not_there_is_asked_for(key: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=expected):
        DATASETS[key](tmp_path)


def without_a_table(data: Path) -> None:
    (data / "CUB_200_2011" / "classes.txt").unlink()


def shortened(data: Path) -> None:
    labels = data / "CUB_200_2011" / "image_class_labels.txt"
    labels.write_text("".join(labels.read_text().splitlines(keepends=True)[:-1]))


def altered(data: Path) -> None:
    write(data / "cifar-100-python" / "train", b"something else")


def with_a_class_more(data: Path) -> None:
    write(data / "cifar100" / "train" / "bear" / "0.png", encoded(0, 32, 32, "PNG"))


def with_another_size(data: Path) -> None:
    write(data / "cifar100" / "test" / "apple" / "9.png", encoded(0, 40, 30, "PNG"))


def without_tests(data: Path) -> None:
    (data / "cub200" / "test").rename(data / "cub200" / "elsewhere")


@pytest.mark.parametrize(
    ("stand_in", "damage", "message"),
    [
        ("tables", without_a_table, "does not hold the published tables .*classes.txt"),
        ("tables", shortened, "does not hold the published tables .*KeyError"),
        ("pickles", altered, "cifar-100-python is not whole"),
        ("folders", with_a_class_more, "must show the same classes; in one of them only: bear"),
        ("folders", with_another_size, r"pictures of \(40, 30\) pixels; expected 32 × 32"),
        ("birds", without_tests, "test' is neither a folder of pictures"),
    ],
)
def test_damaged_data_is_refused(
    stand_in: str, damage: Callable[[Path], None], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, written, *_ = STAND_INS[stand_in]
    written(tmp_path, monkeypatch)
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        DATASETS[key](tmp_path)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("key", "sizes", "name", "fewest"),
    [
        ("mnist", (60_000, 10_000), "7", 5421),
        ("fashion_mnist", (60_000, 10_000), "sneaker", 6000),
        ("quickdraw", (24_000, 6_000), "fish", 2400),
    ],
)
def test_real_data_is_what_the_tables_are_about(key: str, sizes: tuple[int, int], name: str, fewest: int, real_data: Path) -> None:
    pictures = DATASETS[key](real_data)
    images, labels = pictures.train.tensors
    assert (len(pictures.train), len(pictures.test)) == sizes
    assert len(pictures.class_names) == 10
    assert name in pictures.class_names
    assert int(labels.bincount().min()) == fewest
    assert float(images.mean()) == pytest.approx(0, abs=1e-3)
    assert float(images.std()) == pytest.approx(1, abs=1e-3)


# ---- fits ----


def small_network() -> nn.Module:
    """With layers of the names that a ResNet18 has."""
    layer3 = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU())
    layer4 = nn.Sequential(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)))
    parts = {"layer3": layer3, "layer4": layer4, "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(8, 2)}
    return nn.Sequential(OrderedDict(parts))


@pytest.mark.parametrize("stand_in", ["folders", "tables"])
def test_an_experiment_runs_and_is_made_once(
    stand_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key, written, *_ = STAND_INS[stand_in]
    written(tmp_path, monkeypatch)
    monkeypatch.setitem(DATASETS, "cub200", partial(cub200, side=72))  # above 64: still a photograph
    task = dataclasses.replace(TASKS[key], network=small_network, num_attributes=3, batch_size=6)
    known = task.config()
    quick = dataclasses.replace(known, settings=FitSettings(max_steps=3))
    quick_design = dataclasses.replace(known, joint=dataclasses.replace(known.joint, refit_steps=3))

    def run() -> tuple[FlintExplainer, FlintExplainer]:
        fits = Fits(task, tmp_path, tmp_path / "made", epochs=1)
        return fits.by_design(0, config=quick_design), fits.post_hoc(0, config=quick)

    design, post_hoc = run()
    assert capsys.readouterr().out.count("making ") == 3  # BASE-f, and the two
    fits = Fits(task, tmp_path, tmp_path / "made", epochs=1)
    for explain in (design, post_hoc):
        assert explain.evaluate(fits.test).samples == 2 * TEST
        assert explain.interpreter.config.attributes.hidden_channels == (256 if key == "cub200" else None)
    assert design.accuracy_account(fits.base(0), fits.test).samples == 2 * TEST
    images = next(iter(fits.test))[0]
    for before, after in zip((design, post_hoc), run(), strict=True):
        assert torch.equal(before(images).interpreter_logits, after(images).interpreter_logits)
    assert "making" not in capsys.readouterr().out


def test_quick_tries_and_the_validation_split_are_kept_apart(tmp_path: Path) -> None:
    ways = [{}, {"validation": True}, {"epochs": 5}, {"epochs": 5, "validation": True}, {"images": 500}, {"images": 500, "epochs": 5}]
    folders = [Fits(TASKS["mnist"], tmp_path, tmp_path / "made", **way).folder for way in ways]  # type: ignore[arg-type]
    assert len(set(folders)) == len(ways)


@pytest.mark.parametrize(("pays", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_classifiers_learn_in_bfloat16_only_where_the_machine_multiplies_it(
    pays: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifiers, "bfloat16_pays", lambda device: pays)
    assert classifiers.precision() == precision


@pytest.mark.parametrize("table", TABLES)
def test_the_fits_of_a_table_differ_and_are_kept_apart(table: str) -> None:
    task = TASKS["mnist"]
    variants = TABLES[table][1](task)
    kept = {variant.folder for variant in variants}
    told = {repr((variant.mode, variant.num_attributes, variant.config(task))) for variant in variants}
    assert len(kept) == len(told) == len(variants)


def test_every_task_has_its_data_and_learns_as_it_says() -> None:
    assert TASKS.keys() == DATASETS.keys()
    assert all(task.config().joint.learning_rate == task.learning_rate for task in TASKS.values())
    assert all(task.config().interpreter == task.interpreter for task in TASKS.values())


# ---- cells ----


def test_a_cell_is_made_once_for_its_settings(tmp_path: Path) -> None:
    path, made = tmp_path / "cells" / "one.json", []

    def make() -> dict[str, int]:
        made.append(1)
        return {"answer": len(made)}

    first = cell(path, {"seed": 0}, make)
    assert cell(path, {"seed": 0}, make) == first
    assert (first["answer"], len(made)) == (1, 1)
    assert cell(path, {"seed": 1}, make)["answer"] == 2
    assert cell(path, {"seed": 0, "images": 10}, make)["answer"] == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_cell_that_was_stopped_leaves_nothing_and_loses_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def stopped() -> dict[str, int]:
        raise error

    path = tmp_path / "one.json"
    with pytest.raises(error):
        cell(path, {"seed": 0}, stopped)
    assert list(tmp_path.iterdir()) == []
    known = cell(path, {"seed": 0}, lambda: {"answer": 1})
    with pytest.raises(error):
        cell(path, {"seed": 1}, stopped)
    assert cell(path, {"seed": 0}, stopped) == known
    assert list(tmp_path.iterdir()) == [path]


# ---- the first tables ----


@pytest.mark.parametrize(
    ("measure", "value", "interval", "verdict"),
    [
        ("fidelity", 0.992, 0.0, "met"),
        ("fidelity", 0.991, 0.002, "within the interval"),
        ("fidelity", 0.990, 0.001, "missed"),
        ("cns_2", 1.05, 0.0, "met"),
        ("cns_2", 1.10, 0.06, "within the interval"),
        ("cns_2", 1.10, 0.01, "missed"),
        ("accuracy_gain", -0.0005, 0.0, "met"),
    ],
)
def test_a_goal_is_missed_only_with_the_whole_interval(measure: str, value: float, interval: float, verdict: str) -> None:
    assert fidelity.GOALS[measure].verdict("mnist", value, interval) == verdict
    assert f": {verdict})" in fidelity.shown("mnist", measure, {"mean": value, "interval": interval})


def test_what_has_no_goal_is_shown_without_one() -> None:
    value = {"mean": 0.5, "interval": 0.01}
    assert fidelity.shown("mnist", "fidelity", value) == "50.00 % ± 1.00 % (≥ 99.20 %: missed)"
    assert fidelity.shown("cifar100", "fidelity", value) == "50.00 % ± 1.00 %"
    assert fidelity.shown("mnist", "classifier_accuracy", value) == "50.00 % ± 1.00 %"
    assert fidelity.shown("mnist", "fidelity", None) == "–"


def test_recipes_are_kept_apart() -> None:
    assert len({fidelity.name_of_fit("joint", recipe) for recipe in fidelity.RECIPES}) == len(fidelity.RECIPES)
    assert fidelity.RECIPES["ours"]("mnist") == TASKS["mnist"].config()


def judged(**figures: float) -> dict[str, Any]:
    """One run on 1,000 test images of which f has 900 right, and g 855 of those and 25 others."""
    known = {"classifier_accuracy": 0.9, "interpreter_accuracy": 0.88, "fidelity_on_correct": 0.95} | figures
    return {"figures": known, "evaluation": {"samples": 1000}, "account": {"difference": {"low": -0.01, "high": 0.03}}}


def test_one_seed_has_the_interval_of_its_test_images() -> None:
    run = judged(fidelity=0.95, fidelity_on_errors=0.6, accuracy_gain=0.01, not_alive=2.0)
    expected = {
        "fidelity": 1.96 * math.sqrt(0.95 * 0.05 / 1000),
        "fidelity_on_errors": 1.96 * math.sqrt(0.6 * 0.4 / 100),  # there are 100 errors
        "accuracy_lost_by_interpreter": 1.96 * statistics.pstdev([1] * 45 + [-1] * 25 + [0] * 930) / math.sqrt(1000),
        "accuracy_gain": 0.02,  # half of what is between -0.01 and 0.03
        "classifier_accuracy": 1.96 * math.sqrt(0.9 * 0.1 / 1000),
    }
    assert {name: fidelity.measure(name, [run])["interval"] for name in expected} == pytest.approx(expected)
    assert fidelity.measure("accuracy_lost_by_interpreter", [run])["mean"] == pytest.approx(0.02)
    assert fidelity.measure("not_alive", [run]) == {"mean": 2.0, "interval": None}


@pytest.mark.parametrize(
    ("values", "half"),
    [
        ((0.94, 0.95, 0.96), 4.303 * 0.01 / math.sqrt(3)),  # seeds differ more than images allow for
        ((0.95, 0.95, 0.95), 1.96 * math.sqrt(0.95 * 0.05 / 1000)),  # seeds happen to agree: that of the images they share stands
    ],
)
def test_several_seeds_have_the_wider_of_two_intervals(values: tuple[float, ...], half: float) -> None:
    found = fidelity.measure("fidelity", [judged(fidelity=value) for value in values])
    assert found == {"mean": pytest.approx(0.95), "interval": pytest.approx(half)}


def test_what_a_run_does_not_know_is_left_out() -> None:
    assert fidelity.measure("base_accuracy", [judged(base_accuracy=0.9), judged()]) is None
