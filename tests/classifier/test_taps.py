"""Reading hidden layers: the same bits as a plain pass, the stop at the deepest tap, and what cannot be read."""

import copy

import pytest
import torch
from models import Careless, ModuleCNN, SmallCNN, every_family, left_alone
from torch import Tensor, nn

from flint_posthoc.classifier.adapter import ModelAdapter, TapLayout, find_adapter
from flint_posthoc.classifier.preflight import preflight
from flint_posthoc.classifier.taps import check_device, frozen, resolve_layers, tapped, unwrap
from flint_posthoc.errors import (
    DevicePlacementError,
    DuplicateLayerError,
    FlintError,
    LayerError,
    LayerNotReachedError,
    UnknownLayerError,
    UnmappableActivationError,
    UnsupportedClassifierError,
)


def outputs_by_hand(model: nn.Module, images: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor]:
    """Each layer's last raw output, copied as it comes out."""
    found: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(layer).register_forward_hook(
            lambda module, arguments, output, layer=layer: found.update({layer: output.clone()})
        )
        for layer in layers
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return found


def prepared(model: nn.Module, layers: tuple[str, ...], images: Tensor) -> tuple[ModelAdapter, tuple[TapLayout, ...]]:
    adapter = find_adapter(model)
    return adapter, preflight(model, layers, images, adapter=adapter).layouts


@every_family
def test_taps_give_what_the_layers_put_out_and_the_stop_gives_the_same_bits(family):
    model, images = family.build(), family.images()
    with left_alone(model):
        adapter, layouts = prepared(model, family.layers, images)
        with frozen(model), torch.no_grad(), tapped(model, adapter, layouts) as run:
            logits, raw = model(images), outputs_by_hand(model, images, family.layers)
            whole, stopped = run(images), run.activations(images)
        assert torch.equal(whole.logits, logits)
        for layout, maps, early in zip(layouts, whole.activations, stopped, strict=True):
            assert torch.equal(maps, adapter.canonical(raw[layout.layer], layout))
            assert torch.equal(maps, early)
            assert maps.shape == (len(images), layout.channels, layout.height, layout.width)


@every_family
def test_a_bad_argument_and_a_failing_pass_leave_no_trace(family):
    model, images = family.build(), family.images()
    adapter, layouts = prepared(model, family.layers, images)
    with left_alone(model), pytest.raises(LayerError), tapped(model, adapter, [*layouts, TapLayout("nowhere", "maps", 1, 1, 1)]):
        pass
    with left_alone(model), pytest.raises(FlintError):
        preflight(model, ("nowhere",), images)
    with left_alone(model), pytest.raises((RuntimeError, AssertionError)), frozen(model), tapped(model, adapter, layouts) as run:
        run(images[:, :2])


def test_a_forward_that_raises_half_way_leaves_no_trace():
    model, images = Careless(), torch.randn(2, 3, 32, 32)
    adapter, layouts = prepared(model, ("first", "inner.conv1"), images)
    model.fail = True
    for call in ("__call__", "activations"):
        with left_alone(model), pytest.raises(RuntimeError, match="half-way"), frozen(model), tapped(model, adapter, layouts) as run:
            getattr(run, call)(images)


def test_the_stop_skips_what_lies_behind_the_deepest_tap():
    model, images = SmallCNN(), torch.randn(2, 3, 32, 32)
    adapter, layouts = prepared(model, ("conv2", "conv1"), images)
    calls: list[str] = []
    model.conv2.register_forward_hook(lambda *_: calls.append("conv2"))
    model.fc1.register_forward_hook(lambda *_: calls.append("fc1"))
    with tapped(model, adapter, layouts) as run:
        run.activations(images)
        assert calls == ["conv2"]
        run(images)
    assert calls == ["conv2", "conv2", "fc1"]


