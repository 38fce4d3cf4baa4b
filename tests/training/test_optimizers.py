from __future__ import annotations

import pytest
import torch
from torch import nn

from choosing import others_in_ci
from facezoo.training import Muon, OptimizerOptions, Trainer, create_optimizer, list_optimizers
from facezoo.training.muon import orthogonal
from facezoo.weights import read_file


def test_names_and_options():
    parameters = [{"params": [nn.Parameter(torch.zeros(2, 2))]}]
    options = OptimizerOptions(lr=0.3, momentum=0.8, beta2=0.99, weight_decay=0.1, further={"eps": 1e-4})
    for name in ("radam", "RAdam"):
        optimizer = create_optimizer(name, parameters, options)
        assert type(optimizer) is torch.optim.RAdam
        assert {key: optimizer.defaults[key] for key in ("lr", "betas", "eps", "weight_decay")} == {
            "lr": 0.3, "betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.1,
        }  # fmt: skip
    with pytest.raises(ValueError, match="calls the loss several times"):
        create_optimizer("LBFGS", parameters, options)
    with pytest.raises(ValueError, match="sparse gradients"):
        create_optimizer("SparseAdam", parameters, options)
    with pytest.raises(ValueError, match="unknown optimizer 'adamv'; did you mean"):
        create_optimizer("adamv", parameters, options)
    with pytest.raises(ValueError, match="unknown option of the optimizer SGD 'eps'"):
        create_optimizer("sgd", parameters, options)
    assert not {"lbfgs", "sparseadam", "optimizer"} & set(list_optimizers())


@pytest.mark.parametrize("name", others_in_ci(list_optimizers(), ("sgd", "adamw", "muon")))
def test_every_optimizer_goes_on_bit_for_bit(config, tmp_path, name):
    own = {"optimizer": name, "lr": 1e-3, "ema_decay": 0.9}
    whole = Trainer(config(**own, out=str(tmp_path / "whole"))).fit()
    Trainer(config(**own, stop_after=7)).fit()
    resumed = Trainer(config(**own)).fit(resume=True)
    first, second = read_file(whole.last)[0], read_file(resumed.last)[0]
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    start = Trainer(config(**own, out=str(tmp_path / "start"))).objective.state_dict()
    assert not torch.equal(start["head.weight"], first["head.weight"])


def test_orthogonal_is_near_the_polar_factor():
    torch.manual_seed(0)
    for shape in ((6, 20), (20, 6), (1, 5)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.3
        assert values.max() < 1.3
    assert torch.equal(orthogonal(torch.zeros(3, 4)), torch.zeros(3, 4))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_against_torch_on_matrices_and_on_filters_as_matrices():
    """torch's own computes the iteration in bfloat16, so the two are near, not equal; it refuses filters, so they are flattened."""
    torch.manual_seed(0)
    start, gradients = torch.randn(8, 3, 3, 3), torch.randn(5, 8, 27)
    mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone().flatten(1))
    ours = Muon([mine], lr=0.1, momentum=0.9, weight_decay=0.02)
    oracle = torch.optim.Muon([theirs], lr=0.1, momentum=0.9, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients:
        mine.grad, theirs.grad = gradient.view_as(mine).clone(), gradient.clone()
        ours.step()
        oracle.step()
    step = (theirs.detach() - start.flatten(1)).norm()
    assert (mine.detach().flatten(1) - theirs.detach()).norm() < 0.02 * step


def test_vectors_and_the_head_are_stepped_by_adamw(config):
    trainer = Trainer(config(optimizer="muon", lr=1e-3))
    by_muon = {id(p) for group in trainer.optimizer.param_groups if group["use_muon"] for p in group["params"]}
    names = {name for name, p in trainer.objective.named_parameters() if id(p) in by_muon and p.dim() > 1}
    assert names == {name for name, p in trainer.objective.model.named_parameters(prefix="model") if p.dim() > 1}
    bias, other = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    ours, oracle = Muon([bias], lr=0.1, weight_decay=0.1), torch.optim.AdamW([other], lr=0.1, weight_decay=0.1)
    for _ in range(5):
        bias.grad = torch.randn(5)
        other.grad = bias.grad.clone()
        ours.step()
        oracle.step()
    torch.testing.assert_close(bias, other, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="momentum in"):
        Muon([bias], momentum=1.0)


def test_a_skipped_first_step_of_fused_sgd_leaves_no_garbage(monkeypatch):
    """A gradient scaler tells a fused optimizer to skip a step by ``found_inf``; fp16 on a GPU does that at the beginning."""
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        optimizer = create_optimizer(
            "sgd", [{"params": list(layer.parameters())}], OptimizerOptions(lr=0.1, fused=fused)
        )
        layer(torch.ones(1, 3)).sum().backward()
        if fused:
            monkeypatch.setattr(torch, "empty_like", lambda tensor, **_: torch.full_like(tensor, float("nan")))
            optimizer.found_inf, optimizer.grad_scale = torch.ones(1), None
            optimizer.step()
            optimizer.found_inf = torch.zeros(1)
        optimizer.step()
        results.append(layer.weight.detach().clone())
    assert torch.equal(results[0], results[1])


def test_a_state_that_the_file_lacks_stays_as_it_began(config):
    """As of parts that are frozen until a later epoch, in a checkpoint of a version that began without momentum."""
    from facezoo.training.checkpoint import _restore_optimizer

    trainer = Trainer(config(optimizer="sgd"))
    options = OptimizerOptions(lr=0.1, fused=True)
    optimizer = create_optimizer("sgd", [{"params": list(trainer.objective.parameters())}], options)
    name, parameter = next(iter(trainer.objective.named_parameters()))
    _restore_optimizer(optimizer, trainer.objective, {f"{name}.momentum_buffer": torch.ones_like(parameter)}, {})
    assert torch.equal(optimizer.state[parameter]["momentum_buffer"], torch.ones_like(parameter))
    others = [p for p in trainer.objective.parameters() if p is not parameter]
    assert all(torch.equal(optimizer.state[p]["momentum_buffer"], torch.zeros_like(p)) for p in others)


def test_fused_sgd_has_no_dampening():
    options = OptimizerOptions(lr=0.1, fused=True, further={"dampening": 0.1})
    optimizer = create_optimizer("sgd", [{"params": [nn.Parameter(torch.zeros(2))]}], options)
    assert not optimizer.defaults["fused"]
    assert not optimizer.state
