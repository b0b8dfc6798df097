"""Published weights by name; nothing is downloaded."""

import pytest
import torch
from torchvision.models import ResNet18_Weights, resnet18

import rsquant
from rsquant.errors import CheckpointError, ConfigError
from rsquant.models.published import TORCHVISION, published
from rsquant.models.sources import open_network


@pytest.fixture
def offline(monkeypatch):
    """torchvision's own weights, random ones, in place of a download."""
    torch.manual_seed(0)
    tensors = resnet18().state_dict()
    asked = []

    def load(url, **_):
        asked.append(url)
        return tensors

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    return tensors, asked


@pytest.mark.parametrize(
    "source,arch",
    [
        ("torchvision:IMAGENET1K_V1", "resnet18"),
        ("torchvision:ResNet18_Weights.IMAGENET1K_V1", None),
        ("torchvision:resnet18", None),
        ("pretrained", "resnet18"),
        ("pretrained", "torchvision:resnet18"),
    ],
)
def test_every_spelling_means_the_same_weights(source, arch, offline):
    found = published(source, arch)
    assert found.source == "torchvision:ResNet18_Weights.IMAGENET1K_V1"
    assert found.arch == "torchvision:resnet18" and found.mean == (0.485, 0.456, 0.406)
    assert len(found.classes) == 1000
    assert offline[1] == [ResNet18_Weights.IMAGENET1K_V1.url]


def test_post_activation_networks_compute_what_torchvision_s_do(offline):
    model = rsquant.create("resnet18", 32, 32, (64, 32), 1000, stem="imagenet").eval()
    start = rsquant.start_from(model, "pretrained")
    assert not start.missing and not start.unused and not start.replaced
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = open_network("torchvision:resnet18").network(images)
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "source,arch,message",
    [
        ("torchvision:IMAGENET1K_V1", None, "says not of which network"),
        ("torchvision:IMAGENET1K_V9", "resnet18", "there are IMAGENET1K_V1"),
        ("torchvision:ResNet19_Weights.IMAGENET1K_V1", None, "has no weights"),
        ("pretrained", "custom", "nobody publishes"),
    ],
)
def test_what_does_not_exist_is_named(source, arch, message):
    with pytest.raises(ConfigError, match=message) as error:
        published(source, arch)
    # It may be a teacher's: who asks says what for.
    assert "init" not in str(error.value)


def test_without_a_network_one_line_says_what_to_do(monkeypatch):
    def load(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    with pytest.raises(CheckpointError, match=r"download.pytorch.org.* no route .* give a file"):
        published(f"{TORCHVISION}resnet18")
