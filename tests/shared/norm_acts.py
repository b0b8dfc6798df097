"""A BatchNorm with a drop layer and an activation built in, as timm has it."""

import torch
from torch import nn
from torch.nn import functional


class NormAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: the drop layer is nothing where it has none, and so is the act."""

    def __init__(self, channels, act=None, drop=None, **settings):
        super().__init__(channels, **settings)
        self.drop = nn.Identity() if drop is None else drop
        self.act = nn.ReLU(inplace=True) if act is None else act

    def forward(self, x):
        torch._assert(x.ndim == 4, f"expected 4D input (got {x.ndim}D input)")
        factor = 0.0 if self.momentum is None else self.momentum
        if self.training:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                factor = 1.0 / float(self.num_batches_tracked)
        state = (self.running_mean, self.running_var, self.weight, self.bias)
        x = functional.batch_norm(x, *state, self.training, factor, self.eps)
        return self.act(self.drop(x))
