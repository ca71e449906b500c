"""Built-in networks: sizes as published, any image, repeatable, trainable, exportable."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur import nets
from secateur.errors import UsageError

NAMES = sorted(nets.NETS)
SHAPES = [(3, 32, 32), (1, 8, 8), (3, 64, 64)]
SMALLEST = {"resnet18": 8, "resnet20": 4, "resnet32": 4, "resnet56": 4, "vgg16": 32, "mlp": 1}


def smallest(name):
    return SMALLEST.get(name, 4)


def built(name, seed=0, **options):
    torch.manual_seed(seed)
    return nets.build(name, **options)


def trained(model):
    """The parameters that are not fixed, as dctnet's first layer is."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


# resnet20 to resnet56: 0.27 M, 0.46 M and 0.85 M in Table 6 of He et al. (2015); resnet18 and
# vgg16: 11.17 M and 14.7 M in the CIFAR-10 repositories that are usually compared with. The
# vgg16 of 14,728,266 often quoted has 4,224 convolution biases more, which batch norm removes.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mlp", 1_708_042),
        ("convnet-s", 96_058),
        ("convnet", 381_034),
        ("convnet-l", 1_517_770),
        ("dctnet-s", 258_954),
        ("dctnet", 1_015_274),
        ("resnet18", 11_173_962),
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet56", 853_018),
        ("vgg16", 14_728_266 - 4_224),
    ],
)
def test_parameters_are_as_many_as_known(name, parameters):
    assert count(nets.build(name)) == parameters


def test_every_family_is_found():
    assert set(NAMES) >= {"mlp", "convnet", "resnet18", "resnet20", "vgg16"}


@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, shape) for name in NAMES for shape in SHAPES if shape[1] >= smallest(name)],
)
def test_logits_and_gradients(name, shape):
    model = built(name, input_shape=shape, classes=7)
    images = torch.randn(2, *shape).contiguous(memory_format=torch.channels_last)
    logits = model(images)
    assert logits.shape == (2, 7)
    assert logits.dtype == torch.float32
    logits.square().sum().backward()
    for parameter_name, parameter in trained(model).items():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert parameter.grad.count_nonzero() > 0, parameter_name


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["mlp", "convnet-s", "dctnet-s", "resnet20"]),
    channels=st.integers(1, 5),
    height=st.integers(4, 40),
    width=st.integers(4, 40),
    classes=st.integers(2, 12),
)
def test_any_image_at_least_as_large_as_the_smallest(name, channels, height, width, classes):
    model = built(name, input_shape=(channels, height, width), classes=classes)
    assert model(torch.randn(2, channels, height, width)).shape == (2, classes)


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_image_works_and_a_smaller_one_is_refused(name):
    least = smallest(name)
    model = built(name, input_shape=(1, least, least)).eval()
    assert model(torch.randn(1, 1, least, least)).shape == (1, 10)
    if least == 1:
        return
    with pytest.raises(UsageError, match=f"{least}x{least - 1} is too small"):
        nets.build(name, input_shape=(1, least, least - 1))


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_weights(name):
    first, again, other = (built(name, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", NAMES)
def test_memory_formats_and_bf16_agree(name):
    model = built(name).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        plain = model(images)
        last = model(images.contiguous(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-4 * plain.abs().max().item())
    assert half.dtype == torch.bfloat16
    # bf16 keeps 8 bits of a number; what is left after the deepest net here is still near 1 %.
    assert (half.float() - plain).norm() < 0.05 * plain.norm()


@pytest.mark.parametrize("name", NAMES)
def test_trains_in_bf16(name):
    model = built(name)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    logits.float().logsumexp(1).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in trained(model).values())


@pytest.mark.parametrize("name", ["mlp", "convnet-s", "dctnet-s", "resnet20"])
def test_the_whole_graph_can_be_exported(name):
    model = built(name).eval()
    images = torch.randn(2, 3, 32, 32)
    batch = {0: torch.export.Dim("batch", min=1, max=1024)}
    program = torch.export.export(model, (images,), dynamic_shapes=(batch,))
    more = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(program.module()(more), model(more))


@pytest.mark.parametrize("name", NAMES)
def test_no_layer_has_a_bias_that_batch_norm_removes(name):
    model = nets.build(name)
    biased = [
        layer
        for layer, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None
    ]
    assert biased == ["linear"]


def test_dctnet_begins_with_an_orthonormal_basis_that_training_leaves_alone():
    patches = built("dctnet", input_shape=(2, 8, 8)).patches.weight
    assert not patches.requires_grad
    basis, negative = patches.flatten(1).double().chunk(2)
    torch.testing.assert_close(basis @ basis.T, torch.eye(8, dtype=torch.float64))
    assert torch.equal(negative, -basis)
    assert (patches[0] == patches[0, 0, 0, 0]).all()  # the mean of a patch


def test_he_initialisation():
    model = built("resnet18")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
            assert abs(module.weight.mean().item()) < 0.1 * (2 / fan_out) ** 0.5


def test_resnet20_has_the_names_of_its_paper_form():
    names = {name.removesuffix(".weight") for name, _ in nets.build("resnet20").named_parameters()}
    names = {name for name in names if not name.endswith(".bias")}
    blocks = {
        f"layer{layer}.{block}.{part}"
        for layer in (1, 2, 3)
        for block in (0, 1, 2)
        for part in ("conv1", "bn1", "conv2", "bn2")
    }
    assert names == blocks | {"conv1", "bn1", "linear"}


def test_shortcut_without_parameters_subsamples_and_pads_on_both_sides():
    shortcut = nets.build("resnet20").layer2[0].shortcut
    x = torch.randn(2, 16, 5, 6)
    out = shortcut(x)
    assert out.shape == (2, 32, 3, 3)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_unknown_net_lists_the_known():
    with pytest.raises(UsageError, match="no net 'resnet21'") as caught:
        nets.build("resnet21")
    assert all(name in str(caught.value) for name in NAMES)
    with pytest.raises(UsageError):
        nets.find("")


@pytest.mark.parametrize("shape", [(32, 32), (3, 32, 0), (3, 32, 32.0), (0, 8, 8), (1, 2, 3, 4)])
def test_shapes_that_are_no_images(shape):
    with pytest.raises(UsageError, match=r"input_shape is .* \(channels, height, width\)"):
        nets.build("mlp", input_shape=shape)


@pytest.mark.parametrize("classes", [1, 0, -3, 2.5])
def test_too_few_classes(classes):
    with pytest.raises(UsageError, match=r"classes is .* at least 2"):
        nets.build("mlp", classes=classes)
