import pytest
import torch

from ncsn_lightning import EDM, Learned, MinSNR, SigmaPower

SIGMAS = torch.tensor([0.01, 0.1, 1.0, 10.0])


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
