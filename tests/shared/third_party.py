"""Quantizers as somebody else may write them."""

import torch

from rsquant.quantizers import ActivationQuantizer, IntegerForm, WeightQuantizer, straight_through


class HalvingWeights(WeightQuantizer):
    """Levels -1.5 s, -0.5 s, 0.5 s, 1.5 s of one fixed step; no integer form."""

    def __init__(self, out_channels, bits, grid=None):
        super().__init__(bits, grid)
        self.register_buffer("step", torch.ones(out_channels))

    def start_from(self, weight):
        self.step.copy_(weight.detach().float().flatten(1).abs().mean(1).clamp_min(1e-6))

    def levels(self):
        number = torch.arange(2**self.bits) - (2**self.bits - 1) / 2
        return self.step.unsqueeze(-1) * number

    def forward(self, weight):
        taken = self.levels().gather(1, self.codes(weight.detach()).flatten(1)).view_as(weight)
        return straight_through(weight, taken)


class HalvingActivations(ActivationQuantizer):
    """Levels up to 2, or from -2; no integer form."""

    def __init__(self, bits, signed=False, grid=None):
        super().__init__(bits, signed, grid)
        self.register_buffer("top", torch.tensor(2.0))

    def start_from(self, x):
        return 1.0, 1.0

    def levels(self):
        return self.top * torch.linspace(-1.0 if self.signed else 0.0, 1.0, 2**self.bits)

    def forward(self, x):
        taken = torch.bucketize(x.detach().float().contiguous(), self.thresholds())
        return straight_through(x, self.levels()[taken])


class TernaryWeights(WeightQuantizer):
    """Levels -s, 0, s of each output channel, three of 2 bits; 0 up to 0.7 of the mean size.

    Source: ternary weight networks (arXiv 1605.04711).
    """

    def __init__(self, out_channels, bits, grid=None):
        super().__init__(2, grid)
        self.register_buffer("size", torch.ones(out_channels))
        self.register_buffer("edge", torch.full((out_channels,), 0.5))

    def start_from(self, weight):
        sizes = weight.detach().float().flatten(1).abs()
        self.edge.copy_(0.7 * sizes.mean(1).clamp_min(1e-6))
        large = sizes > self.edge.unsqueeze(1)
        mean = (sizes * large).sum(1) / large.sum(1).clamp_min(1)
        self.size.copy_(mean.clamp_min(1e-6))

    def levels(self):
        return self.size.unsqueeze(-1) * torch.tensor([-1.0, 0.0, 1.0])

    def thresholds(self):
        return self.edge.unsqueeze(-1) * torch.tensor([-1.0, 1.0])

    def on_grid(self):
        rows = len(self.size)
        basis, patterns = torch.ones(rows, 2).long(), torch.tensor([0, 1, 3]).expand(rows, 3)
        return IntegerForm(basis, torch.full((rows,), -1), self.size, patterns)

    def forward(self, weight):
        taken = self.levels().gather(1, self.codes(weight.detach()).flatten(1)).view_as(weight)
        return straight_through(weight, taken)


class EdgedActivations(ActivationQuantizer):
    """Equal steps, taken at thresholds that are not halfway between them."""

    def __init__(self, bits, signed=False, grid=None):
        super().__init__(bits, signed, grid)
        self.register_buffer("step", torch.tensor(0.5))
        places = torch.arange(2**bits - 1) + 0.5
        self.register_buffer("edges", places + 0.3 * torch.cos(3.0 * places))

    def fit(self, values):
        self.step.copy_(values.abs().mean() / 2**self.bits * 2)

    def _numbers(self):
        return torch.arange(2**self.bits) - (2 ** (self.bits - 1) if self.signed else 0)

    def levels(self):
        return self.step * self._numbers()

    def thresholds(self):
        return self.step * (self.edges + self._numbers()[0])

    def on_grid(self):
        """The offset of signed levels is a number like any other."""
        patterns = torch.arange(2**self.bits)
        return IntegerForm(2 ** torch.arange(self.bits), self._numbers()[0], self.step, patterns)

    def forward(self, x):
        taken = torch.bucketize(x.detach().float().contiguous(), self.thresholds())
        return straight_through(x, self.levels()[taken].to(x.dtype))


class AffineWeights(WeightQuantizer):
    """Integer levels lowest + span (0 .. L - 1) / (L - 1), another range in each output channel."""

    def __init__(self, out_channels, bits, grid=None):
        super().__init__(bits, grid)
        self.register_buffer("scale", torch.ones(out_channels))
        channel = torch.arange(out_channels)
        self.lowest = channel % 9 - 6
        self.apart = 1 + channel % 3

    def start_from(self, weight):
        sizes = weight.detach().float().flatten(1).abs()
        self.scale.copy_(sizes.mean(1).clamp_min(1e-6) / 2)

    def on_grid(self):
        basis = self.apart.unsqueeze(-1) * 2 ** torch.arange(self.bits)
        patterns = torch.arange(2**self.bits).expand(len(basis), -1)
        return IntegerForm(basis, self.lowest, self.scale, patterns)

    def levels(self):
        return self.on_grid().integers() * self.scale.unsqueeze(-1)

    def forward(self, weight):
        taken = self.levels().gather(1, self.codes(weight.detach()).flatten(1)).view_as(weight)
        return straight_through(weight, taken)


class SignActivations(ActivationQuantizer):
    """-s and s, 1 bit: none of the levels is 0, which paddings are."""

    def __init__(self, bits, signed=False, grid=None):
        super().__init__(1, True, grid)
        self.register_buffer("size", torch.tensor(1.0))

    def fit(self, values):
        self.size.copy_(values.abs().mean())

    def levels(self):
        return self.size * torch.tensor([-1.0, 1.0])

    def on_grid(self):
        return IntegerForm(torch.tensor([2]), torch.tensor(-1), self.size, torch.tensor([0, 1]))

    def forward(self, x):
        taken = torch.bucketize(x.detach().float().contiguous(), self.thresholds())
        return straight_through(x, self.levels()[taken].to(x.dtype))
