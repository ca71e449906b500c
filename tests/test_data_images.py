import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.data import DATASETS, load
from secateur.data.images import Augmentation, ImageData, Split, hold_out
from secateur.errors import DataError, UsageError

PLAIN = Augmentation()


def noise(count: int, height: int = 6, width: int = 7, channels: int = 3) -> Split:
    """Images of noise; the label of each is its own number."""
    images = np.random.default_rng(count).integers(0, 256, (count, height, width, channels))
    return Split(torch.from_numpy(images.astype(np.uint8)), torch.arange(count))


def made(count: int = 50, augmentation: Augmentation = PLAIN, *, raw: bool = True) -> ImageData:
    """Noise whose labels tell the images apart; with `raw`, networks see pixel / 255."""
    return ImageData(
        name="noise",
        train=noise(count),
        validation=noise(7),
        test=noise(11),
        classes=tuple(str(i) for i in range(max(count, 11))),
        mean=(0.0, 0.0, 0.0) if raw else (0.3, 0.5, 0.6),
        std=(1.0, 1.0, 1.0) if raw else (0.2, 0.25, 0.3),
        augmentation=augmentation,
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(x: torch.Tensor) -> np.ndarray:
    """Raw pixels [B, H, W, C] of a batch that was normalised with mean 0 and std 1."""
    return (x.permute(0, 2, 3, 1) * 255).round().numpy().astype(np.uint8)


def variants(image: np.ndarray, augmentation: Augmentation) -> dict[bytes, tuple[int, int, bool]]:
    """Every image that `augmentation` may make of `image` without a cutout, by padding it."""
    pad, (height, width, _) = augmentation.pad, image.shape
    mode = "reflect" if augmentation.fill == "reflect" else "constant"
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    found = {}
    for row in range(2 * pad + 1):
        for column in range(2 * pad + 1):
            crop = padded[row : row + height, column : column + width]
            found[crop.tobytes()] = (row, column, False)
            if augmentation.flip:
                found[np.ascontiguousarray(crop[:, ::-1]).tobytes()] = (row, column, True)
    return found


@settings(deadline=None, max_examples=30)
@given(
    pad=st.integers(0, 5),
    fill=st.sampled_from(["reflect", "black"]),
    flip=st.booleans(),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 2**31),
)
def test_every_training_image_is_a_shift_or_flip_of_its_original(pad, fill, flip, batch_size, seed):
    data = made(12, Augmentation(pad=pad, fill=fill, flip=flip))
    originals = data.train.images.numpy()
    for x, labels in data.epoch(batch_size, seeded(seed)):
        for image, label in zip(pixels(x), labels.tolist(), strict=True):
            assert image.tobytes() in variants(originals[label], data.augmentation)


def test_every_shift_and_flip_is_drawn_about_equally_often():
    augmentation = Augmentation(pad=1, flip=True)
    data = made(9000, augmentation)
    seen: dict[tuple[int, int, bool], int] = {}
    for x, labels in data.epoch(9000, seeded()):
        for image, label in zip(pixels(x), labels.tolist(), strict=True):
            kind = variants(data.train.images[label].numpy(), augmentation)[image.tobytes()]
            seen[kind] = seen.get(kind, 0) + 1
    assert len(seen) == 18
    assert min(seen.values()) > 400
    assert max(seen.values()) < 600


@pytest.mark.parametrize("side", [1, 2, 3, 20])
def test_cutout_sets_one_square_to_the_mean_colour_and_nothing_else(side):
    data = made(400, raw=False)
    cut = dataclasses.replace(data, augmentation=Augmentation(cutout=side))
    (plain, _), (x, _) = next(data.epoch(400, seeded())), next(cut.epoch(400, seeded()))
    changed = (plain != x).any(1)
    assert (x.movedim(1, -1)[changed] == 0).all()
    for image in changed:
        rows, columns = torch.nonzero(image.any(1)).flatten(), torch.nonzero(image.any(0)).flatten()
        assert 1 <= len(rows) <= side
        assert 1 <= len(columns) <= side
        assert image.sum() == len(rows) * len(columns)  # a full rectangle
        inside = rows[0] > 0 and rows[-1] < 5 and columns[0] > 0 and columns[-1] < 6
        assert not inside or len(rows) == len(columns) == side
    centres = changed.any(0)
    assert centres.all()  # every pixel is cut in some image


