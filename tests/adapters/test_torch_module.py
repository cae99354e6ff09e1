"""The general adapter: logits out of any answer, maps out of any output."""

import pytest
import torch
from flint_posthoc.adapters.torch_module import MAX_PREFIX_TOKENS, TorchModuleAdapter, token_grid
from hypothesis import given
from hypothesis import strategies as st
from models import SmallCNN
from torch import nn

from flint_posthoc.classifier.adapter import find_adapter
from flint_posthoc.errors import UnmappableActivationError, UnsupportedClassifierError

ADAPTER = TorchModuleAdapter()
MODEL = nn.Sequential(nn.Identity(), nn.Conv2d(3, 3, 1))


def layout_of(shape: tuple[int, ...], image: tuple[int, int] = (32, 32), layer: str = "0", batch: int = 2):
    return ADAPTER.layout(layer, torch.randn(shape), torch.randn(batch, 3, *image), MODEL)


@pytest.mark.parametrize(
    ("shape", "image", "form", "prefix", "maps"),
    [
        ((2, 64, 7, 7), (32, 32), "maps", 0, (64, 7, 7)),
        ((2, 7, 7, 64), (32, 32), "maps_last", 0, (64, 7, 7)),
        ((2, 64, 6, 12), (32, 64), "maps", 0, (64, 6, 12)),
        ((2, 6, 12, 64), (32, 64), "maps_last", 0, (64, 6, 12)),
        ((2, 8, 8, 8), (32, 32), "maps", 0, (8, 8, 8)),
        ((2, 64, 1, 1), (32, 32), "maps", 0, (64, 1, 1)),
        ((2, 196, 24), (32, 32), "tokens", 0, (24, 14, 14)),
        ((2, 197, 24), (32, 32), "tokens", 1, (24, 14, 14)),
        ((2, 261, 24), (32, 32), "tokens", 5, (24, 16, 16)),
        ((2, 73, 24), (32, 64), "tokens", 1, (24, 6, 12)),
        ((50, 2, 24), (32, 32), "tokens_first", 1, (24, 7, 7)),
        ((2, 512, 49), (32, 32), "maps_flat", 0, (512, 7, 7)),
        ((2, 40), (32, 32), "vector", 0, (40, 1, 1)),
    ],
)
def test_layouts(shape, image, form, prefix, maps):
    layout = layout_of(shape, image)
    assert (layout.form, layout.prefix) == (form, prefix)
    assert (layout.channels, layout.height, layout.width) == maps


def test_a_convolution_is_channels_first_whatever_its_shape():
    assert layout_of((2, 7, 7, 64)).form == "maps_last"
    assert layout_of((2, 7, 7, 64), layer="1").form == "maps"


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (torch.randn(8, 49, 24), r"it puts out \(8, 49, 24\) of torch.float32; allowed are"),  # windows before images
        (torch.randn(2, 48, 33), r"\(2, 48, 33\)"),  # neither tokens nor flattened maps fill a grid
        (torch.randn(2, 4, 5, 6, 7), r"\(2, 4, 5, 6, 7\)"),
        (torch.randn(2), r"\(2,\)"),
        (torch.randn(8, 24), r"\(8, 24\)"),
        (torch.ones(2, 3, 4, 4, dtype=torch.int64), "torch.int64"),
        (torch.randn(2, 0, 4, 4), r"\(2, 0, 4, 4\)"),
        ("nothing", "a str without tensors"),
        ((None, [torch.randn(8, 3, 2, 2)]), r"\(8, 3, 2, 2\) of torch.float32 \(first tensor of a tuple\)"),
    ],
)
def test_outputs_without_a_map(output, words):
    with pytest.raises(UnmappableActivationError, match=rf"no maps can be made of layer '0': for images \(2, 3, 32, 32\).*{words}"):
        ADAPTER.layout("0", output, torch.randn(2, 3, 32, 32), MODEL)


@given(
    st.sampled_from(["maps", "maps_last", "tokens", "tokens_first", "maps_flat"]), st.integers(2, 5), st.integers(2, 5), st.integers(0, 3)
)
def test_canonical_puts_each_value_in_its_place(form, height, width, prefix):
    batch, channels = 2, 31
    maps = torch.randn(batch, channels, height, width)
    tokens = torch.cat([torch.full((batch, prefix, channels), torch.nan), maps.flatten(2).transpose(1, 2)], dim=1)
    raw = {
        "maps": maps,
        "maps_last": maps.permute(0, 2, 3, 1),
        "tokens": tokens,
        "tokens_first": tokens.transpose(0, 1),
        "maps_flat": maps.flatten(2),
    }[form]
    layout = type(layout_of((2, 40)))("0", form, channels, height, width, prefix=prefix if form.startswith("tokens") else 0)
    for output in (raw, (raw, None), {"hidden": raw}):
        assert torch.equal(ADAPTER.canonical(output, layout), maps)


def test_canonical_refuses_what_does_not_fit():
    layout = layout_of((2, 17, 24))
    for output in (torch.randn(2, 18, 24), torch.randn(2, 17, 23), torch.randn(2, 17), "nothing"):
        with pytest.raises(UnmappableActivationError, match="where preflight had found tokens of 24 channels, 4 x 4 and 1 prefix tokens"):
            ADAPTER.canonical(output, layout)


@given(st.integers(1, 300), st.floats(0.3, 3.0))
def test_the_token_grid_is_the_largest_that_fits(tokens, aspect):
    fitting = [(h, w) for h in range(1, tokens + 1) for w in range(1, tokens + 1) if h * w <= tokens and w == round(h * aspect)]
    expected = max(fitting, key=lambda grid: grid[0] * grid[1], default=(0, 0))
    assert token_grid(tokens, aspect) == expected


def test_more_prefix_tokens_than_any_family_has_are_no_grid():
    assert layout_of((2, 225 + MAX_PREFIX_TOKENS, 31)).prefix == MAX_PREFIX_TOKENS
    with pytest.raises(UnmappableActivationError):
        layout_of((2, 225 + MAX_PREFIX_TOKENS + 1, 31))


def test_a_known_number_of_prefix_tokens_beats_a_larger_grid():
    class Knowing(TorchModuleAdapter):
        def prefix_tokens(self, model: nn.Module) -> int:
            return 5

    tokens, images = torch.randn(2, 9, 24), torch.randn(2, 3, 32, 32)  # 5 + 2 x 2 or 3 x 3
    known, guessed = (adapter.layout("0", tokens, images, MODEL) for adapter in (Knowing(), ADAPTER))
    assert (known.prefix, known.height) == (5, 2)
    assert (guessed.prefix, guessed.height) == (0, 3)


def test_the_general_adapter_answers_for_any_module_and_knows_nothing_beside():
    model = SmallCNN()
    adapter = find_adapter(model)
    assert type(adapter).__name__ == "TorchModuleAdapter"
    assert (adapter.normalization(model), adapter.input_size(model), adapter.class_names(model)) == (None, None, None)
    assert adapter.output_kind(model).name == "categorical"


def test_without_installed_adapters_nobody_answers(monkeypatch):
    monkeypatch.setattr("flint_posthoc.classifier.adapter.ENTRY_POINTS", "flint_posthoc.no_such_group")
    with pytest.raises(UnsupportedClassifierError, match=r"no installed adapter knows what to do with a models\.SmallCNN"):
        find_adapter(SmallCNN())
