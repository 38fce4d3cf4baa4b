#!/usr/bin/env bash
# Everything that waits for a GPU, in one go: correctness first, then the figures. Results are files in benchmarks/results/.
#   benchmarks/gpu.sh [FACES]      FACES: a folder with cls_data/, ver_data/ and val_pairs.txt for the real training run
# Run it from the root of the repository, with facezoo importable (pip install -e '.[dev]' or PYTHONPATH=src).
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
faces=${1:-data/faces}
results=benchmarks/results
mkdir -p "$results"

python3 -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.cuda.get_device_name())'

echo "== correctness"
python3 -m pytest -m gpu tests/test_gpu.py -p no:cacheprovider 2>&1 | tee "$results/gpu_tests.txt"

echo "== margin head"
python3 benchmarks/head.py --device cuda --batch-sizes 256 1024 --classes 100000 1000000 --repeats 10

echo "== throughput"
python3 benchmarks/throughput.py --device cuda --batch-size 256 --repeats 10 --compile
python3 benchmarks/throughput.py --device cuda --batch-size 256 --repeats 10 --compile --peers \
    --models resnet50 se_resnet50 convnext_tiny mobilenet_v2

if [ -d "$faces/cls_data" ]; then
    echo "== training on real faces"
    python3 -m facezoo train "$faces" --out runs/gpu_iresnet50 --model iresnet50 --margin cosface \
        --margin-options scale=30 margin=0.35 --epochs 24 --batch-size 128 --lr 0.1 --amp bf16 --channels-last \
        --num-workers 12 --no-progress --overwrite
    cp runs/gpu_iresnet50/epochs.csv "$results/gpu_iresnet50_epochs.csv"
    cp runs/gpu_iresnet50/config.json "$results/gpu_iresnet50_config.json"
else
    echo "no $faces/cls_data: the training run on real faces is left out"
fi
