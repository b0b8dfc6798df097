"""Which bits and quantizer a layer has, from patterns of names."""

import pytest

from rsquant.errors import ConfigError
from rsquant.nn.precision import (
    LayerBits,
    Precision,
    Precisions,
    parse_layer_bits,
    parse_layer_quantizer,
)

LAYERS = {"stem": "reads the image", "a.0.conv": None, "a.1.conv": None, "b.conv": None}
BLOCKS = ("a.act", "b.act")


def precisions(bits=None, quantizers=None, wbits=2, abits=2):
    return Precisions(
        Precision(wbits, abits, "lq"),
        parse_layer_bits(bits),
        parse_layer_quantizer(quantizers),
    )


@pytest.mark.parametrize(
    "bits,name,expected",
    [
        ({"a.*": (4, 3)}, "a.0.conv", (4, 3)),
        ({"a.*": (4, 3)}, "b.conv", (2, 2)),
        ({"*": "4/4", "a.*": "1/1"}, "a.1.conv", (1, 1)),
        ({"*": "4/4", "a.*": "1/1"}, "b.conv", (4, 4)),
        # A side that is left out stays as an earlier pattern had it.
        ({"*": "4/4", "a.*": "1/"}, "a.1.conv", (1, 4)),
        ({"a.*": (None, 3)}, "a.1.conv", (2, 3)),
        ({"a.[0-9].conv": "32/32"}, "a.1.conv", (32, 32)),
        ({"A.*": "4/4"}, "a.1.conv", (2, 2)),
    ],
)
def test_the_last_pattern_that_matches_wins(bits, name, expected):
    found = precisions(bits).of(name)
    assert (found.wbits, found.abits) == expected


def test_quantizers_follow_patterns_of_their_own():
    found = precisions({"a.*": (4, 4)}, {"*": "uniform", "b.*": "lsq"})
    assert found.of("a.0.conv") == Precision(4, 4, "uniform")
    assert found.of("b.conv") == Precision(2, 2, "lsq")


@pytest.mark.parametrize(
    "value", ["4", "4/4/4", "a/b", "/", "", "8/8", "2/-1", "0/2", (2,), (2, 2.0), (True, 2), None]
)
def test_bits_that_no_layer_can_have_are_refused(value):
    with pytest.raises(ConfigError, match=r"layer_bits: 'a\.\*' needs bits .* like 4/4"):
        parse_layer_bits({"a.*": value})


@pytest.mark.parametrize("given", [["a.*"], "a.*=4/4", {3: "4/4"}, {"": "4/4"}])
def test_what_maps_no_patterns_is_refused(given):
    with pytest.raises(
        ConfigError, match=r"layer_bits: (must map patterns|a pattern must be text)"
    ):
        parse_layer_bits(given)


def test_an_unknown_quantizer_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'unifrom'; did you mean 'uniform'\?"):
        parse_layer_quantizer({"a.*": "unifrom"})


@pytest.mark.parametrize(
    "bits,message",
    [
        ({"a.2.conv": "4/4"}, r"'a.2.conv' matches no layer; the nearest are a\.[01]\.conv, "),
        ({"stem": "4/4"}, r"'stem=4/4' matches only layers .* \(stem: reads the image\)"),
        ({"s*": "4/32"}, "matches only layers that stay in float32"),
        ({"a.*": "4/4", "*": "3/3"}, r"'a\.\*=4/4' has no effect"),
        ({"a.*": "4/4", "*.conv": "/3", "a.?.conv": "3/"}, r"'a\.\*=4/4' has no effect"),
        ({"*": "32/2"}, "leaves no layer with wbits below 32"),
        ({"*": "/32"}, "leaves no layer with abits below 32"),
        ({"b.act": "2/4"}, r"names an activation quantizer \(b.act\).* give it as b\.act=/4"),
    ],
)
def test_a_pattern_that_means_nothing_is_refused(bits, message):
    with pytest.raises(ConfigError, match=message):
        precisions(bits).check(LAYERS, BLOCKS)


@pytest.mark.parametrize(
    "bits", [{"stem": "32/32"}, {"*": "4/4", "a.*": "3/"}, {"b.act": "/4"}, {"b*": "32/32"}]
)
def test_a_pattern_with_an_effect_is_taken(bits):
    precisions(bits).check(LAYERS, BLOCKS)


def test_a_pattern_of_quantizers_without_effect_is_refused():
    found = precisions(None, {"stem": "lsq"})
    with pytest.raises(ConfigError, match="layer_quantizer: 'stem=lsq' matches only layers"):
        found.check(LAYERS, BLOCKS)


def shared(found, *readers):
    return found.of_shared("a.act", readers, list(LAYERS))


def test_a_quantizer_of_a_block_is_as_the_layers_that_read_it():
    found = precisions({"b.*": "/4"}, {"b.*": "lsq"})
    assert shared(found, "b.conv") == (4, "lsq")
    assert shared(found, "a.0.conv", "a.1.conv") == (2, "lq")


def test_readers_that_differ_are_named_with_their_quantizer():
    message = r"a\.0\.conv and b\.conv share .* a\.act, .* 2 and 4 bits; .* a\.act=/2"
    with pytest.raises(ConfigError, match=message):
        shared(precisions({"b.*": "/4"}), "a.0.conv", "b.conv")
    with pytest.raises(ConfigError, match=r"layer_quantizer: .* lq and lsq"):
        shared(precisions(None, {"b.*": "lsq"}), "a.0.conv", "b.conv")


def test_a_pattern_that_names_the_quantizer_wins_over_its_readers():
    found = precisions({"*.act": "/3", "b.*": "/4"}, {"a.act": "uniform"})
    assert shared(found, "a.0.conv", "b.conv") == (3, "uniform")


def test_a_pattern_of_layers_does_not_mean_quantizers_below_the_same_name():
    # a.act is named as layers of a are, and read by b.
    assert shared(precisions({"a.*": "/4"}), "b.conv") == (2, "lq")


def test_a_pattern_shows_itself_as_it_is_given():
    assert str(LayerBits("a.*", 4, None)) == "a.*=4/"
    assert str(LayerBits("a.*", None, 4)) == "a.*=/4"
