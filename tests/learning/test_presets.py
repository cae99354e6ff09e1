"""What others have published, value by value beside its source, and the layers that come of it."""

from typing import Any

import pytest
from torch import nn

from flint_posthoc.errors import ConfigurationError
from flint_posthoc.interpreter.interpreter import Interpreter
from flint_posthoc.learning import presets
from flint_posthoc.learning.losses import LossWeights
from flint_posthoc.learning.presets import FlintConfig

# The paper, first version, "Hyperparameter tuning" (η there is the weight of a sum over J = 25 and 24; ours of a mean)
PAPER = {
    "mnist": {"beta": 0.5, "gamma": 0.8, "delta": 0.2, "zeta": 1, "mu": 1, "eta": 0.5 * 25},
    "quickdraw": {"beta": 0.1, "gamma": 5.0, "delta": 0.1, "zeta": 1, "mu": 2, "eta": 3 * 24},
}
# The authors' table: (γ, β, δη, δζ, batch, epochs) and the epoch, from 1, in which each starts
AUTHORS = {
    "mnist": ((0.8, 0.5, 0.1, 0.2, 16, 12), {"gamma": 1, "beta": 3, "eta": 3, "zeta": 5}, "l2"),
    "fashion_mnist": ((0.8, 0.5, 0.1, 0.2, 16, 12), {"gamma": 1, "beta": 3, "eta": 3, "zeta": 5}, "l2"),
    "quickdraw": ((5.0, 0.1, 0.30, 0.1, 64, 12), {"gamma": 1, "beta": 3, "eta": 3, "zeta": 4}, "l2"),
    "cifar10": ((2.0, 0.6, 0.15, 0.2, 64, 25), {"gamma": 1, "beta": 3, "eta": 3, "zeta": 4}, "l1"),
}
TWO_STEP_ETA = {"quickdraw": 0.02, "cifar10": 0.001}  # δη from epoch 2 (counted from 1)


def in_force(config: FlintConfig, epoch: float) -> LossWeights:
    return config.schedule.at(config.weights, progress=0.0, epoch=epoch)


@pytest.mark.parametrize("dataset", PAPER)
def test_the_papers_weights(dataset: str) -> None:
    config = presets.paper_v1(dataset)
    assert config.weights.numbers() == PAPER[dataset]
    assert (config.weights.target, config.weights.reconstruction) == ("classifier", "l2")


@pytest.mark.parametrize("dataset", PAPER)
def test_the_papers_algorithm_1_starts_each_term_in_its_epoch(dataset: str) -> None:
    config = presets.paper_v1(dataset)
    full = config.weights.numbers()
    off = dict.fromkeys(("beta", "delta", "zeta", "eta"), 0.0)
    assert in_force(config, 0).numbers() == full | off
    assert in_force(config, 1.99).numbers() == full | off
    assert in_force(config, 2).numbers() == full | {"zeta": 0.0}
    assert in_force(config, 3).numbers() == full


@pytest.mark.parametrize("dataset", AUTHORS)
def test_the_authors_weights_and_epochs(dataset: str) -> None:
    config = presets.authors(dataset)
    (gamma, beta, eta, zeta, batch_size, epochs), starts, reconstruction = AUTHORS[dataset]
    full = {"gamma": gamma, "beta": beta, "eta": eta, "zeta": zeta}
    assert config.weights.numbers() == full | {"delta": 1.0, "mu": 1.0}
    assert config.weights.reconstruction == reconstruction
    assert (config.settings.batch_size, config.settings.epochs) == (batch_size, epochs)
    for name, first in starts.items():
        before = TWO_STEP_ETA.get(dataset, 0.0) if name == "eta" else 0.0
        assert getattr(in_force(config, first - 1), name) == pytest.approx(full[name])
        if first > 1:
            assert getattr(in_force(config, first - 1.001), name) == pytest.approx(before)
    assert in_force(config, 0).eta == 0


@pytest.mark.parametrize("config", [*map(presets.paper_v1, PAPER), *map(presets.authors, AUTHORS)])
def test_others_use_a_constant_rate_no_decay_no_revival_and_raw_weights(config: FlintConfig) -> None:
    settings = config.settings
    assert (settings.learning_rate, settings.constant_learning_rate) == (1e-4, True)
    assert (settings.weight_decay, settings.head_weight_decay, settings.revive_after) == (0, 0, None)
    assert (config.interpreter.centre_head, config.interpreter.initial_bias) == (False, None)
    assert config.interpreter.head_dropout == 0.01


@pytest.mark.parametrize("preset", [presets.paper_v1, presets.authors])
def test_a_typo_is_told_what_there_is(preset: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"no preset for 'minst'; there are \[.*'mnist', 'quickdraw'"):
        preset("minst")


def learnt(interpreter: Interpreter) -> list[str]:
    """Every layer with weights, as the authors' programme has it."""
    found = []
    for module in interpreter.modules():
        if isinstance(module, nn.Linear):
            found.append(f"FC({module.in_features},{module.out_features})")
        elif isinstance(module, nn.ConvTranspose2d | nn.Conv2d):
            name = "ConvT" if isinstance(module, nn.ConvTranspose2d) else "Conv"
            k, stride, pad = module.kernel_size[0], module.stride[0], module.padding[0]
            found.append(f"{name}({module.in_channels},{module.out_channels},{k},{stride},{pad})")
    return found


def test_the_papers_lenet_variant_has_its_layers() -> None:
    interpreter = Interpreter(((32, 14, 14),), (1, 28, 28), 25, 10, presets.paper_v1("mnist").interpreter)
    assert learnt(interpreter) == ["Conv(32,64,3,1,1)", "FC(576,25)", "FC(25,10)", "FC(25,98)", "ConvT(2,8,3,2,1)", "ConvT(8,1,3,2,1)"]
    assert interpreter.attribute_network.pool == (3, 3)
    assert interpreter.attribute_network.reduced_shapes == ((32, 14, 14),)
    assert interpreter.decoder.base == (2, 7, 7)


def test_the_papers_resnet18_variant_has_its_layers() -> None:
    interpreter = Interpreter(((256, 8, 8), (512, 4, 4)), (3, 32, 32), 36, 10, presets.authors("cifar10").interpreter)
    assert learnt(interpreter)[:5] == ["Conv(256,64,3,2,1)", "Conv(512,64,3,1,1)", "Conv(128,64,3,1,1)", "FC(576,36)", "FC(36,10)"]
    assert interpreter.attribute_network.grid == (4, 4)
    assert interpreter.attribute_network.pool == (3, 3)
