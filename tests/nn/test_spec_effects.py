"""Settings of a network that change nothing: refused when it is made, and taken from old files."""

from dataclasses import replace

import pytest
from shallow import RESNET10
from torch import nn

import rsquant
from rsquant.errors import ConfigError

SIZES = (32,)
FLOAT = {"wbits": 32, "abits": 32}


def body():
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), *head)


@pytest.mark.parametrize(
    "settings,message",
    [
        (FLOAT | {"grid": "fine"}, "grid: is of low-bit layers, and this network has none"),
        (FLOAT | {"quantizer": "lsq"}, "quantizer: is of low-bit layers"),
        (FLOAT | {"layer_quantizer": {"*": "lsq"}}, "layer_quantizer: is of low-bit layers"),
        (FLOAT | {"weight_norm": "std"}, "weight_norm: normalises low-bit weights"),
        ({"wbits": 32, "abits": 2, "weight_norm": "std"}, "weight_norm: normalises low-bit"),
    ],
)
def test_what_changes_nothing_is_refused(settings, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        rsquant.create(RESNET10, resolutions=SIZES, width=4, **settings)
    with pytest.raises(ConfigError, match=f"^{message}"):
        rsquant.convert(body(), resolutions=SIZES, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"wbits": 2, "abits": 32, "grid": "fine", "quantizer": "lsq"},
        {"wbits": 32, "abits": 2, "grid": "fine", "quantizer": "lsq"},
        FLOAT | {"layer_bits": {"layer4.*": "2/"}, "quantizer": "lsq", "weight_norm": "std"},
    ],
)
def test_what_changes_one_side_or_some_layers_is_taken(settings):
    rsquant.create(RESNET10, resolutions=SIZES, width=4, **settings)


def test_a_checkpoint_with_such_a_setting_is_read(tmp_path):
    network = rsquant.create(RESNET10, 32, 32, SIZES, 3, width=4)
    network.spec = replace(network.spec, grid="fine")
    rsquant.save(network, tmp_path / "old.safetensors")
    assert rsquant.load(tmp_path / "old.safetensors").spec.grid == "fine"


def test_a_quantizer_for_layers_of_32_bits_is_refused():
    settings = {"layer_bits": {"layer4.*": "32/32"}, "layer_quantizer": {"layer4.*": "lsq"}}
    with pytest.raises(ConfigError, match=r"'layer4.*=lsq' matches only .*: its bits are 32\); "):
        rsquant.create(RESNET10, resolutions=SIZES, width=4, **settings)
