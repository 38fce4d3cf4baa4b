#!/usr/bin/env bash
# Everything that waits for a GPU: correctness first, then the figures. Results are files in benchmarks/results/.
#   benchmarks/gpu.sh [FACES]      FACES: a folder with cls_data/, ver_data/ and val_pairs.txt for what is trained on real faces
#   STEPS="tests head data throughput step train quality" benchmarks/gpu.sh      some of the steps, where time is short
# Run it from the root of the repository, with facezoo importable (pip install -e '.[dev]' or PYTHONPATH=src).
# 10 million identities need a GPU of 80 GB or more (weights and momentum alone take 41 GB). Every benchmark writes its rows as it
# goes, so what is cut short keeps what it has. Nothing may run beside the timed steps; `quality` and `train` are not timed.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
faces=${1:-data/faces}
steps=${STEPS:-tests head data throughput step train quality}
results=benchmarks/results
mkdir -p "$results"
failed=()

python3 -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.cuda.get_device_name())' || exit 1

wanted() { [[ " $steps " == *" $1 "* ]]; }
run() { echo "== $*"; "$@" || failed+=("$*"); }

if wanted tests; then # the versions of a GPU machine are not chosen here: their warnings are shown and fail nothing
    workers=()
    python3 -c 'import xdist' 2>/dev/null && workers=(-n 8 --dist worksteal)
    run python3 -m pytest -m gpu tests/test_gpu.py -p no:cacheprovider -W default "${workers[@]}" -k "not two_to_the_31"
    run python3 -m pytest -m gpu tests/test_gpu.py -p no:cacheprovider -W default -k two_to_the_31
fi

if wanted head; then
    # Where the time of a step goes; the exact softmax against everybody's; then what only fits with the optimizer in the backward pass.
    run python3 benchmarks/head.py --device cuda --tf32 --batch-sizes 1024 --classes 100000 --profile --only "facezoo fused" \
        "insightface's formulation, compiled"
    run python3 benchmarks/head.py --device cuda --tf32 --repeats 10 --batch-sizes 1024 --classes 100000 1000000 --name head_tf32
    run python3 benchmarks/head.py --device cuda --tf32 --repeats 5 --batch-sizes 1024 --classes 10000000 --name head_10m --only \
        "facezoo fused, step in backward" "facezoo chunked, step in backward" "facezoo sampled 0.1, step in backward"
    run python3 benchmarks/head.py --device cuda --repeats 5 --batch-sizes 1024 --classes 100000 1000000
fi

if wanted data && [ -d "$faces/cls_data/train" ]; then
    run python3 benchmarks/data_gpu.py --faces "$faces/cls_data/train"
fi

if wanted throughput; then
    run python3 benchmarks/throughput.py --device cuda --batch-size 256 --repeats 10 --peers --models iresnet50 iresnet100 \
        convnext_tiny se_resnet50 vit_small_patch16 resnet50 mobilenet_v2
    run python3 benchmarks/throughput.py --device cuda --batch-size 256 --repeats 10 --peers --compile --models iresnet50 \
        convnext_tiny se_resnet50 vit_small_patch16
    run python3 benchmarks/throughput.py --device cuda --batch-size 256 --repeats 10 --compile
fi

if wanted step; then
    run python3 benchmarks/whole_step.py --device cuda --tf32 --model iresnet50 --batch-size 1024 --classes 1000000 10000000
    run python3 benchmarks/whole_step.py --device cuda --tf32 --model iresnet50 --batch-size 1024 --classes 1000000 10000000 \
        --sample-rate 0.1 --name whole_step_sampled
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

if wanted quality && [ -d "$faces/cls_data" ]; then # processes take turns on one GPU: few at once
    for table in course ablation distillation hour; do
        run python3 benchmarks/training_runs.py "$faces" --tables "$table" --at-once 3
    done
    run python3 benchmarks/finetune.py "$faces" --workers 4
fi

if ((${#failed[@]})); then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
fi
