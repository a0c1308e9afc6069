import math

import pytest
import torch

from ncsn_lightning import Denoising, Exact, Learned, MinSNR, SigmaPower, StableTarget, TwoGaussians
from ncsn_lightning.objectives import EDM

TARGET = TwoGaussians()
SIGMAS = torch.tensor([0.01, 0.1, 1.0, 10.0])
NO_REFERENCES = torch.empty(0, 2)


def zero(x, sigma):
    return torch.zeros_like(x)


def draw(n, generator):
    """`n` clean points and their noise at each of SIGMAS: x [4, n, 2], sigma [4, 1], noise [4, n, 2]."""
    x = TARGET.sample(4 * n, generator=generator).view(4, n, 2)
    return x, SIGMAS.unsqueeze(-1), torch.randn(4, n, 2, generator=generator)


def test_zero_score_loses_the_dimension_at_every_level(generator):
    """With λ = σ² and s ≡ 0 the denoising loss is E‖z‖² = 2."""
    n = 40_000
    x, sigma, noise = draw(n, generator)
    error = Denoising()(zero, x, sigma, noise, NO_REFERENCES)
    loss = (SigmaPower()(sigma) * error).mean(-1)
    torch.testing.assert_close(loss, torch.full((4,), 2.0), atol=5 * 2 / math.sqrt(n), rtol=0)  # Var‖z‖² = 4


@pytest.mark.parametrize("factor", [0.0, 0.9, 1.3])
def test_loss_minus_the_constant_is_the_fisher_error(factor, generator):
    """DSM(σ) − (D/σ² − E‖s‖²) = E‖s_θ − s‖², here with s_θ = factor · s; in units of σ²."""
    n = 40_000
    x, sigma, noise = draw(n, generator)
    x, sigma, noise = x.double(), sigma.double(), noise.double()

    def model(x, sigma):
        return factor * TARGET.score(x, sigma)

    exact = TARGET.score(x + sigma.unsqueeze(-1) * noise, sigma)
    square = exact.square().sum(-1)
    gap = Denoising()(model, x, sigma, noise, NO_REFERENCES) - (2 / sigma**2 - square) - (1 - factor) ** 2 * square
    gap = gap * sigma**2
    assert (gap.mean(-1).abs() < 5 * gap.std(-1) / math.sqrt(n)).all()


@pytest.mark.parametrize("objective", [StableTarget(num_references=512), Exact(distribution=TARGET), Denoising()])
def test_every_target_has_the_score_as_its_mean(objective, generator):
    """E[(target − s) · s] = 0 and the variances are ordered: exact < stable < denoising."""
    n = 20_000
    x, sigma, noise = draw(n, generator)
    references = TARGET.sample(objective.num_references, generator=generator)
    exact = TARGET.score(x + sigma.unsqueeze(-1) * noise, sigma)
    projection = ((objective.target(x, sigma, noise, references) - exact) * exact).sum(-1) * sigma**2
    bias = 0.05 if isinstance(objective, StableTarget) else 0.0  # one set of references is shared by all rows
    assert (projection.mean(-1).abs() <= 5 * projection.std(-1) / math.sqrt(n) + bias).all()


def test_stable_target_has_less_variance_than_denoising_and_exact_none(generator):
    x, sigma, noise = draw(4000, generator)
    references = TARGET.sample(1024, generator=generator)
    exact = TARGET.score(x + sigma.unsqueeze(-1) * noise, sigma)

    def variance(objective):
        field = objective.target(x, sigma, noise, references)
        return ((field - exact).square().sum(-1) * sigma**2).mean(-1)

    stable, plain = variance(StableTarget()), variance(Denoising())
    assert (stable[1:] < 0.5 * plain[1:]).all()
    assert (stable <= plain * 1.001).all()
    torch.testing.assert_close(variance(Exact(distribution=TARGET)), torch.zeros(4), atol=1e-10, rtol=0)


def test_stable_target_is_the_posterior_mean(generator):
    """By the definition, one row at a time, in float64."""
    x, sigma, noise = (t.double() for t in draw(5, generator))
    references = TARGET.sample(64, generator=generator).double()
    field = StableTarget(num_references=64).target(x, sigma, noise, references)
    for level in range(4):
        s = float(sigma[level])
        for row in range(5):
            noisy = x[level, row] + s * noise[level, row]
            points = torch.cat([x[level, row : row + 1], references])
            weight = torch.softmax(-(noisy - points).square().sum(-1) / (2 * s * s), 0)
            expected = (weight @ points - noisy) / s**2
            torch.testing.assert_close(field[level, row], expected)


def test_stable_target_without_references_is_denoising(generator):
    x, sigma, noise = draw(8, generator)
    field = StableTarget().target(x, sigma, noise, NO_REFERENCES)
    torch.testing.assert_close(field, Denoising().target(x, sigma, noise, NO_REFERENCES))


@pytest.mark.parametrize(
    ("weighting", "formula"),
    [
        (SigmaPower(power=0.0), lambda s: torch.ones_like(s)),
        (SigmaPower(power=2.0), lambda s: s**2),
        (SigmaPower(power=1.5), lambda s: s**1.5),
        (EDM(sigma_data=0.5), lambda s: s**4 * (s**2 + 0.25) / (s * 0.5) ** 2),
        (MinSNR(sigma_data=0.5), lambda s: s**2 * torch.clamp(0.25 / s**2, max=5.0) / (0.25 / s**2)),
        (Learned(), lambda s: s**2),
    ],
)
def test_weightings_are_their_formulas(weighting, formula):
    torch.testing.assert_close(weighting(SIGMAS), formula(SIGMAS))
    torch.testing.assert_close(weighting.penalty(SIGMAS), torch.zeros(4))


def test_learned_weighting_finds_its_optimum():
    """Minimising λ e + D u over u gives u* = ln(σ² e / D)."""
    torch.manual_seed(0)
    weighting = Learned(num_features=64)
    sigma = torch.logspace(-2, 1, 24)
    error = (2 + torch.sin(sigma.log())) / sigma**2
    optimizer = torch.optim.LBFGS(weighting.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (weighting(sigma) * error + weighting.penalty(sigma)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(weighting.u(sigma), (sigma**2 * error / 2).log(), atol=0.02, rtol=0)


def test_learned_weighting_gradient_is_the_closed_form():
    """∂/∂b of the mean of λ e + D u, where b shifts u everywhere: mean(D − λ e)."""
    weighting = Learned()
    sigma, error = SIGMAS, torch.tensor([3.0, 50.0, 1.0, 0.2])
    (weighting(sigma) * error + weighting.penalty(sigma)).mean().backward()
    torch.testing.assert_close(weighting.readout.bias.grad, (2 - sigma**2 * error).mean().unsqueeze(0))
