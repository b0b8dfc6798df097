"""What an integer grid costs a network, and which kernels its levels leave."""

import pytest
import torch
from shallow import RESNET10

import rsquant
from rsquant.kernels.backends import available
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packed.ops.conv import ConvStep
from rsquant.packing.grid import GridCost, on_grid
from rsquant.packing.write import pack
from rsquant.quantizers.lq import LQActivationQuantizer, LQWeightQuantizer
from rsquant.runtime.cpu.form import eligible_kernels


def create(wbits, abits, grid="none", seed=0):
    torch.manual_seed(seed)
    return rsquant.create(RESNET10, wbits, abits, (32,), 5, width=8, grid=grid).eval()


def weights_of(network):
    return [m for m in network.modules() if isinstance(m, LQWeightQuantizer)]


def test_four_bits_that_are_powers_of_two_lose_nothing():
    cost = on_grid(create(4, 2), "coarse").weights
    assert (cost.bits, cost.limit, cost.merged) == (4, 15, 0)
    assert cost.error < 1e-6
    assert cost.bases == sum(len(m.basis) for m in weights_of(create(4, 2)))


def test_levels_that_become_equal_are_counted_by_basis():
    network = create(4, 2)
    first, second = weights_of(network)[:2]
    # 16 different levels within 15 are those of 1, 2, 4, 8 alone.
    first.basis[0] = torch.tensor([0.1, 0.15, 0.2, 0.9])
    second.basis[:3] = torch.tensor([0.1, 0.1, 0.4, 0.8])
    made = on_grid(network, "coarse")
    assert made.weights.merged == 4
    assert 0 < made.weights.error < 0.1
    fine = on_grid(network, "fine").weights
    assert (fine.limit, fine.merged) == (127, 3)
    assert fine.error < made.weights.error


def test_the_error_is_that_of_the_levels():
    network = create(2, 2)
    for module in network.modules():
        if isinstance(module, (LQWeightQuantizer, LQActivationQuantizer)):
            module.basis.copy_(module.basis * 0 + torch.tensor([1.0, 2.3]))
    made = on_grid(network, "coarse")
    # 3 : 7 is the nearest within 14 and 15; its levels, weights: +-10 and +-4 times 19.1 / 58.
    levels, scale = torch.tensor([3.3, 1.3]), 19.1 / 58
    error = (levels - scale * torch.tensor([10.0, 4.0])).norm() / levels.norm()
    assert made.weights.error == pytest.approx(float(error), rel=1e-4)
    assert made.activations.bases == 8
    assert 0 < made.activations.error < 0.02


def test_a_network_trained_on_a_grid_says_its_limit_and_no_error():
    made = on_grid(create(4, 3, "coarse"), "fine")
    assert not made.snapped
    assert made.weights == GridCost(4, 15, 0.0, 0, made.weights.bases)
    assert (made.activations.bits, made.activations.limit) == (3, 15)


def test_the_result_of_packing_has_the_cost(tmp_path):
    result = pack(create(4, 2), tmp_path / "a.rsq")
    assert (result.weights.limit, result.weights.merged) == (15, 0)
    assert result.activations.bits == 2


@pytest.mark.parametrize("isa", [isa.name for isa in available() if isa.usable])
@pytest.mark.parametrize(("values", "limit"), [((3, 11), 14), ((1, 2, 4, 8), 15)])
def test_levels_of_15_keep_winograd_in_bytes_away(tmp_path, isa, values, limit):
    network = create(len(values), 2)
    for module in weights_of(network):
        module.basis.copy_(0.01 * torch.tensor(values).expand_as(module.basis))
    path = tmp_path / "a.rsq"
    pack(network, path)
    packed = open_packed(path)
    assert set(packed.weight_limits.values()) == {limit}
    steps = build_program(packed, 32, 32).steps
    shapes = [s.form for s in steps if isinstance(s, ConvStep) and s.planes is not None]
    names = [eligible_kernels(isa, shape) for shape in shapes]
    assert all(names)
    # 9 * 14 fits a signed byte, 9 * 15 does not.
    can = isa == "avx512vnni" and limit == 14
    assert any("winograd2" in of_step for of_step in names) is can