def test_the_models_own_except_does_not_swallow_the_stop():
    class Forgiving(SmallCNN):
        def forward(self, images: Tensor) -> Tensor:
            try:
                return super().forward(images)
            except Exception:
                return super().forward(0 * images)

    model, images = Forgiving(), torch.randn(2, 3, 32, 32)
    adapter, layouts = prepared(model, ("conv1",), images)
    with tapped(model, adapter, layouts) as run:
        assert torch.equal(run.activations(images)[0], model.conv1(images))


def test_gradients_reach_the_images_through_stop_and_whole_pass():
    model, images = ModuleCNN(), torch.randn(2, 3, 16, 16, requires_grad=True)
    adapter, layouts = prepared(model, ("conv2",), images.detach())
    with frozen(model), tapped(model, adapter, layouts) as run:
        gradients = [torch.autograd.grad(maps[0].square().sum(), images)[0] for maps in (run.activations(images), run(images).activations)]
    assert gradients[0].abs().sum() > 0
    assert torch.equal(*gradients)


def test_an_output_that_is_overwritten_in_place_is_read_before():
    model, images = ModuleCNN(), torch.randn(4, 3, 16, 16)
    adapter, layouts = prepared(model, ("conv2",), images)
    assert layouts[0].overwritten
    with torch.no_grad(), tapped(model, adapter, layouts) as run:
        whole, stopped = run(images).activations[0], run.activations(images)[0]
    assert whole.min() < 0
    assert torch.equal(whole, stopped)


def test_of_a_layer_that_runs_twice_the_last_call_is_taken():
    model, images = ModuleCNN(), torch.randn(4, 3, 16, 16)
    adapter, layouts = prepared(model, ("act",), images)
    assert layouts[0].calls == 2
    with torch.no_grad(), tapped(model, adapter, layouts) as run:
        expected = nn.functional.max_pool2d(model.conv1(images).relu(), 2)
        assert torch.equal(run(images).activations[0], expected)
        assert torch.equal(run.activations(images)[0], expected)


def test_nested_taps_do_not_disturb_each_other():
    model, images = SmallCNN(), torch.randn(2, 3, 32, 32)
    adapter, layouts = prepared(model, ("conv1", "conv2"), images)
    with torch.no_grad(), tapped(model, adapter, layouts[:1]) as outer, tapped(model, adapter, layouts[1:]) as inner:
        assert torch.equal(inner.activations(images)[0], inner(images).activations[0])
        assert torch.equal(outer.activations(images)[0], model.conv1(images))


def test_a_layer_that_is_never_called_is_named():
    model, images = ModuleCNN(), torch.randn(2, 3, 16, 16)
    for layout, message in (
        (TapLayout("spare", "maps", 8, 5, 5), "layer 'spare' exists but the classifier's forward pass never calls it"),
        (TapLayout("act", "maps", 8, 5, 5, calls=3), "layer 'act' ran 2 times in this pass, 3 times in preflight"),
    ):
        with tapped(model, find_adapter(model), [layout]) as run:
            for call in (run, run.activations):
                with pytest.raises(LayerNotReachedError, match=message):
                    call(images)


def test_images_of_another_size_are_refused():
    model = ModuleCNN()
    adapter, layouts = prepared(model, ("conv2",), torch.randn(2, 3, 16, 16))
    with (
        tapped(model, adapter, layouts) as run,
        pytest.raises(UnmappableActivationError, match=r"put out \(2, 8, 7, 7\).*8 channels, 5 x 5"),
    ):
        run(torch.randn(2, 3, 20, 20))


def test_compiled_parts_run_their_hooks():
    images = torch.randn(2, 3, 32, 32)
    model = nn.Sequential(SmallCNN())
    adapter, layouts = prepared(model, ("0.conv1",), images)
    model[0].compile(backend="eager")
    with torch.no_grad():
        model(images)  # compiled now, without any hook
    with left_alone(model), torch.no_grad(), tapped(model, adapter, layouts) as run:
        assert torch.equal(run.activations(images)[0], model[0].conv1(images))


