"""A person found in a gallery with insightface's Python package and its own weights, which are not for commercial use.

    python benchmarks/first_hour/insightface_package.py PEOPLE PHOTO

PEOPLE has one folder of photos per person. It trains nothing: that is another program of theirs, for CUDA, with its
own form of data. It was written from the package's published usage and never run here, since its weights come from a server
that could not be reached. Its lines are counted by benchmarks/first_hour.py.
"""

# job: a person found
import sys
from pathlib import Path

import cv2
import numpy as np
from insightface.app import FaceAnalysis

app = FaceAnalysis(name="buffalo_l", providers=["CPUExecutionProvider"])
app.prepare(ctx_id=-1, det_size=(640, 640))


def embed(path):
    found = app.get(cv2.imread(str(path)))
    return max(found, key=lambda face: face.bbox[2] - face.bbox[0]).normed_embedding


people = {
    folder.name: np.mean([embed(path) for path in folder.iterdir()], axis=0) for folder in Path(sys.argv[1]).iterdir()
}
templates = np.stack([mean / np.linalg.norm(mean) for mean in people.values()])
impostors = (templates @ templates.T)[~np.eye(len(templates), dtype=bool)]
threshold = np.quantile(impostors, 0.9)
cosines = templates @ embed(sys.argv[2])
print("found", list(people)[cosines.argmax()] if cosines.max() > threshold else "unknown")
