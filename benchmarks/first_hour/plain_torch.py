"""The same job in torch and torchvision alone, as the course's starter notebook wants it written: everything by hand.

    python benchmarks/first_hour/plain_torch.py FACES PHOTO

FACES is the layout of HW2P2, PHOTO a crop of somebody who was trained on. Its lines are counted by benchmarks/first_hour.py.
"""

# job: trained and evaluated
import csv
import sys
from pathlib import Path

import torch
from PIL import Image
from sklearn.metrics import roc_curve
from torch import nn
from torch.nn import functional
from torchvision import datasets, models, transforms

faces, photo = Path(sys.argv[1]), Path(sys.argv[2])
normalize = [transforms.Resize((64, 64)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
plain = transforms.Compose(normalize)
train = datasets.ImageFolder(
    faces / "cls_data/train", transforms.Compose([transforms.RandomHorizontalFlip(), *normalize])
)
dev = datasets.ImageFolder(faces / "cls_data/dev", plain)
loader = torch.utils.data.DataLoader(train, batch_size=32, shuffle=True, drop_last=True)


class ArcFace(nn.Module):
    def __init__(self, features, classes, scale=32.0, margin=0.2):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, features) * 0.01)
        self.scale, self.margin = scale, margin

    def target(self, cosine):
        return (cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos() + self.margin).cos()

    def forward(self, embeddings, labels):
        cosines = functional.linear(functional.normalize(embeddings), functional.normalize(self.weight))
        rows = torch.arange(len(labels))
        logits = cosines.index_put((rows, labels), self.target(cosines[rows, labels]))
        return functional.cross_entropy(self.scale * logits, labels)


def fit(head, epochs):
    model = models.resnet18(num_classes=256)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=epochs * len(loader))
    for _ in range(epochs):
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            head(model(images), labels).backward()
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


head = ArcFace(256, len(train.classes))
model = fit(head, int(sys.argv[3]) if len(sys.argv) > 3 else 12)
weight = functional.normalize(head.weight)
right = sum(int((embed(model, [path]) @ weight.T).argmax()) == label for path, label in dev.samples)
print("accuracy", right / len(dev))
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
class SoftArc(ArcFace):
    def target(self, cosine):
        return cosine - self.margin * (1 - cosine) / 2


fit(SoftArc(256, len(train.classes), margin=0.4), 1)
