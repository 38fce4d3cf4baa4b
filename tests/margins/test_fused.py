"""The fused engine where there is no GPU: its kernels under Triton's interpreter, and compiled for one without running."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

import facezoo
from facezoo.margins import Negatives
from facezoo.margins.engines import chunked_statistics, dense_statistics, fused, fused_statistics, pick_engine
from facezoo.margins.engines.fused import FORMS
from facezoo.margins.engines.fused_tiles import GRADIENT_BYTES, Tile, choose_tiles, gradient_columns


def environment(**added):
    """That of this process, and its path: the tests run on an installed package and on a source tree."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path if p)} | added


def before(package, *release):
    return tuple(int(part) for part in metadata.version(package).split(".")[:2]) < release


needs_triton = pytest.mark.skipif(not fused._HAS_TRITON, reason="triton is not installed")


@needs_triton
@pytest.mark.ci
def test_kernels_under_the_interpreter():
    """In a process of its own: triton decides at its import whether it interprets, and this process may have imported it."""
    old = before("triton", 3, 3)
    if old and not before("numpy", 2, 4):
        pytest.skip("the interpreter of triton before 3.3 makes numbers of arrays in a way that numpy 2.4 refuses")
    quiet = ["-W", "ignore:Conversion of an array:DeprecationWarning"] if old else []
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *quiet, "interpreted_fused.py"],
        cwd=Path(__file__).parent,
        env=environment(TRITON_INTERPRET="1"),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]  # 5 if it collects no test


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter does run on the CPU")
def test_on_the_cpu_it_is_a_clear_error(monkeypatch):
    head = facezoo.create_margin("arcface", embedding_dim=4, num_classes=5, engine="fused")
    if fused._HAS_TRITON:
        with pytest.raises(RuntimeError, match=r"CUDA device.*cpu.*engine='chunked'"):
            head(torch.randn(2, 4), torch.tensor([0, 1]))
    monkeypatch.setattr(fused, "_HAS_TRITON", False)
    with pytest.raises(RuntimeError, match=r"needs triton.*engine='chunked'"):
        head(torch.randn(2, 4), torch.tensor([0, 1]))


def test_auto_takes_it_on_a_gpu(monkeypatch):
    def pick(device, classes=10**6, negatives=None):
        device = torch.device(device)
        return pick_engine("auto", samples=64, classes=classes, device=device, negatives=negatives)

    class Elsewhere(Negatives):  # a form that the kernels do not have
        pass

    monkeypatch.setattr(fused, "_HAS_TRITON", True)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert pick("cuda") is fused_statistics
    assert pick("cuda", classes=100) is dense_statistics
    assert pick("cuda", negatives=Negatives(reduction="softplus")) is fused_statistics
    assert pick("cuda", negatives=Elsewhere()) is chunked_statistics
    assert pick("cpu") is chunked_statistics
    assert pick_engine("auto", samples=64, classes=10**6) is chunked_statistics
    monkeypatch.setattr(torch.version, "cuda", None)  # a build for another maker's GPUs
    assert pick("cuda") is chunked_statistics
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(fused, "_HAS_TRITON", False)
    assert pick("cuda") is chunked_statistics


def test_precision_is_that_of_torchs_float32_products():
    before = torch.get_float32_matmul_precision()
    try:
        for setting, expected in (("highest", "tf32x3"), ("high", "tf32"), ("medium", "bf16")):
            torch.set_float32_matmul_precision(setting)
            kernel = fused.TritonKernel()
            assert kernel.precision == expected
        torch.set_float32_matmul_precision("highest")
        assert kernel.precision == "bf16", "the backward pass must not differ from the forward pass"
        assert fused.TritonKernel("tf32").precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="older than these switches")
