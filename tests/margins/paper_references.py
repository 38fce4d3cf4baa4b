"""Every loss of the catalog once more, in float64 and straight from its paper: angles by acos, sums over all classes.

Nothing here comes from facezoo. A reference takes a :class:`Batch` and the margin's options, and returns the loss of each sample,
(N,); autograd gives its gradients. ``detach`` stands where the paper (or its published code) holds a number constant. Running state
is that of one training step from ``batch.state``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch


@dataclass
class Batch:
    """x (N, D), w (C, D) or (C, K, D), labels (N,), and what some losses have besides; all float64."""

    x: torch.Tensor
    w: torch.Tensor
    labels: torch.Tensor
    bias: torch.Tensor | None = None
    offset: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    memory: torch.Tensor | None = None
    state: dict = field(default_factory=dict)

    @property
    def norm(self):
        return self.x.norm(dim=1)

    @property
    def others(self):
        mask = torch.ones(len(self.x), len(self.w), dtype=torch.bool)
        mask[torch.arange(len(self.x)), self.labels] = False
        return mask

    def cosines(self, w=None):
        w = self.w if w is None else w
        x = self.x / self.x.norm(dim=1, keepdim=True)
        if w.dim() == 3:
            every = torch.stack([x @ (w[:, k] / w[:, k].norm(dim=1, keepdim=True)).T for k in range(w.shape[1])], 2)
            return every.max(2).values
        return x @ (w / w.norm(dim=1, keepdim=True)).T

    def own(self, matrix):
        return matrix[torch.arange(len(self.x)), self.labels]


def cross_entropy(batch, target_logit, logits):
    rows = []
    for i in range(len(batch.x)):
        others = logits[i][batch.others[i]]
        rows.append(torch.log(torch.exp(target_logit[i]) + torch.exp(others).sum()) - target_logit[i])
    return torch.stack(rows)


def arc(theta, margin, easy):
    """cos(θ + m), elementwise; margin a number or one per sample."""
    margin = torch.as_tensor(margin, dtype=theta.dtype).expand_as(theta)
    rows = []
    for t, m in zip(theta, margin, strict=True):
        if easy == "easy" and t.item() >= math.pi / 2:
            rows.append(torch.cos(t))
        elif easy == "monotone" and t.item() + m.item() >= math.pi:
            rows.append(torch.cos(t) - m * torch.sin(math.pi - m))
        else:
            rows.append(torch.cos(t + m))
    return torch.stack(rows)


def chosen_gradient(cosine, margined, options):
    """gradient="detached": the value of the margin with the gradient of the cosine."""
    return cosine + (margined - cosine).detach() if options["gradient"] == "detached" else margined


def softmax_with_target(batch, options, margined, cosines=None, scale=None):
    cosines = batch.cosines() if cosines is None else cosines
    scale = options["scale"] if scale is None else scale
    column = torch.as_tensor(scale, dtype=cosines.dtype).reshape(-1, 1)
    phi = chosen_gradient(batch.own(cosines), margined, options) if "gradient" in options else margined
    return cross_entropy(batch, phi * column[:, 0], cosines * column)


def linear(batch, o):
    z = batch.x @ batch.w.T + batch.bias
    return cross_entropy(batch, batch.own(z), z)


def normface(batch, o):
    return softmax_with_target(batch, o, batch.own(batch.cosines()))


def cosface(batch, o):
    return softmax_with_target(batch, o, batch.own(batch.cosines()) - o["margin"])


def arcface(batch, o):
    theta = torch.acos(batch.own(batch.cosines()))
    return softmax_with_target(batch, o, arc(theta, o["margin"], o["easy"]))


def combined(batch, o):
    theta = torch.acos(batch.own(batch.cosines()))
    m1, m2, m3 = o["m1"], o["m2"], o["m3"]
    limit = (math.pi - m2) / m1
    rows = []
    for t in theta:
        if o["easy"] == "easy" and t.item() >= math.pi / 2:
            rows.append(torch.cos(t))
        elif o["easy"] == "monotone" and t.item() >= limit:
            rows.append(torch.cos(t) - (math.pi - limit) * math.sin(limit) - m3)
        else:
            rows.append(torch.cos(m1 * t + m2) - m3)
    return softmax_with_target(batch, o, torch.stack(rows))


def psi(theta, m):
    rows = []
    for t in theta:
        k = math.floor(m * t.item() / math.pi)
        rows.append((-1) ** k * torch.cos(m * t) - 2 * k)
    return torch.stack(rows)


def sphereface(batch, o):
    cosine = batch.own(batch.cosines())
    lam = max(o["lambda_min"], o["lambda_max"] / (1 + o["gamma"] * 1))  # the first training step
    margined = (lam * cosine + psi(torch.acos(cosine), o["margin"])) / (1 + lam)
    return softmax_with_target(batch, o, margined, scale=batch.norm)


def sphereface_r(batch, o):
    cosines = batch.cosines()
    own, m = batch.own(cosines), o["margin"]
    if o["variant"] == "v0":
        margined = psi(torch.acos(own), m)
    elif o["variant"] == "v1":
        margined = torch.stack([torch.cos(m * t) if m * t.item() < math.pi else t * 0 - 1 for t in torch.acos(own)])
    else:
        margined = own
        wide = torch.cos(torch.acos(cosines) / m)
        cosines = wide if o["gradient"] == "exact" else cosines + (wide - cosines).detach()
    phi = margined if o["gradient"] == "exact" else own + (margined - own).detach()
    scale = torch.full_like(batch.norm, o["scale"]) if o["feature_norm"] == "hard" else batch.norm
    loss = cross_entropy(batch, phi * scale, cosines * scale[:, None])
    if o["feature_norm"] == "soft":
        loss = loss + o["norm_weight"] * (batch.norm - o["scale"]).abs()
    return loss


def subcenter_arcface(batch, o):
    cosines = batch.cosines()
    return softmax_with_target(batch, o, arc(torch.acos(batch.own(cosines)), o["margin"], o["easy"]), cosines)


def dyn_arcface(batch, o):
    n = batch.state["class_counts"].double()[batch.labels]
    margin = o["a"] / n ** o["exponent"] + o["b"]
    return softmax_with_target(batch, o, arc(torch.acos(batch.own(batch.cosines())), margin, o["easy"]))


def elastic_margins(batch, o, plus_sigma):
    sigma = o["sigma"] or (0.05 if o["variant"] == "plain" else plus_sigma)
    margins = o["margin"] + sigma * batch.noise
    if o["variant"] == "plain":
        return margins
    cosine = batch.own(batch.cosines()).tolist()
    ascending = sorted(margins.tolist())
    dealt = [0.0] * len(cosine)
    for rank, i in enumerate(sorted(range(len(cosine)), key=lambda i: -cosine[i])):  # nearest first: smallest margin
        dealt[i] = ascending[rank]
    return torch.tensor(dealt, dtype=torch.float64)


def elastic_arcface(batch, o):
    margins = elastic_margins(batch, o, 0.0175)
    return softmax_with_target(batch, o, arc(torch.acos(batch.own(batch.cosines())), margins, o["easy"]))


def elastic_cosface(batch, o):
    return softmax_with_target(batch, o, batch.own(batch.cosines()) - elastic_margins(batch, o, 0.02))


def magface(batch, o):
    low, high = o["norm_min"], o["norm_max"]
    a = torch.stack(
        [n if low < n.item() < high else torch.tensor(min(max(n.item(), low), high)).double() for n in batch.norm]
    )
    margin = (o["margin_max"] - o["margin_min"]) / (high - low) * (a - low) + o["margin_min"]
    loss = softmax_with_target(batch, o, arc(torch.acos(batch.own(batch.cosines())), margin, o["easy"]))
    return loss + o["norm_weight"] * (a / high**2 + 1 / a)


def adaface(batch, o):
    norm = batch.norm.detach().clamp(0.001, 100)
    mean = o["rate"] * norm.mean() + (1 - o["rate"]) * batch.state["norm_mean"]
    std = o["rate"] * norm.std() + (1 - o["rate"]) * batch.state["norm_std"]
    z = (o["h"] * (norm - mean) / (std + 1e-3)).clamp(-1, 1)
    theta = torch.acos(batch.own(batch.cosines()))
    rows = []
    for t, zi in zip(theta, z.tolist(), strict=True):
        angle = t - o["margin"] * zi
        if angle.item() <= 0 or angle.item() >= math.pi:
            angle = t * 0 + (0 if angle.item() <= 0 else math.pi)
        rows.append(torch.cos(angle) - (o["margin"] + o["margin"] * zi))
    return softmax_with_target(batch, o, torch.stack(rows))


def adacos(batch, o):
    cosines = batch.cosines()
    s = float(torch.tensor(math.sqrt(2) * math.log(len(batch.w) - 1)))  # the buffer is float32
    if o["mode"] == "dynamic":
        values = cosines.detach()
        average = sum(torch.exp(s * values[i][batch.others[i]]).sum().item() for i in range(len(values))) / len(values)
        angles = sorted(torch.acos(batch.own(values)).tolist())
        median = angles[(len(angles) - 1) // 2]
        s = math.log(average) / math.cos(min(math.pi / 4, median))
    return softmax_with_target(batch, o, batch.own(cosines), scale=s)


def p2sgrad(batch, o):
    cosines = batch.cosines()
    delta = (~batch.others).double()
    return ((cosines - delta) ** 2).sum(1)


def arcnegface(batch, o):
    cosines = batch.cosines()
    margined = arc(torch.acos(batch.own(cosines)), o["margin"], o["easy"])
    phi = chosen_gradient(batch.own(cosines), margined, o)
    t = o["alpha"] * torch.exp(-((cosines - margined.detach()[:, None]) ** 2) / o["sigma"])
    return cross_entropy(batch, o["scale"] * phi, o["scale"] * (t * cosines + t - 1))


def mv_softmax(batch, o):
    cosines = batch.cosines()
    own = batch.own(cosines)
    margined = own - o["margin"] if o["kind"] == "am" else arc(torch.acos(own), o["margin"], o["easy"])
    t = o["t"]
    hard = t * cosines + t - 1 if o["weighting"] == "adaptive" else cosines + t - 1
    negatives = torch.where(cosines > margined.detach()[:, None], hard, cosines)
    return cross_entropy(batch, o["scale"] * chosen_gradient(own, margined, o), o["scale"] * negatives)


def curricularface(batch, o):
    cosines = batch.cosines()
    own = batch.own(cosines)
    t = o["rate"] * own.detach().mean() + (1 - o["rate"]) * batch.state["t"]
    margined = arc(torch.acos(own), o["margin"], o["easy"])
    negatives = torch.where(cosines > margined.detach()[:, None], cosines * (t + cosines), cosines)
    return cross_entropy(batch, o["scale"] * chosen_gradient(own, margined, o), o["scale"] * negatives)


def circle(batch, o):
    cosines, m, gamma = batch.cosines(), o["margin"], o["scale"]
    own = batch.own(cosines)
    positive = (1 + m - own).clamp(min=0).detach() * (own - (1 - m))
    negative = (cosines + m).clamp(min=0).detach() * (cosines - m)
    rows = []
    for i in range(len(own)):  # log(1 + Σ exp(γ·α_n·(s_n - Δ_n)) · exp(-γ·α_p·(s_p - Δ_p)))
        exponents = gamma * (negative[i][batch.others[i]] - positive[i])
        rows.append(torch.logsumexp(torch.cat([torch.zeros(1, dtype=torch.float64), exponents]), 0))
    return torch.stack(rows)


def sphereface2(batch, o):
    cosines, r, m = batch.cosines(), o["scale"], o["margin"]
    g = 2 * ((cosines + 1) / 2) ** o["power"] - 1
    if o["gradient"] == "detached":
        g = cosines + (g - cosines).detach()
    own = torch.log(1 + torch.exp(-(r * (batch.own(g) - m) + batch.offset)))
    others = (torch.log(1 + torch.exp(r * (g + m) + batch.offset)) * batch.others).sum(1)
    return o["balance"] / r * own + (1 - o["balance"]) / r * others


def uniface(batch, o, cosines=None):
    cosines, b = batch.cosines() if cosines is None else cosines, -batch.offset
    own, others = batch.own(cosines), o["scale"] * cosines - b
    phi = chosen_gradient(own, own - o["margin"], o)
    positive = torch.log(1 + torch.exp(b - o["scale"] * phi))
    return positive + o["negative_weight"] * (torch.log(1 + torch.exp(others)) * batch.others).sum(1)


def unitsface(batch, o):
    return uniface(batch, o, batch.cosines(batch.memory))


def vpl(batch, o):
    w = batch.w / batch.w.norm(dim=1, keepdim=True)
    share = (batch.state["fresh"].double() * o["share"])[:, None]
    cosines = batch.cosines((1 - share) * w + share * batch.memory)
    return softmax_with_target(batch, o, arc(torch.acos(batch.own(cosines)), o["margin"], o["easy"]), cosines)


REFERENCES = {
    "adacos": adacos,
    "adaface": adaface,
    "am_softmax": cosface,
    "arcface": arcface,
    "arcnegface": arcnegface,
    "circle": circle,
    "combined": combined,
    "cosface": cosface,
    "curricularface": curricularface,
    "dyn_arcface": dyn_arcface,
    "elastic_arcface": elastic_arcface,
    "elastic_cosface": elastic_cosface,
    "linear": linear,
    "magface": magface,
    "mv_softmax": mv_softmax,
    "normface": normface,
    "p2sgrad": p2sgrad,
    "sphereface": sphereface,
    "sphereface2": sphereface2,
    "sphereface_r": sphereface_r,
    "subcenter_arcface": subcenter_arcface,
    "uniface": uniface,
    "unitsface": unitsface,
    "vpl": vpl,
}

# One entry per formula and per named choice that changes it; every option that takes a name appears with each of them.
CASES = [
    ("linear", {}),
    ("normface", {}),
    ("cosface", {}),
    ("cosface", {"gradient": "detached"}),
    ("am_softmax", {}),
    ("arcface", {}),
    ("arcface", {"easy": "easy"}),
    ("arcface", {"easy": "none", "gradient": "detached"}),
    ("arcface", {"margin": 0.2, "scale": 16.0}),
    ("combined", {}),
    ("combined", {"m1": 1.1, "m2": 0.2, "m3": 0.1}),
    ("combined", {"m1": 0.9, "m2": 0.4, "m3": 0.15, "easy": "none"}),
    ("sphereface", {}),
    ("sphereface", {"margin": 3, "lambda_max": 20.0}),
    ("sphereface_r", {}),
    ("sphereface_r", {"gradient": "exact"}),
    ("sphereface_r", {"variant": "v1", "gradient": "exact", "margin": 1.4}),
    ("sphereface_r", {"variant": "v2"}),
    ("sphereface_r", {"variant": "v2", "gradient": "exact"}),
    ("sphereface_r", {"feature_norm": "soft", "margin": 2.0}),
    ("sphereface_r", {"feature_norm": "none", "variant": "v1"}),
    ("subcenter_arcface", {}),
    ("subcenter_arcface", {"sub_centers": 2, "gradient": "detached"}),
    ("dyn_arcface", {}),
    ("dyn_arcface", {"a": 0.6, "b": 0.2, "exponent": 0.5, "easy": "none"}),
    ("dyn_arcface", {"easy": "easy"}),
    ("elastic_arcface", {}),
    ("elastic_arcface", {"variant": "plus", "sigma": 0.1, "easy": "none"}),
    ("elastic_cosface", {}),
    ("elastic_cosface", {"variant": "plus"}),
    ("magface", {}),
    ("magface", {"easy": "none", "norm_min": 1.0, "norm_max": 40.0}),
    ("adaface", {}),
    ("adaface", {"margin": 0.3, "rate": 0.5, "gradient": "detached"}),
    ("adacos", {}),
    ("adacos", {"mode": "fixed"}),
    ("p2sgrad", {}),
    ("arcnegface", {}),
    ("arcnegface", {"alpha": 0.9, "sigma": 0.5, "gradient": "detached"}),
    ("mv_softmax", {}),
    ("mv_softmax", {"weighting": "fixed"}),
    ("mv_softmax", {"kind": "arc", "margin": 0.5, "t": 1.3}),
    ("curricularface", {}),
    ("curricularface", {"rate": 0.6, "scale": 20.0, "gradient": "detached"}),
    ("circle", {}),
    ("circle", {"margin": 0.4, "scale": 32.0}),
    ("sphereface2", {}),
    ("sphereface2", {"gradient": "detached", "power": 2.0, "balance": 0.6, "margin": 0.2}),
    ("uniface", {}),
    ("uniface", {"negative_weight": 0.3, "scale": 16.0}),
    ("unitsface", {"start": 0}),
    ("vpl", {"start": 0}),
    ("vpl", {"start": 0, "share": 0.5, "easy": "easy"}),
]
CASE_IDS = ["-".join([name, *(f"{k}={v}" for k, v in options.items())]) for name, options in CASES]