def test_an_epoch_covers_each_training_image_once_in_a_new_order():
    data, generator = made(50), seeded()
    first = torch.cat([labels for _, labels in data.epoch(10, generator)])
    second = torch.cat([labels for _, labels in data.epoch(10, generator)])
    assert sorted(first.tolist()) == list(range(50)) == sorted(second.tolist())
    assert first.tolist() != second.tolist()


def test_the_incomplete_last_batch_is_dropped_unless_it_is_the_only_one():
    data = made(50)
    assert [len(x) for x, _ in data.epoch(20, seeded())] == [20, 20]
    assert data.batches_per_epoch(20) == 2
    assert [len(x) for x, _ in data.epoch(64, seeded())] == [50]
    assert data.batches_per_epoch(64) == 1


def test_the_generator_alone_decides_what_is_drawn():
    data = made(30, Augmentation(pad=2, flip=True, cutout=2))
    for a, b in zip(data.epoch(8, seeded(3)), data.epoch(8, seeded(3)), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    x, _ = next(data.epoch(30, seeded(3)))
    assert not torch.equal(x, next(data.epoch(30, seeded(4)))[0])


def test_draws_depend_neither_on_the_batch_size_nor_on_finishing_the_pass():
    data = made(32, Augmentation(pad=2, flip=True, cutout=2))
    whole, _ = next(data.epoch(32, seeded()))
    pieces = torch.cat([x for x, _ in data.epoch(8, seeded())])
    assert torch.equal(whole, pieces)
    abandoned, finished = seeded(), seeded()
    next(data.epoch(8, abandoned))
    list(data.epoch(8, finished))
    assert torch.equal(abandoned.get_state(), finished.get_state())


def test_batches_are_float32_channels_last_and_normalised():
    data = made(20, raw=False)
    x, labels = next(data.epoch(20, seeded()))
    assert x.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert x.shape == (20, 3, 6, 7) == (20, *data.shape)
    assert x.is_contiguous(memory_format=torch.channels_last)
    scaled = data.train.images[labels].double() / 255
    expected = (scaled - torch.tensor(data.mean)) / torch.tensor(data.std)
    torch.testing.assert_close(x, expected.permute(0, 3, 1, 2).float(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_gives_every_image_in_order_and_unaugmented(split):
    data = made(20, Augmentation(pad=2, flip=True, cutout=3))
    batches = list(data.evaluation(split, batch_size=4))
    part = getattr(data, split)
    assert [len(x) for x, _ in batches][:-1] == [4] * (len(batches) - 1)
    assert torch.equal(torch.cat([labels for _, labels in batches]), part.labels)
    images = np.concatenate([pixels(x) for x, _ in batches])
    assert np.array_equal(images, part.images.numpy())
    assert batches[0][0].is_contiguous(memory_format=torch.channels_last)


def test_calibration_gives_different_training_images_augmented_as_in_training():
    data = made(40, Augmentation(pad=2, fill="black", flip=True))
    batches = list(data.calibration(25, 10, seeded()))
    assert [len(x) for x in batches] == [10, 10, 5]
    kinds = [variants(image.numpy(), data.augmentation) for image in data.train.images]
    found = [
        next((i, kind[image.tobytes()]) for i, kind in enumerate(kinds) if image.tobytes() in kind)
        for x in batches
        for image in pixels(x)
    ]
    assert len({number for number, _ in found}) == 25
    assert len({how for _, how in found}) > 10
    again = torch.cat(list(data.calibration(25, 25, seeded())))
    assert torch.equal(again, torch.cat(batches))


def test_calibration_takes_all_images_when_there_are_fewer():
    assert [len(x) for x in made(40).calibration(41, 30, seeded())] == [30, 10]


@pytest.mark.parametrize("count", [0, -1])
def test_calibration_on_an_impossible_number_of_images_is_refused(count):
    with pytest.raises(UsageError, match="at least 1"):
        made(40).calibration(count, 10, seeded())


def test_impossible_requests_are_refused_when_they_are_made():
    data = made(10)
    with pytest.raises(UsageError, match="batch_size is 0"):
        data.epoch(0, seeded())
    with pytest.raises(UsageError, match="batch_size is -2"):
        data.evaluation("test", -2)
    with pytest.raises(UsageError, match="'validation' or 'test'"):
        data.evaluation("train")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="pad=6 must be smaller than the 6x7 images"):
        dataclasses.replace(data, augmentation=Augmentation(pad=6))
    with pytest.raises(UsageError, match="pad=-1"):
        Augmentation(pad=-1)
    with pytest.raises(UsageError, match="'mirror'"):
        Augmentation(fill="mirror")  # type: ignore[arg-type]


def test_parts_that_do_not_fit_are_refused():
    data, few = made(10), noise(3)
    with pytest.raises(DataError, match="uint8"):
        Split(few.images.float(), few.labels)
    with pytest.raises(DataError, match="contiguous"):
        Split(few.images.flip(1).transpose(1, 2), few.labels)
    with pytest.raises(DataError, match="one for each image"):
        Split(few.images, few.labels[:2])
    with pytest.raises(DataError, match="one shape"):
        dataclasses.replace(data, test=noise(3, height=5))
    with pytest.raises(DataError, match="no images"):
        dataclasses.replace(data, validation=noise(0))
    with pytest.raises(DataError, match="0 to 10, but there are 10 classes"):
        dataclasses.replace(data, classes=data.classes[:10])
    with pytest.raises(DataError, match="above 0"):
        dataclasses.replace(data, std=(1.0, 0.0, 1.0))
    with pytest.raises(DataError, match="one entry for each of 3 channels"):
        dataclasses.replace(data, mean=(1.0,))


def test_the_fingerprint_changes_with_contents_split_and_normalisation_only():
    data = made(10)
    assert made(10).fingerprint == data.fingerprint
    recipe = dataclasses.replace(data, augmentation=Augmentation(pad=1))
    assert recipe.fingerprint == data.fingerprint
    image = data.train.images.clone()
    image[3, 2, 1, 0] ^= 1
    others = [
        dataclasses.replace(data, train=Split(image, data.train.labels)),
        dataclasses.replace(data, train=Split(data.train.images, data.train.labels.flip(0))),
        dataclasses.replace(data, validation=data.test, test=data.validation),
        dataclasses.replace(data, mean=(0.1, 0.0, 0.0)),
        dataclasses.replace(data, std=(1.0, 1.0, 0.9)),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_to_keeps_data_that_is_already_there():
    data = made(10)
    assert data.to("cpu") is data
    assert data.to(torch.device("cpu")) is data


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(2, 10))
def test_hold_out_takes_the_last_of_each_class(labels, part):
    held = hold_out(torch.tensor(labels), part).tolist()
    for label in set(labels):
        flags = [flag for flag, other in zip(held, labels, strict=True) if other == label]
        count = len(flags) // part
        assert flags == [False] * (len(flags) - count) + [True] * count


def test_an_unknown_data_set_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="'mnist'; there are cifar10, digits, fashion_mnist"):
        load("mnist")
    assert sorted(DATASETS) == ["cifar10", "digits", "fashion_mnist"]


@pytest.mark.gpu
def test_a_gpu_draws_and_gives_what_the_cpu_does():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    data = made(32, Augmentation(pad=2, fill="black", flip=True, cutout=3), raw=False)
    there = data.to("cuda")
    assert there.fingerprint == data.fingerprint
    for (x, labels), (y, others) in zip(
        data.epoch(8, seeded()), there.epoch(8, seeded()), strict=True
    ):
        assert y.is_cuda
        assert torch.equal(labels, others.cpu())
        torch.testing.assert_close(x, y.cpu(), rtol=1e-5, atol=1e-6)
