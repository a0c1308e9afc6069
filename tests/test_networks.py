import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from ncsn_lightning import (
    MLP,
    Energy,
    FiLM,
    FourierEmbedding,
    Preconditioned,
    Raw,
    Scaled,
    SinusoidalEmbedding,
    Unconditional,
)
from ncsn_lightning.models.scores import ROWS

SCORES = [Raw, Scaled, Unconditional, Preconditioned, Energy]


def trained_looking(module):
    """Weights as after training: none at zero."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def mlp():
    return MLP(embedding=SinusoidalEmbedding(dim=16), hidden_dims=[32, 24])


def film(**frequencies):
    frequencies = {"num_frequencies": 8, "frequency_min": 0.25, "frequency_max": 1.0} | frequencies
    return FiLM(embedding=FourierEmbedding(dim=16), hidden_dims=[32, 24], **frequencies)


def build(kind, network):
    extra = {"sigma_data": 0.7} if kind in (Preconditioned, Energy) else {}
    return kind(network=network, **extra)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_magnitudes_of_the_frequencies_are_spread_evenly_in_their_logarithm():
    """E‖ω‖² / 2 = (2πf)² for each, n being standard normal; f from 1 to 4."""
    omega = film(num_frequencies=30_000, frequency_min=1.0, frequency_max=4.0).omega.double() / (2 * math.pi)
    square = omega.square().sum(-1) / 2
    for part, low in enumerate([1.0, 4 ** (1 / 3), 4 ** (2 / 3)]):
        here = square[part * 10_000 : (part + 1) * 10_000]
        mean = (4 ** (2 / 3) - 1) / (2 * math.log(4) / 3) * low**2  # of f² over ln f from low to 4^(1/3) low
        assert abs(float(here.mean()) - mean) < 5 * float(here.std()) / 100


@pytest.mark.parametrize("network", [mlp, film])
def test_output_starts_at_zero(network, generator):
    x = torch.randn(5, 2, generator=generator)
    assert torch.equal(network()(x, torch.tensor(0.5)), torch.zeros(5, 2))


def test_the_primers_network_is_a_perceptron_on_the_concatenation(generator):
    """The split first layer is the same linear map as the primer's on cat([x, emb])."""
    network = trained_looking(mlp())
    x, sigma = torch.randn(7, 2, generator=generator), torch.rand(7, generator=generator)
    h = torch.cat([x, network.embed(sigma)], dim=-1)
    for layer in [network.first, *network.hidden]:
        h = nn.functional.silu(layer(h))
    torch.testing.assert_close(network(x, sigma), network.last(h))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_of_the_waves_of_x_their_mean_over_the_noise_is_left(scale, generator):
    """By Gauss–Hermite quadrature of what the first layer sees without noise, at x + scale · σ z."""
    network, seen = film(), []
    network.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x, sigma = torch.randn(5, 2, generator=generator), torch.tensor(0.4)
    nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(40))
    z = torch.cartesian_prod(nodes, nodes).float()
    network((x.unsqueeze(1) + scale * sigma * z).float(), sigma, scale=0.0)
    network(x, sigma, scale=scale)
    density = torch.outer(weights, weights).flatten() / (2 * math.pi)
    torch.testing.assert_close(seen[1], torch.einsum("j,ijk->ik", density.float(), seen[0]), rtol=0, atol=1e-5)


def test_sinusoidal_embedding_is_the_primers():
    sigma = torch.tensor([0.3, 2.0])
    omega = [10000 ** (-k / 31) for k in range(32)]
    expected = torch.tensor([[f(w * s) for f in (math.sin, math.cos) for w in omega] for s in sigma.tolist()])
    torch.testing.assert_close(SinusoidalEmbedding(dim=64)(sigma), expected)


def test_sinusoid_of_raw_sigma_collapses_small_levels_and_the_fourier_features_do_not():
    small = torch.tensor([0.01, 0.02])
    assert float(SinusoidalEmbedding()(small).diff(dim=0).abs().max()) <= 0.01 + 1e-6
    assert float(FourierEmbedding()(small).diff(dim=0).abs().max()) > 0.5


