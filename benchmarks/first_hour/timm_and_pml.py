"""The same job with timm's network and the losses and figures of pytorch-metric-learning.

    python benchmarks/first_hour/timm_and_pml.py FACES PHOTO

FACES is the layout of HW2P2, PHOTO a crop of somebody who was trained on. Its lines are counted by benchmarks/first_hour.py.
"""

# job: trained and evaluated
import csv
import sys
from pathlib import Path

import timm
import torch
from PIL import Image
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss
from sklearn.metrics import roc_curve
from timm.data import create_transform
from torch.nn import functional
from torchvision.datasets import ImageFolder

faces, photo = Path(sys.argv[1]), Path(sys.argv[2])
sizes = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3}
plain = create_transform(**sizes, crop_pct=1.0)
train = ImageFolder(faces / "cls_data/train", create_transform(**sizes, is_training=True, no_aug=True, hflip=0.5))
loader = torch.utils.data.DataLoader(train, batch_size=32, shuffle=True, drop_last=True)


def fit(loss, epochs):
    model = timm.create_model("resnet18", num_classes=256)
    parameters = [*model.parameters(), *loss.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=epochs * len(loader))
    for _ in range(epochs):
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            loss(model(images), labels).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def embed(model, paths):
    batches = []
    for start in range(0, len(paths), 64):
        images = [plain(Image.open(path).convert("RGB")) for path in paths[start : start + 64]]
        batches.append(functional.normalize(model(torch.stack(images))))
    return torch.cat(batches)


def scores(model, rows):
    names = sorted({name for row in rows for name in row[:2]})
    embeddings = dict(zip(names, embed(model, [faces / "ver_data" / name for name in names]), strict=True))
    return [float(embeddings[row[0]] @ embeddings[row[1]]) for row in rows]


loss = ArcFaceLoss(len(train.classes), 256, margin=11.5, scale=32)  # its margin is in degrees
model = fit(loss, int(sys.argv[3]) if len(sys.argv) > 3 else 12)
dev = ImageFolder(faces / "cls_data/dev")
logits = loss.get_logits(embed(model, [path for path, _ in dev.samples]))
print("accuracy", float((logits.argmax(1) == torch.tensor(dev.targets)).float().mean()))
pairs = [line.split() for line in (faces / "val_pairs.txt").read_text().splitlines()]
false_accepts, true_accepts, _ = roc_curve([int(row[2]) for row in pairs], scores(model, pairs))
print("EER", min(max(x, 1 - y) for x, y in zip(false_accepts, true_accepts, strict=True)))
test = [line.split() for line in (faces / "test_pairs.txt").read_text().splitlines()]
with open("submission.csv", "w", newline="") as file:
    csv.writer(file).writerows([("ID", "Label"), *enumerate(scores(model, test))])

# job: a person found
people = {folder.name: embed(model, sorted(folder.iterdir())).mean(0) for folder in sorted(train.root.iterdir())}
templates = functional.normalize(torch.stack(list(people.values())))
impostors = (templates @ templates.T)[~torch.eye(len(templates), dtype=bool)]
threshold = impostors.quantile(0.9)
cosines = templates @ embed(model, [photo])[0]
print("found", list(people)[int(cosines.argmax())] if cosines.max() > threshold else "unknown")


# job: an own margin trained
class SoftArc(CosFaceLoss):
    def modify_cosine_of_target_classes(self, cosine):
        return cosine - self.margin * (1 - cosine) / 2


fit(SoftArc(len(train.classes), 256, margin=0.4, scale=32), 1)
