"""Files of the first edition, whose names were spelled otherwise."""

from __future__ import annotations

from pathlib import Path

import torch

import facezoo
import tiny_faces  # noqa: F401  (registers the networks)
from facezoo.renamed import current_fields, current_state
from facezoo.weights import read_file

FIXTURES = Path(__file__).parent / "fixtures" / "before_second_edition"


@torch.no_grad()
def test_a_saved_network_loads_and_computes_what_it_did():
    outputs, _ = read_file(FIXTURES / "outputs.safetensors")
    model = facezoo.create_model(f"local-dir:{FIXTURES / 'save_pretrained'}").eval()
    torch.testing.assert_close(model(outputs["x"]), outputs["logits"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.embed(outputs["x"]), outputs["embedding"], rtol=1e-4, atol=1e-5)


def test_old_names_become_todays():
    assert current_fields({"licence": "MIT", "model": 1}) == {"license": "MIT", "model": 1}
    assert current_fields({"licence": "MIT", "license": "BSD"}) == {"license": "BSD"}
    old = {
        "joint.parts.center.centres": 0,
        "optimizer.joint.parts.soft_triple.centres.momentum_buffer": 1,
        "model.centres": 2,
    }
    new = {
        "joint.parts.center.centers": 0,
        "optimizer.joint.parts.soft_triple.centers.momentum_buffer": 1,
        "model.centres": 2,
    }
    assert current_state(old) == new