@pytest.mark.parametrize("network", [mlp, film])
@pytest.mark.parametrize("kind", SCORES)
def test_sigma_broadcasts_at_its_own_shape(kind, network, generator):
    """A scalar, one a group and one a row give the same score."""
    score = trained_looking(build(kind, network()))
    x = torch.randn(4, 3, 2, generator=generator)
    by_scalar, by_float = score(x, torch.tensor(0.3)), score(x, 0.3)
    torch.testing.assert_close(by_float, by_scalar)
    for shape in [(4, 1), (4, 3), (3,), (1, 1)]:
        torch.testing.assert_close(score(x, torch.full(shape, 0.3)), by_scalar, rtol=1e-4, atol=1e-5)
    levels = torch.tensor([[0.1], [0.2], [0.3], [0.4]])
    rows = torch.stack([score(points, level[0]) for points, level in zip(x, levels, strict=True)])
    torch.testing.assert_close(score(x, levels), rows, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("network", [mlp, film])
def test_points_are_taken_in_parts_where_nothing_is_learnt(kind, network, generator):
    """One level for all of them, or one for each."""
    score, x = trained_looking(build(kind, network())), torch.randn(2 * ROWS + 1, 2, generator=generator)
    taken = []
    score.network.register_forward_pre_hook(lambda _, given: taken.append(len(given[0])))
    for sigma in (0.3, torch.tensor(0.3), torch.tensor([0.3]), torch.rand(len(x), generator=generator) + 0.1):
        whole = score(x, sigma)
        taken.clear()
        with torch.no_grad():
            torch.testing.assert_close(score(x, sigma), whole.detach())
        assert len(taken) == 3
        assert max(taken) <= ROWS


def test_karras_is_the_score_of_its_denoiser(generator):
    """s = (D − x)/σ² with D = c_skip x + c_out F(c_in x, σ)."""
    score = trained_looking(build(Preconditioned, film())).double()
    x, sigma, data = torch.randn(6, 2, generator=generator).double(), 0.2, 0.7
    total = math.hypot(sigma, data)
    denoised = data**2 / total**2 * x + sigma * data / total * score.network(
        x / total, torch.tensor(sigma).double(), 1 / total
    )
    torch.testing.assert_close(score(x, sigma), (denoised - x) / sigma**2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [Preconditioned, Energy])
def test_a_blurred_target_is_the_sharp_one_at_a_higher_level(kind, generator):
    """p_σ of q ∗ N(0, τ²I) is q's at √(σ² + τ²)."""
    network, x = trained_looking(film()), torch.randn(6, 2, generator=generator)
    blurred = kind(network=network, sigma_data=math.hypot(0.6, 0.4), blur=0.4)
    sharp = kind(network=network, sigma_data=0.6)
    torch.testing.assert_close(blurred(x, 0.3), sharp(x, 0.5))


@pytest.mark.parametrize("kind", [Preconditioned, Energy])
def test_a_network_at_zero_is_the_score_of_a_gaussian(kind, generator):
    x = torch.randn(6, 2, generator=generator)
    torch.testing.assert_close(build(kind, film())(x, 0.3), -x / (0.09 + 0.49))


def test_scalings(generator):
    network = trained_looking(mlp())
    x, sigma = torch.randn(6, 2, generator=generator), torch.tensor(0.25)
    torch.testing.assert_close(build(Raw, network)(x, sigma), network(x, sigma))
    torch.testing.assert_close(build(Scaled, network)(x, sigma), 4 * network(x, sigma))
    unconditional = build(Unconditional, network)
    torch.testing.assert_close(unconditional(x, 0.25) * 0.25, unconditional(x, 2.0) * 2.0)


def test_energy_is_conservative_and_its_gradient_is_the_score(generator):
    score = trained_looking(build(Energy, film()))
    x = torch.randn(6, 2, generator=generator, requires_grad=True)
    (gradient,) = torch.autograd.grad(score.energy(x, 0.3).sum(), x)
    torch.testing.assert_close(score(x.detach(), 0.3), -gradient)
    jacobian = torch.func.jacrev(lambda point: score(point, torch.tensor(0.3)))(x[0].detach())
    torch.testing.assert_close(jacobian, jacobian.T)


def test_energy_can_be_trained_and_sampled_without_gradients(generator):
    score = build(Energy, film())
    x = torch.randn(6, 2, generator=generator)
    score(x, 0.3).square().sum().backward()
    assert score.network.last.weight.grad.abs().sum() > 0
    with torch.no_grad():
        torch.testing.assert_close(score(x, 0.3), -x / (0.09 + 0.49))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler itself
@pytest.mark.parametrize("kind", SCORES)
def test_the_compiler_traces_a_gradient_in_one_graph(kind, generator):
    """As `compile=true` does; the energy's score is a gradient already. Tracing alone: code takes a minute to make."""
    score = trained_looking(build(kind, film()))
    parameters = [parameter for parameter in score.parameters() if parameter.requires_grad]

    def gradient(x, sigma):
        return torch.autograd.grad(score(x, sigma).square().mean(), parameters, allow_unused=True)

    x, sigma = torch.randn(4, 3, 2, generator=generator), torch.rand(4, 1, generator=generator) + 0.1
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")(x, sigma)
    torch.testing.assert_close(compiled, gradient(x, sigma), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", [mlp, film])
@pytest.mark.parametrize("kind", SCORES)
def test_stacked_members_equal_single_ones(kind, network, generator):
    """`vmap` over `functional_call`: M networks as one batched model."""
    members = [trained_looking(build(kind, network())) for _ in range(3)]
    parameters, buffers = stack_module_state(members)
    x, sigma = torch.randn(5, 2, generator=generator), torch.tensor(0.3)

    def call(parameters, buffers):
        return functional_call(members[0], (parameters, buffers), (x, sigma))

    stacked = vmap(call)(parameters, buffers)
    torch.testing.assert_close(stacked, torch.stack([m(x, sigma) for m in members]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build_it", "words"),
    [
        (lambda: MLP(embedding=SinusoidalEmbedding(), hidden_dims=[]), "hidden_dims"),
        (lambda: MLP(embedding=SinusoidalEmbedding(), hidden_dims=[0]), "hidden_dims"),
        (lambda: MLP(embedding=SinusoidalEmbedding(), hidden_dims=[128, "wide"]), "hidden_dims"),
        (lambda: SinusoidalEmbedding(dim=7), "dim"),
        (lambda: FourierEmbedding(bandwidth=0.0), "bandwidth"),
        (lambda: Preconditioned(network=mlp(), sigma_data=-1.0), "sigma_data"),
        (lambda: Preconditioned(network=mlp(), sigma_data=1.0, blur=2.0), "blur"),
        (lambda: film(frequency_min=2.0), "frequency_min"),
        (lambda: Raw(network="mlp"), "network"),
    ],
)
def test_wrong_arguments_are_refused(build_it, words):
    with pytest.raises(ValueError, match=words):
        build_it()