def test_unwrap_finds_the_module_inside():
    model = SmallCNN()
    assert unwrap(model) is model
    assert unwrap(torch.compile(model, backend="eager")) is model
    assert unwrap(nn.DataParallel(torch.compile(model, backend="eager"))) is model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SmallCNN, "the class SmallCNN: expected an instance"),
        (lambda: torch.sin, "expected a torch.nn.Module; wrap a function"),
        (lambda: torch.export.export(SmallCNN(), (torch.randn(1, 3, 32, 32),)), "pass the torch.nn.Module that it was exported from"),
        (
            lambda: torch.export.export(SmallCNN(), (torch.randn(1, 3, 32, 32),)).module(),
            "an exported programme calls operators, not layers",
        ),
        (lambda: nn.Sequential(nn.LazyConv2d(3, 3)), "'0.weight' has no shape yet; run one batch through"),
    ],
    ids=["class", "function", "exported", "exported module", "lazy"],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_what_cannot_be_read_is_refused_with_the_way_out(build, message):
    with pytest.raises(UnsupportedClassifierError, match=message):
        unwrap(build())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_scripted_and_traced_modules_are_refused():
    for model in (torch.jit.script(SmallCNN()), torch.jit.trace(SmallCNN(), torch.randn(1, 3, 32, 32))):
        with pytest.raises(UnsupportedClassifierError, match="scripted and traced modules run no hooks; pass the"):
            unwrap(model)


def test_one_device_is_required():
    model = SmallCNN()
    assert check_device(model) == torch.device("cpu")
    assert check_device(nn.Sequential(nn.Flatten())) == torch.device("cpu")
    split = copy.deepcopy(model)
    split.fc2.to("meta")
    with pytest.raises(DevicePlacementError, match=r"several devices \(6 on cpu, 2 on meta\); move it to one"):
        check_device(split)
    with pytest.raises(DevicePlacementError, match="have no values; load its weights first"):
        check_device(split.to("meta"))


def test_layers_are_checked_by_name():
    model = SmallCNN()
    assert resolve_layers(model, ["conv2", "conv1"]) == ("conv2", "conv1")
    with pytest.raises(UnknownLayerError, match=r"no layer 'conv3'; nearest names: 'conv[12]', 'conv[12]'"):
        resolve_layers(model, ["conv3"])
    with pytest.raises(UnknownLayerError, match="nearest names: 'conv1', 'conv2', 'fc1', 'fc2'"):
        resolve_layers(model, ["?"])
    with pytest.raises(DuplicateLayerError, match="'conv1' and 'conv1' are the same module"):
        resolve_layers(model, ["conv1", "fc1", "conv1"])
    model.alias = model.conv1
    with pytest.raises(DuplicateLayerError, match="'alias' and 'conv1' are the same module"):
        resolve_layers(model, ["alias", "conv1"])
    for layers, message in (([], "no layer was named"), ("conv1", "must be a list of names"), ([""], "'' is the classifier itself")):
        with pytest.raises(LayerError, match=message):
            resolve_layers(model, layers)


def test_a_layer_may_be_named_by_its_alias():
    model, images = SmallCNN(), torch.randn(2, 3, 32, 32)
    model.alias = model.conv1
    adapter, layouts = prepared(model, ("alias",), images)
    with torch.no_grad(), tapped(model, adapter, layouts) as run:
        assert torch.equal(run(images).activations[0], model.conv1(images))


def test_hooks_are_removed_when_a_registration_fails(monkeypatch):
    model, images = SmallCNN(), torch.randn(2, 3, 32, 32)
    adapter, layouts = prepared(model, ("conv1", "conv2"), images)

    def refuse(hook: object) -> None:
        raise MemoryError("no more hooks")

    monkeypatch.setattr(model.conv2, "register_forward_hook", refuse)
    with left_alone(model), tapped(model, adapter, layouts) as run, pytest.raises(MemoryError, match="no more hooks"):
        run(images)
