"""The optimiser: updates are orthogonal, and its state can be stored."""

import torch

from headflow.models.embedded.optimiser import Optimiser, orthogonalise


def test_singular_values_become_about_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 16, 8), (3, 8, 16), (2, 12, 12)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.4
        assert values.max() < 1.3


def test_matrices_inside_layers_move_by_muon_and_others_by_adam() -> None:
    torch.manual_seed(0)
    inside, outside = torch.nn.Parameter(torch.randn(8, 8)), torch.nn.Parameter(torch.randn(8, 8))
    before = inside.detach().clone(), outside.detach().clone()
    optimiser = Optimiser([("model.layers.0.mlp", inside), ("lm_head", outside)], matrix_rate=0.1, other_rate=0.01, weight_decay=0.0)
    (inside.sum() * 1e-3 + (inside**3).sum() + (outside**2).sum()).backward()
    optimiser.step(1.0)
    assert torch.linalg.svdvals((inside.detach() - before[0]) / 0.1).max() < 1.3
    assert torch.allclose((outside.detach() - before[1]).abs(), torch.full((8, 8), 0.01), atol=1e-4)
    assert inside.grad is None


def test_parameters_without_a_gradient_stay() -> None:
    parameters = [("model.layers.0.a", torch.nn.Parameter(torch.ones(4, 4))), ("b", torch.nn.Parameter(torch.ones(3)))]
    optimiser = Optimiser(parameters, 0.1, 0.1, 0.1)
    optimiser.step(1.0)
    assert all(torch.equal(parameter, torch.ones_like(parameter)) for _, parameter in parameters)


def test_a_restored_optimiser_steps_alike() -> None:
    def fresh() -> tuple[Optimiser, list[torch.nn.Parameter]]:
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(6, 4)), torch.nn.Parameter(torch.randn(5))]
        return Optimiser([("x.layers.0", parameters[0]), ("bias", parameters[1])], 0.1, 0.01, 0.01), parameters

    def step(optimiser: Optimiser, parameters: list[torch.nn.Parameter]) -> None:
        sum((parameter**2).sum() for parameter in parameters).backward()
        optimiser.step(0.5)

    first, weights = fresh()
    step(first, weights)
    second, copies = fresh()
    second.load_state(first.state())
    with torch.no_grad():
        for copied, weight in zip(copies, weights, strict=True):
            copied.copy_(weight)
    step(first, weights)
    step(second, copies)
    assert all(torch.equal(a, b) for a, b in zip(weights, copies, strict=True))
