"""Integer networks whose parameters are none of the start's, beside their ONNX files."""

import numpy as np
import onnx.reference
import torch

import rsquant
from rsquant.data.transforms import normalise
from rsquant.export.engine import run, session
from rsquant.export.integer import to_integer_onnx
from rsquant.export.verify.integers import trace_integers
from rsquant.nn.integer.byte_scale import ByteScale
from rsquant.nn.norm import SwitchableBatchNorm2d


def images(size, count=3):
    generator = torch.Generator().manual_seed(size)
    return normalise(
        torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    )


def lived_in(make):
    """A network with other statistics and scales than the start's, and gammas of both signs."""
    torch.manual_seed(0)
    network = make()
    rsquant.calibrate(network.train(), images(network.resolutions[0]))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, SwitchableBatchNorm2d):
                module.weight.normal_(0.0, 1.0)
                module.weight[:, 0] = 0.0
                module.bias.normal_(0.0, 0.5)
            if isinstance(module, ByteScale):
                module.peak *= torch.rand_like(module.peak) + 0.5
    network.forward_all([images(size) for size in network.resolutions])
    return network.eval()


def each_once(makers):
    """Gives the network of a name, made when it is first asked for."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = lived_in(makers[name])
        return made[name]

    return get


def assert_same_integers(network, size, compat=False):
    """onnxruntime gives every code of every layer, and every logit; returns the graph."""
    x = images(size)
    made = to_integer_onnx(network, size, compat)
    graph = onnx.ModelProto()
    graph.CopyFrom(made.proto)
    with torch.no_grad():
        logits = network(x).numpy()
    assert np.array_equal(run(session(graph.SerializeToString()), x.numpy())[0], logits)
    assert np.ptp(logits) > 0
    with torch.no_grad(), network.at(size):
        trace = trace_integers(network, made.proto, made, x)
    assert (trace.wrong, trace.wrong_at) == (0, "")
    return graph


def assert_same_by_definition(network, size):
    """The evaluator of ONNX itself, by each operator's definition in numpy, gives every logit."""
    x = images(size, 1)
    graph = to_integer_onnx(network, size, compat=True).proto
    found = onnx.reference.ReferenceEvaluator(graph).run(None, {"images": x.numpy()})[0]
    with torch.no_grad():
        assert np.array_equal(found, network(x).numpy())
