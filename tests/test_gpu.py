"""The paths that only a GPU takes. Run with ``pytest -m gpu``."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import facezoo
from facezoo.margins.engines import ENGINES, Problem

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SMALL = ["resnet18", "se_resnet18", "iresnet18", "convnext_tiny", "mobilenet_v2", "mobilefacenet", "hw2p2_cnn"]


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    got, expected = got.double().cpu(), expected.double().cpu()
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gpu_equals_cpu(name: str, memory_format: torch.memory_format) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    model = facezoo.create_model(name).eval()
    images = torch.randn(4, 3, 112, 112)
    with torch.inference_mode():
        expected = copy.deepcopy(model).double()(images.double())
        got = model.to("cuda", memory_format=memory_format)(images.cuda().contiguous(memory_format=memory_format))
    assert relative_error(got, expected) < 1e-4


@pytest.mark.parametrize("name", SMALL)
def test_training_step_in_bf16_and_compiled(name: str) -> None:
    torch.manual_seed(0)
    model = facezoo.create_model(name, embedding_dim=64).cuda()
    head = facezoo.create_margin("arcface", embedding_dim=64, num_classes=10, scale=16.0, margin=0.3).cuda()
    images, labels = torch.randn(16, 3, 112, 112, device="cuda"), torch.randint(10, (16,), device="cuda")
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.05, momentum=0.9)
    embed = torch.compile(model.embed)
    losses = []
    for _ in range(15):
        with torch.autocast("cuda", torch.bfloat16):
            loss = head(embed(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("engine", ["dense", "chunked", "fused"])
@pytest.mark.parametrize("name", facezoo.list_margins())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_margin_on_gpu_equals_float64(name: str, engine: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    spec = facezoo.margins.margin_class(name)
    options = {"start": 0} if "start" in spec.defaults else {}
    head = facezoo.create_margin(name, embedding_dim=64, num_classes=1000, engine=engine, **options)
    if name == "dyn_arcface":
        head.set_class_counts(torch.arange(1000) % 9 + 1)
    if spec().stored is not None:  # something to remember
        head.init_from_embeddings(torch.randn(1000, 64), torch.arange(1000))
    if spec.uses_noise:
        head.eval()  # devices draw different numbers
    embeddings, labels = torch.randn(32, 64), torch.randint(1000, (32,))
    rounded = embeddings.to(dtype)
    reference = copy.deepcopy(head).double()
    reference.engine = "dense"  # the fused kernels are of a GPU
    exact = rounded.double().requires_grad_()
    expected = reference(exact, labels)
    expected.backward()
    head = head.cuda()
    leaf = rounded.cuda().requires_grad_()
    loss = head(leaf, labels.cuda())
    loss.backward()
    assert relative_error(loss.detach(), expected.detach()) < 1e-3
    for parameter, exact_parameter in zip(head.parameters(), reference.parameters(), strict=True):
        assert relative_error(parameter.grad, exact_parameter.grad) < 5e-3
    assert relative_error(leaf.grad, exact.grad) < (5e-3 if dtype == torch.float32 else 3e-2)


@pytest.fixture
def restored_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("restored_precision")
@pytest.mark.parametrize(("precision", "tolerance"), [("highest", 1e-4), ("high", 1e-2), ("medium", 3e-2)])
@pytest.mark.parametrize(
    ("name", "samples", "classes", "width"),
    [
        ("arcface", 1024, 100_000, 512),
        ("arcface", 4096, 20_011, 512),
        ("arcface", 37, 50_021, 500),
        ("arcface", 200, 30_000, 768),
        ("curricularface", 256, 30_000, 512),
        ("sphereface2", 256, 30_000, 512),
        ("sphereface_r", 256, 30_000, 512),
        ("subcenter_arcface", 256, 10_007, 512),
    ],
)
def test_fused_equals_dense_float64_at_real_sizes(
    name: str, samples: int, classes: int, width: int, precision: str, tolerance: float
) -> None:
    torch.manual_seed(0)
    head = facezoo.create_margin(name, embedding_dim=width, num_classes=classes, engine="fused").cuda()
    reference = copy.deepcopy(head).double()
    reference.engine = "dense"
    embeddings = torch.randn(samples, width, device="cuda")
    labels = torch.randint(classes, (samples,), device="cuda")
    labels[0] = classes - 1
    leaf, exact = embeddings.clone().requires_grad_(), embeddings.double().requires_grad_()
    torch.set_float32_matmul_precision(precision)
    loss = head(leaf, labels)
    loss.backward()
    expected = reference(exact, labels)
    expected.backward()
    assert relative_error(loss.detach(), expected.detach()) < tolerance
    assert relative_error(head.weight.grad, reference.weight.grad) < tolerance
    assert relative_error(leaf.grad, exact.grad) < tolerance
    again = embeddings.clone().requires_grad_()
    first, head.weight.grad = head.weight.grad, None
    if "update" not in head.definition.has:  # no state has moved on: the same bits
        head(again, labels).backward()
        assert torch.equal(again.grad, leaf.grad)
        assert torch.equal(head.weight.grad, first)


@pytest.mark.usefixtures("restored_precision")
@pytest.mark.parametrize("precision", ["high", "medium"])
def test_fused_beyond_two_to_the_31_numbers(precision: str) -> None:
    classes, width = 4_200_000, 512
    if torch.cuda.get_device_properties(0).total_memory < 60 * 2**30:
        pytest.skip("needs 60 GiB")
    assert classes * width > 2**31
    torch.manual_seed(0)
    torch.set_float32_matmul_precision(precision)
    weight = torch.empty(classes, width, device="cuda").normal_(std=0.01)
    features = torch.nn.functional.normalize(torch.randn(64, width, device="cuda"), dim=1)
    labels = torch.randint(classes - 1000, classes, (64,), device="cuda")
    got = []
    for engine, block in (("fused", classes), ("fused", None), ("chunked", None)):
        x, w = features.clone().requires_grad_(), weight.requires_grad_()
        out = ENGINES[engine](Problem(x, w, labels, scale=64.0, block_size=block))
        got.append([out.negatives.detach(), *torch.autograd.grad((out.negatives - 64.0 * out.target).mean(), [x, w])])
        got[-1][2] = got[-1][2][-2000:].clone()
    for mine in got[:2]:
        for ours, theirs in zip(mine, got[2], strict=True):
            assert relative_error(ours, theirs) < 3e-2


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
def test_trainer_on_gpu(tmp_path: Path, amp: str) -> None:
    from facezoo.synthetic import write_synthetic_faces
    from facezoo.training import TrainConfig, Trainer

    data = write_synthetic_faces(
        tmp_path / "faces",
        num_identities=8,
        images_per_identity=12,
        verification_identities=6,
        num_pairs=40,
        progress=False,
    )
    config = TrainConfig.from_options(
        data=str(data),
        out=str(tmp_path / "run"),
        model="hw2p2_cnn",
        embedding_dim=64,
        epochs=2,
        batch_size=16,
        lr=0.05,
        amp=amp,
        channels_last=True,
        device="cuda",
        num_workers=0,
        progress=False,
    )
    result = Trainer(config).fit()
    assert result.finished
    assert all(row["train_loss"] == row["train_loss"] for row in result.history)


@pytest.mark.parametrize("augment", ["none", "light", "standard", "strong", "adaface", "course", "trivial"])
def test_packed_batches_made_on_the_gpu_are_those_of_the_cpu(tmp_path: Path, augment: str) -> None:
    from facezoo.data import PackOptions, open_source, pack, packed_loader
    from facezoo.synthetic import write_synthetic_faces

    faces = write_synthetic_faces(tmp_path / "faces", num_identities=6, images_per_identity=12, progress=False)
    pack(open_source(faces), tmp_path / "packed", PackOptions())
    on_cpu, on_gpu = (
        next(iter(packed_loader(tmp_path / "packed", 32, augment, device, threads=1))) for device in ("cpu", "cuda")
    )
    assert on_gpu[0].is_cuda
    assert torch.equal(on_gpu[1].cpu(), on_cpu[1])
    difference = (on_gpu[0].cpu() - on_cpu[0]).abs() * 127.5  # gray levels
    assert difference.mean() < 0.5
    # edges of what is erased or sampled; where a shear's or rotation's border is stretched by a policy, a few more
    assert (difference > 2).float().mean() < (0.02 if augment in ("strong", "course", "trivial") else 0.01)


def test_nothing_in_an_update_waits_for_the_gpu(tmp_path: Path) -> None:
    """Not even the batch: a wait leaves the GPU without work until the host has caught up."""
    from facezoo.data import PackOptions, open_source, pack
    from facezoo.synthetic import write_synthetic_faces
    from facezoo.training import TrainConfig, Trainer

    faces = write_synthetic_faces(tmp_path / "faces", num_identities=8, images_per_identity=12, progress=False)
    pack(open_source(faces), tmp_path / "packed", PackOptions())
    config = TrainConfig.from_options(
        data=str(tmp_path / "packed"), out=str(tmp_path / "run"), model="iresnet18", embedding_dim=32, augment="standard",
        batch_size=16, amp="bf16", channels_last=True, log_interval=1000, device="cuda", num_workers=1, progress=False,
    )  # fmt: skip
    trainer = Trainer(config)
    list(itertools.islice(trainer.try_rates([0.01] * 4), 2))  # reads the loss, but not within an update
    batches = trainer.batches.updates(1, 0)
    first = next(batches)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer._update(first)
        trainer._update(next(batches))
    finally:
        torch.cuda.set_sync_debug_mode("default")
        trainer.batches.close()


def test_trainer_on_packed_faces_with_everything_at_once(tmp_path: Path) -> None:
    """Muon, mirrored evaluation, compiled network, augmentation on the device, normalization at the end, resumed."""
    from facezoo.data import PackOptions, open_source, pack
    from facezoo.synthetic import write_synthetic_faces
    from facezoo.training import TrainConfig, Trainer

    faces = write_synthetic_faces(
        tmp_path / "faces", num_identities=8, images_per_identity=12, verification_identities=6, num_pairs=40, progress=False
    )  # fmt: skip
    pack(open_source(faces), tmp_path / "packed", PackOptions(size=(64, 64)))
    config = TrainConfig.from_options(
        data=str(tmp_path / "packed"), out=str(tmp_path / "run"), model="resnet18_x0_5", stem="imagenet", img_size=64,
        embedding_dim=32, margin="linear", optimizer="muon", lr=0.02, weight_decay=0.2, wccn=0.3, epochs=3,
        batch_size=16, amp="bf16", compile=True, channels_last=True, eval_flip="sum", device="cuda", num_workers=1,
        progress=False,
    )  # fmt: skip
    Trainer(config.replace(stop_after=4)).fit()
    result = Trainer(config).fit(resume=True)
    assert result.finished
    assert result.history[-1]["eer"] <= 0.5
    again = Trainer(config).fit(resume=True)
    assert again.history[-1]["eer"] == result.history[-1]["eer"]


@pytest.fixture
def nccl(tmp_path: Path) -> Iterator[dist.ProcessGroup]:
    if not dist.is_nccl_available():
        pytest.skip("torch without NCCL")
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.parametrize("engine", ["fused", "chunked"])
@pytest.mark.parametrize("name", ["arcface", "curricularface", "sphereface2", "subcenter_arcface"])
def test_class_parallel_head_over_nccl(nccl: dist.ProcessGroup, name: str, engine: str) -> None:
    """NCCL takes one process per GPU, so on one GPU this is a group of one: every collective runs, on device tensors."""
    heads = []
    for group in (None, nccl):
        torch.manual_seed(0)
        options = {} if group is None else {"process_group": group}
        heads.append(facezoo.create_margin(name, embedding_dim=64, num_classes=1000, engine=engine, **options).cuda())
    whole, parted = heads
    torch.manual_seed(1)
    embeddings, labels = torch.randn(32, 64, device="cuda"), torch.randint(1000, (32,), device="cuda")
    results = []
    for head in (whole, parted):
        leaf = embeddings.clone().requires_grad_()
        loss = head(leaf, labels)
        loss.backward()
        results.append((loss.detach(), leaf.grad, head.weight.grad))
    for got, expected in zip(results[1], results[0], strict=True):
        assert relative_error(got.to_local() if hasattr(got, "to_local") else got, expected) < 1e-5


def test_sharded_and_averaged_backbones_over_nccl(nccl: dist.ProcessGroup) -> None:
    from facezoo.training.distributed import Distributed
    from facezoo.training.sharding import fully_shard_backbone

    images = torch.randn(8, 3, 112, 112, device="cuda")
    results = []
    for form in ("plain", "averaged", "sharded"):
        torch.manual_seed(0)
        model = facezoo.create_model("resnet18", embedding_dim=64).cuda().train()
        network: torch.nn.Module = model
        if form == "averaged":
            network = torch.nn.parallel.DistributedDataParallel(model, device_ids=[0])
        elif form == "sharded":
            fully_shard_backbone(model, Distributed(0, 1, torch.device("cuda", 0)))
        network(images).square().mean().backward()
        gradient = next(model.parameters()).grad
        results.append(gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient)
    assert relative_error(results[1], results[0]) < 1e-4
    assert relative_error(results[2], results[0]) < 1e-4
