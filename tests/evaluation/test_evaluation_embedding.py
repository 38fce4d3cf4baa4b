from __future__ import annotations

import math

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from facezoo.evaluation import embed_images


class Tiny(nn.Module):
    """A network whose embedding sees left and right apart; `forward` gives something else than `embed`."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(3 * 8 * 8, 5)
        self.seen_modes: list[tuple[bool, bool]] = []

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        self.seen_modes.append((self.training, torch.is_inference_mode_enabled()))
        return self.linear(self.drop(self.norm(x)).flatten(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), 2)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tiny()


@pytest.fixture
def images():
    return torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def _by_hand(model, x):
    modes = [module.training for module in model.modules()]
    model.eval()
    with torch.no_grad():
        out = model.embed(x)
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return out


def _unit(x):
    return x / x.norm(dim=1, keepdim=True)


def test_flip_variants_are_fused_first_and_scaled_after(model, images):
    plain, mirrored = _by_hand(model, images), _by_hand(model, images.flip(-1))
    assert not torch.allclose(plain, mirrored)
    expected = {
        "none": _unit(plain),
        "sum": _unit(plain + mirrored),
        "concat": _unit(torch.cat([plain, mirrored], dim=1)),
    }
    for flip, want in expected.items():
        torch.testing.assert_close(embed_images(model, images, flip=flip, batch_size=3), want)
    # The variants are not the same thing.
    cosines = {flip: (value @ value.T)[0, 1].item() for flip, value in expected.items()}
    assert abs(cosines["sum"] - cosines["concat"]) > 1e-3


def test_normalize_false_gives_the_raw_embeddings(model, images):
    torch.testing.assert_close(embed_images(model, images, normalize=False), _by_hand(model, images))


def test_every_submodule_gets_its_mode_back(model, images):
    model.train()
    model.norm.eval()  # frozen normalization inside a network in training
    statistics = model.norm.running_mean.clone()
    embed_images(model, images, batch_size=4)
    assert model.seen_modes == [(False, True)] * 2
    assert (model.training, model.norm.training, model.drop.training) == (True, False, True)
    assert torch.equal(model.norm.running_mean, statistics)


def test_mode_comes_back_after_an_error(model, images):
    model.train()
    with pytest.raises(RuntimeError):
        embed_images(model, images[:, :2])  # wrong number of channels
    assert model.training
    assert model.drop.training


def test_result_is_an_ordinary_float32_tensor(model, images):
    embeddings = embed_images(model.double(), images.double())
    assert embeddings.dtype == torch.float32
    assert embeddings.device.type == "cpu"
    weight = torch.ones(5, requires_grad=True)
    (embeddings * weight).sum().backward()  # an inference tensor could not be saved for this
    assert weight.grad is not None


def test_any_callable_and_module_without_embed(images):
    flatten = nn.Flatten()
    want = _unit(images.flatten(1))
    torch.testing.assert_close(embed_images(flatten, images), want)
    torch.testing.assert_close(embed_images(lambda x: x.flatten(1), images, batch_size=2), want)


def test_labeled_datasets_and_workers(model, images):
    labeled = TensorDataset(images, torch.arange(7))
    want = embed_images(model, images)
    torch.testing.assert_close(embed_images(model, labeled), want)
    torch.testing.assert_close(embed_images(model, labeled, num_workers=1, batch_size=3), want)


def test_batch_size_does_not_change_the_result(model, images):
    torch.testing.assert_close(embed_images(model, images, batch_size=1), embed_images(model, images, batch_size=100))


def test_global_random_state_is_left_alone(model, images):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    embed_images(model, images)
    assert torch.equal(torch.get_rng_state(), before)


def test_autocast_computes_in_that_dtype(images):
    seen = []

    class Spy(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    network = nn.Sequential(nn.Flatten(), Spy(192, 4))
    embeddings = embed_images(network, images, autocast=torch.bfloat16)
    assert seen == [torch.bfloat16]
    assert embeddings.dtype == torch.float32


def test_files_are_read_with_the_preprocessing_of_the_model(tmp_path, model):
    from facezoo.data import eval_transform
    from facezoo.models import Preprocessing

    paths = []
    for index in range(3):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (8, 8), (80 * index, 10, 200)).save(path)
        paths.append(path)
    model.preprocessing = Preprocessing(img_size=(8, 8), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    transform = eval_transform(model.preprocessing)
    tensors = torch.stack([transform(Image.open(path)) for path in paths])
    torch.testing.assert_close(embed_images(model, paths), embed_images(model, tensors))
    torch.testing.assert_close(embed_images(model, [str(path) for path in paths]), embed_images(model, tensors))
    other = embed_images(model, paths, transform=eval_transform(Preprocessing(img_size=(8, 8))))
    assert not torch.allclose(other, embed_images(model, tensors))


class _Items(Dataset):
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_errors_say_what_to_do(model, images):
    with pytest.raises(ValueError, match="none, sum, concat; got 'mirror'"):
        embed_images(model, images, flip="mirror")
    with pytest.raises(ValueError, match="empty"):
        embed_images(model, images[:0])
    with pytest.raises(ValueError, match="batch_size"):
        embed_images(model, images, batch_size=0)
    with pytest.raises(TypeError, match=r"single path 'a.jpg'; put it in a list"):
        embed_images(model, "a.jpg")
    with pytest.raises(TypeError, match="map-style"):
        embed_images(model, iter(images))
    with pytest.raises(ValueError, match="transform applies to a list of files only"):
        embed_images(model, images, transform=lambda image: image)
    with pytest.raises(TypeError, match=r"as Image, not tensors; build it with transform=facezoo.data.eval_transform"):
        embed_images(model, _Items(Image.new("RGB", (8, 8))))
    with pytest.raises(TypeError, match=r"torch.uint8 images.*eval_transform"):
        embed_images(model, torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="differing size"):
        embed_images(model, _Items(torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)))
    with pytest.raises(TypeError, match=r"\(7, D\) for 7 images; got .*\(7, 3, 8, 8\)"):
        embed_images(nn.Identity(), images)
    with pytest.raises(TypeError, match="got a dictionary of left, right"):
        embed_images(lambda x: {"left": x, "right": x}, images)
    with pytest.raises(TypeError, match="got tuple"):
        embed_images(lambda x: (), images)
    with pytest.raises(TypeError, match="got int"):
        embed_images(3, images)


def test_nan_embeddings_name_the_image(model, images):
    images[4, 0, 0, 0] = math.nan
    with pytest.raises(RuntimeError, match="image 4 is NaN"):
        embed_images(model, images, batch_size=3)
