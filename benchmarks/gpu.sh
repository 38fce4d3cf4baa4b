#!/usr/bin/env bash
# Everything that waits for a GPU, in one go: correctness first, then the figures. Results are files in benchmarks/results/.
#   benchmarks/gpu.sh [FACES]      FACES: a folder with cls_data/, ver_data/ and val_pairs.txt for the real training run
#   STEPS="tests head throughput train" benchmarks/gpu.sh      some of the steps, where the time for one command is short
# Run it from the root of the repository, with facezoo importable (pip install -e '.[dev]' or PYTHONPATH=src).
# 10 million identities need a GPU of 80 GB or more (weights and momentum alone take 41 GB).
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
faces=${1:-data/faces}
steps=${STEPS:-tests head throughput train}
results=benchmarks/results
mkdir -p "$results"
failed=()

python3 -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.cuda.get_device_name())' || exit 1

wanted() { [[ " $steps " == *" $1 "* ]]; }
run() { echo "== $*"; "$@" || failed+=("$*"); }

if wanted tests; then
    echo "== correctness"
    python3 -m pytest -m gpu tests/test_gpu.py -p no:cacheprovider 2>&1 | tee "$results/gpu_tests.txt"
    [[ ${PIPESTATUS[0]} == 0 ]] || failed+=("pytest -m gpu")
fi

if wanted head; then
    # The exact softmax against everybody's, then what only fits with the optimizer in the backward pass.
    run python3 benchmarks/head.py --device cuda --tf32 --repeats 10 --batch-sizes 256 1024 --classes 100000 1000000 \
        --in-turn-from 500000 --name head_tf32
    run python3 benchmarks/head.py --device cuda --repeats 5 --batch-sizes 1024 --classes 100000 1000000 --in-turn-from 500000
    run python3 benchmarks/head.py --device cuda --tf32 --repeats 5 --batch-sizes 1024 --classes 10000000 --name head_10m --only \
        "facezoo fused, step in backward" "facezoo chunked, step in backward" "facezoo sampled 0.1, step in backward"
    run python3 benchmarks/whole_step.py --device cuda --tf32 --model iresnet50 --batch-size 1024 --classes 1000000 10000000
    run python3 benchmarks/whole_step.py --device cuda --tf32 --model iresnet50 --batch-size 1024 --classes 1000000 10000000 \
        --sample-rate 0.1 --name whole_step_sampled
fi

if wanted throughput; then
    run python3 benchmarks/throughput.py --device cuda --batch-size 256 --repeats 10 --compile
    run python3 benchmarks/throughput.py --device cuda --batch-size 256 --repeats 10 --compile --peers \
        --models resnet50 se_resnet50 convnext_tiny mobilenet_v2
fi

if wanted train; then
    if [ -d "$faces/cls_data" ]; then
        run python3 -m facezoo train "$faces" --out runs/gpu_iresnet50 --model iresnet50 --margin cosface \
            --margin-options scale=30 margin=0.35 --epochs 24 --batch-size 128 --lr 0.1 --amp bf16 --channels-last \
            --num-workers 12 --no-progress --overwrite
        cp runs/gpu_iresnet50/epochs.csv "$results/gpu_iresnet50_epochs.csv"
        cp runs/gpu_iresnet50/config.json "$results/gpu_iresnet50_config.json"
    else
        echo "no $faces/cls_data: the training run on real faces is left out"
    fi
fi

if ((${#failed[@]})); then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
fi
