"""MRED against the paper's equations in float64 numpy."""

import numpy as np
import pytest
import torch

from rsquant.errors import ConfigError
from rsquant.train.losses import distillation_paths, ensemble_logits, mred

S, N, C = 4, 6, 5


def case(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.randn(N, C, generator=generator, dtype=torch.float64) for _ in range(S)]
    target = torch.randint(0, C, (N,), generator=generator)
    alpha = torch.randn(S, generator=generator, dtype=torch.float64)
    return [z.requires_grad_() for z in logits], target, alpha.requires_grad_()


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cross_entropy(z, y):
    return -np.log(softmax(z)[np.arange(len(y)), y]).mean()


def kl(teacher, student):
    p, q = softmax(teacher), softmax(student)
    return (p * np.log(p / q)).sum(1).mean()


def paper(logits, target, alpha, variant):
    z = [t.detach().numpy() for t in logits]
    y = target.numpy()
    blended = sum(a * t for a, t in zip(softmax(alpha.detach().numpy()), z, strict=True))
    if variant == "full":  # equation 10
        p = [blended, *z]
        pairs = [kl(p[t], p[s]) for t in range(S) for s in range(t + 1, S + 1)]
        distillation = 2 / (S + 1) * sum(pairs)
    elif variant == "vanilla":  # equation 8
        distillation = sum(kl(blended, s) for s in z)
    elif variant == "top-down":
        distillation = 2 / (S - 1) * sum(kl(z[t], z[s]) for t in range(S) for s in range(t + 1, S))
    elif variant == "from-largest":
        distillation = S / (S - 1) * sum(kl(z[0], s) for s in z[1:])
    else:
        distillation = 0.0
    return sum(cross_entropy(t, y) for t in z), cross_entropy(blended, y), distillation


@pytest.mark.parametrize("variant", ["full", "vanilla", "top-down", "from-largest", "none"])
def test_every_term_equals_the_papers(variant):
    logits, target, alpha = case()
    loss = mred(logits, target, alpha, variant)
    terms = (loss.classification, loss.ensemble, loss.distillation)
    expected = paper(logits, target, alpha, variant)
    np.testing.assert_allclose([t.item() for t in terms], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(loss.total.item(), sum(expected), rtol=1e-12)


@pytest.mark.parametrize("variant", ["full", "vanilla", "top-down", "from-largest", "none"])
def test_alpha_is_moved_by_the_ensemble_loss_alone_and_logits_by_the_rest(variant):
    logits, target, alpha = case()
    loss = mred(logits, target, alpha, variant)
    got = torch.autograd.grad(loss.total, [alpha, *logits], retain_graph=True)
    # The ensemble's cross entropy with frozen logits.
    blended = torch.stack([z.detach() for z in logits])
    own = torch.nn.functional.cross_entropy(
        torch.tensordot(torch.softmax(alpha, 0), blended, 1), target
    )
    torch.testing.assert_close(got[0], torch.autograd.grad(own, alpha)[0])
    rest = torch.autograd.grad(loss.classification + loss.distillation, logits)
    for a, b in zip(got[1:], rest, strict=True):
        torch.testing.assert_close(a, b)


def test_teachers_are_detached():
    """d KL(p || q) / d student logits = (q - p) / N, and nothing reaches a teacher."""
    logits, target, alpha = case()
    loss = mred(logits, target, alpha, "from-largest")
    gradients = torch.autograd.grad(loss.distillation, logits, allow_unused=True)
    assert gradients[0] is None or torch.count_nonzero(gradients[0]) == 0
    teacher = softmax(logits[0].detach().numpy())
    for z, g in zip(logits[1:], gradients[1:], strict=True):
        expected = S / (S - 1) * (softmax(z.detach().numpy()) - teacher) / N
        np.testing.assert_allclose(g.numpy(), expected, atol=1e-14)


def test_the_full_version_has_half_s_times_s_plus_one_paths():
    assert len(distillation_paths(5, "full")) == 15
    assert (0, 1) in distillation_paths(5, "full")
    assert (1, 0) not in distillation_paths(5, "full")


def test_one_resolution_is_plain_cross_entropy():
    logits, target, alpha = case()
    one = mred(logits[:1], target, alpha[:1].detach().requires_grad_())
    gradient = torch.autograd.grad(one.total, logits[0])[0]
    own = torch.autograd.grad(torch.nn.functional.cross_entropy(logits[0], target), logits[0])[0]
    torch.testing.assert_close(gradient, own)


def test_equal_scores_give_the_mean_of_the_logits():
    logits, _, _ = case()
    blended = ensemble_logits(logits, torch.ones(S, dtype=torch.float64))
    torch.testing.assert_close(blended, torch.stack(logits).mean(0).detach())


def test_an_unknown_variant_is_refused():
    logits, target, alpha = case()
    with pytest.raises(ConfigError, match=r"distillation: must be one of full, .* got 'fully'"):
        mred(logits, target, alpha, "fully")


@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_a_teacher_adds_its_divergence_at_every_size_and_labels_weigh_what_was_asked(weight):
    logits, target, alpha = case()
    taught = [t.detach() for t in case(1)[0]]
    loss = mred(logits, target, alpha, "full", teacher=taught, labels=weight)
    classification, ensemble, distillation = paper(logits, target, alpha, "full")
    z, t = [x.detach().numpy() for x in logits], [x.numpy() for x in taught]
    blended = sum(a * x for a, x in zip(softmax(alpha.detach().numpy()), z, strict=True))
    teacher = sum(kl(one, other) for one, other in zip(t, z, strict=True)) + kl(t[0], blended)
    expected = weight * (classification + ensemble) + distillation + teacher
    np.testing.assert_allclose(loss.teacher.item(), teacher, rtol=1e-12)
    np.testing.assert_allclose(loss.total.item(), expected, rtol=1e-12)


def test_without_labels_and_paths_the_teacher_alone_moves_logits():
    logits, target, alpha = case()
    taught = [t.detach() for t in case(1)[0]]
    loss = mred(logits, target, alpha, "none", teacher=taught, labels=0.0)
    for z, t, gradient in zip(logits, taught, torch.autograd.grad(loss.total, logits), strict=True):
        expected = (softmax(z.detach().numpy()) - softmax(t.numpy())) / N
        np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-14)
