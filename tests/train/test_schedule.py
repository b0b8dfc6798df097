"""Learning rates, against torch's schedulers."""

import pytest
import torch

from rsquant.errors import ConfigError
from rsquant.train.schedule import learning_rate


def optimizer():
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)


@pytest.mark.parametrize(
    "epochs,milestones", [(120, [30, 60, 85, 95, 105]), (24, [6, 12, 17, 19, 21])]
)
def test_the_step_schedule_is_torchs_multistep_at_the_published_epochs(epochs, milestones):
    sgd = optimizer()
    reference = torch.optim.lr_scheduler.MultiStepLR(sgd, milestones, 0.1)
    for epoch in range(epochs):
        assert learning_rate("step", 0.1, epoch, epochs) == pytest.approx(sgd.param_groups[0]["lr"])
        sgd.step()
        reference.step()


def test_the_cosine_schedule_is_torchs_and_ends_at_zero():
    sgd = optimizer()
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 50)
    for epoch in range(50):
        assert learning_rate("cosine", 0.1, epoch, 50) == pytest.approx(
            sgd.param_groups[0]["lr"], abs=1e-9
        )
        sgd.step()
        reference.step()
    assert learning_rate("cosine", 0.1, 50, 50) == 0


def test_warmup_rises_linearly_to_the_schedule():
    assert learning_rate("step", 0.1, 0.0, 120, warmup=4) == 0
    assert learning_rate("step", 0.1, 1.0, 120, warmup=4) == pytest.approx(0.025)
    assert learning_rate("step", 0.1, 4.0, 120, warmup=4) == pytest.approx(0.1)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ConfigError, match="schedule: must be one of step, cosine, got 'linear'"):
        learning_rate("linear", 0.1, 0, 10)