def test_precision_by_the_newer_switches():
    """In a process of its own: once used, they cannot be taken back."""
    code = (
        "import torch; from facezoo.margins.engines.fused import TritonKernel\n"
        "for switch in 'tf32', 'ieee':\n"
        "    torch.backends.cuda.matmul.fp32_precision = switch; print(TritonKernel().precision)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert run.stdout.split() == ["tf32", "tf32x3"], run.stderr


PRECISIONS = ["tf32x3", "tf32", "bf16"]
GPUS = {"hopper": (True, 227), "others": (False, 99)}  # KiB of shared memory that a block can have


def tiles_everywhere():
    return itertools.product(PRECISIONS, [1, 64, 65, 4096], [1, 64, 96, 500, 512, 1024], [1, 3], ["identity", "power"])


@pytest.mark.parametrize("gpu", GPUS)
def test_tiles_fit_together_and_into_shared_memory(gpu):
    large, limit = GPUS[gpu]
    for precision, samples, width, per_class, form in tiles_everywhere():
        tiles = choose_tiles(
            precision, form=form, samples=samples, width=width, per_class=per_class, large_shared=large
        )
        item = 2 if precision == "bf16" else 4
        for tile in tiles:
            assert all(size & (size - 1) == 0 and size >= 16 for size in tile[:3])
            assert tile.stages * (tile.rows + tile.columns) * tile.depth * item <= limit * 1024
        columns = gradient_columns(tiles, samples, per_class, item)
        # What reads G reads whole tiles of its columns.
        for unit in (tiles.logits.columns, tiles.features.depth, tiles.centers.rows):
            assert columns % unit == 0
        assert samples * columns * per_class * item <= max(GRADIENT_BYTES, 4096 * 256 * 3 * 4)


# -- ahead of time for a GPU that is not here ------------------------------------------------------------------------------------


def compile_for(capability, kernel, tile, names, **constants):
    """Machine code of a kernel, by the ptxas that comes with triton, as a launch with aligned tensors would have it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    item = "*bf16" if constants.pop("bf16") else "*fp32"
    kinds = {"labels": "*i64", "a": "fp32", "b": "fp32", "shift": "fp32", "smallest": "fp32"}
    kinds |= dict.fromkeys(("N", "C", "first", "width", "rows", "steps", "sample_tiles", "stride"), "i32")
    kinds |= dict.fromkeys(("x", "w", "gradient", "unit"), item)
    constants |= dict(zip(names, tile[:3], strict=True))
    absent = {
        argument
        for flag, argument in {
            "HAS_INVERSE": "inverse",
            "HAS_OFFSET": "offset",
            "HAS_THRESHOLD": "threshold",
            "HAS_FACTOR": "factor",
            "WITH_TOTAL": "totals",
            "RUNNING": "maxima",
            "HAS_TOTAL": "grad_total",
            "WANT_ALONG": "along",
            "WANT_SCALE": "scale_sums",
            "WANT_OFFSET": "offset_sums",
        }.items()
        if constants.get(flag) is False
    }
    constants |= dict.fromkeys(absent & set(kernel.arg_names))
    signature, attributes, places = {}, {}, {}
    for place, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
            places[(place,)] = constants[argument]
        else:
            signature[argument] = kinds.get(argument, "*fp32")
            if signature[argument].startswith("*") or argument == "stride":
                attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, places, attributes)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def compile_problem(
    precision, *, form="identity", reduction="logsumexp", per_class=1, everything=False, capability=90, width=512
):
    """All kernels of a problem, by name, in machine code."""
    from facezoo.margins.engines import fused_kernels

    bf16 = precision == "bf16"
    large = capability == 90
    tiles = choose_tiles(precision, form=form, samples=1024, width=width, per_class=per_class, large_shared=large)
    dot = "tf32" if bf16 else precision
    logits = {
        "D": width,
        "K": per_class,
        "FORM": form,
        "REDUCTION": reduction,
        "HAS_INVERSE": not bf16,
        "HAS_OFFSET": everything,
        "HAS_THRESHOLD": form.startswith("hard") or form == "gaussian",
        "HAS_FACTOR": form == "hard_quadratic",
        "PRECISION": dot,
        "bf16": bf16,
    }
    names, product_names = ("BS", "BC", "BK"), ("BM", "BN", "BK")
    product = {"D": width, "PRECISION": dot, "bf16": bf16}
    built = {
        "reduce": compile_for(
            capability,
            fused_kernels.reduce_tiles,
            tiles.logits,
            names,
            WITH_TOTAL=everything,
            RUNNING=everything,
            **logits,
        ),
        "gradient": compile_for(
            capability,
            fused_kernels.gradient_tiles,
            tiles.logits,
            names,
            HAS_TOTAL=everything,
            WANT_ALONG=True,
            WANT_SCALE=everything,
            WANT_OFFSET=everything,
            **logits,
        ),
    }
    if precision != "tf32" and form == "identity":
        built["features"] = compile_for(
            capability, fused_kernels.feature_gradient, tiles.features, product_names, ADD=True, **product
        )
        built["centers"] = compile_for(
            capability,
            fused_kernels.center_gradient,
            tiles.centers,
            product_names,
            NORMALIZE=True,
            UNIT=bf16,
            **product,
        )
        rows = Tile(16, 512, 1, 8, 1)
        both = {"D": width, "WRITE_INVERSE": True, "WRITE_UNIT": bf16, "bf16": bf16}
        built["rows"] = compile_for(capability, fused_kernels.unit_rows, rows, ("BM", "BN", "num"), **both)
    return built


def check_machine_code(built, capability=90):
    for name, kernel in built.items():
        assert kernel.metadata.shared <= (227 if capability == 90 else 99) * 1024, name
        assert len(kernel.asm["cubin"]) > 1000, name
        if capability == 90 and name != "rows":
            assert "wgmma" in kernel.asm["ptx"], f"{name} does not use the tensor cores of Hopper"
            assert "cp.async" in kernel.asm["ptx"], f"{name} waits for its operands"


needs_compiler = pytest.mark.skipif(
    not fused._HAS_TRITON or before("triton", 3, 3) or os.environ.get("TRITON_INTERPRET") == "1",
    reason="triton 3.3 compiles ahead of time from such a description; the interpreter compiles nothing",
)


@needs_compiler
@pytest.mark.ci
def test_kernels_compile_for_hopper(tmp_path, monkeypatch):
    """The case that matters most, in the precision that matters most. The others are slow."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    built = compile_problem("bf16")
    assert set(built) == {"reduce", "gradient", "features", "centers", "rows"}
    check_machine_code(built)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 120])
@pytest.mark.parametrize(
    "options",
    [
        *({"precision": precision, "width": width} for precision in PRECISIONS for width in (64, 500, 1024)),
        *({"precision": precision, "per_class": 3} for precision in PRECISIONS),
        *({"precision": "tf32", "form": form} for form in sorted(FORMS)),
        *({"precision": "bf16", "form": form, "everything": True} for form in sorted(FORMS)),
        *({"precision": "bf16", "reduction": reduction, "everything": True} for reduction in ("softplus", "square")),
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_every_kernel_compiles(options, capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    check_machine_code(compile_problem(**options, capability=capability), capability)
