"""The losses, straight from their papers: loops over samples. Slow, and differentiable.

Pair-wise ones take ``x`` ``(M, D)``, ``y`` (a list of M labels) and ``n``: the first n rows are the batch, the rest a memory. A sum
of nothing is a plain 0.
"""

from __future__ import annotations

import torch


def unit(v):
    return v / v.norm()


def cosine(a, b):
    return unit(a) @ unit(b)


def distance(a, b, normalize=True):
    return (unit(a) - unit(b)).norm() if normalize else (a - b).norm()


def mean(terms):
    return sum(terms) / max(1, len(terms))


def exp(x):
    return torch.exp(torch.as_tensor(x))


def log(x):
    return torch.log(torch.as_tensor(x, dtype=torch.float64))


def positives(y, i):
    return [j for j in range(len(y)) if j != i and y[j] == y[i]]


def negatives(y, i):
    return [j for j in range(len(y)) if y[j] != y[i]]


def table(x, n, measure):
    return [[None if i == j else measure(x[i], x[j]) for j in range(len(x))] for i in range(n)]


# -- miners -----------------------------------------------------------------------------------------------------------------------


def triplets(mining, d, y, n):
    found = []
    for a in range(n):
        pos, neg = positives(y, a), negatives(y, a)
        if not pos or not neg:
            continue
        hard = min(neg, key=lambda j: d[a][j])
        if mining == "batch_hard":
            found.append((a, max(pos, key=lambda j: d[a][j]), hard))
        elif mining == "batch_easy_hard":
            found.append((a, min(pos, key=lambda j: d[a][j]), hard))
        elif mining == "semi_hard":
            for p in pos:
                farther = [j for j in neg if d[a][j] > d[a][p]]
                pick = min(farther, key=lambda j: d[a][j]) if farther else max(neg, key=lambda j: d[a][j])
                found.append((a, p, pick))
        else:
            found += [(a, p, j) for p in pos for j in neg]
    return found


def pairs(mining, d, y, n, epsilon=0.1):
    """Two sets of (anchor, reference)."""
    if mining == "all":
        return {(i, j) for i in range(n) for j in positives(y, i)}, {(i, j) for i in range(n) for j in negatives(y, i)}
    if mining == "multi_similarity":
        pull, push = set(), set()
        for i in range(n):
            pos, neg = positives(y, i), negatives(y, i)
            pull |= {(i, j) for j in pos if neg and d[i][j] > min(d[i][k] for k in neg) - epsilon}
            push |= {(i, j) for j in neg if pos and d[i][j] < max(d[i][k] for k in pos) + epsilon}
        return pull, push
    found = triplets(mining, d, y, n)
    return {(a, p) for a, p, _ in found}, {(a, j) for a, _, j in found}


def negative_weights(d, y, a, dim, cutoff=0.5, reach=1.4):
    """1/q(d), q the density of distances on the unit sphere, for the negatives of a within reach."""
    neg = negatives(y, a)
    near = [j for j in neg if d[a][j] < reach]
    weights = [0.0] * len(y)
    for j in near:
        c = max(d[a][j], cutoff)
        weights[j] = 1.0 / (c ** (dim - 2) * (1 - c * c / 4) ** ((dim - 3) / 2))
    if not near:
        for j in neg:
            weights[j] = 1.0
    total = sum(weights)
    return [w / total if total else 0.0 for w in weights]


# -- pair-wise losses -------------------------------------------------------------------------------------------------------------


def contrastive(x, y, n, positive_margin=0.0, negative_margin=1.0, normalize=True, mining="all"):
    d = table(x, n, lambda a, b: distance(a, b, normalize))
    pull, push = pairs(mining, d, y, n)
    pulled = [0.5 * (d[i][j] - positive_margin) ** 2 for i, j in pull if d[i][j] > positive_margin]
    pushed = [0.5 * (negative_margin - d[i][j]) ** 2 for i, j in push if d[i][j] < negative_margin]
    return mean(pulled) + mean(pushed)


def triplet(x, y, n, margin=0.2, mining="batch_hard", soft=False, squared=False, normalize=True):
    d = table(x, n, lambda a, b: distance(a, b, normalize) ** (2 if squared else 1))
    terms = []
    for a, p, q in triplets(mining, d, y, n):
        ap, an = d[a][p], d[a][q]
        terms.append(torch.log1p(torch.exp(ap - an)) if soft else torch.clamp(ap - an + margin, min=0))
    return mean([t for t in terms if t > 0] if mining == "all" else terms)


def lifted_structure(x, y, n, margin=1.0, normalize=True):
    d = table(x, n, lambda a, b: distance(a, b, normalize))
    terms, count = [], 0
    for i in range(n):
        for j in positives(y, i):
            count += 1
            total = sum(exp(margin - d[i][k]) for k in negatives(y, i))
            # The other end: in the batch it has the negatives of its row, outside of it those of the batch.
            total += sum(
                exp(margin - (d[j][k] if j < n else d[k][j])) for k in range(len(y) if j < n else n) if y[k] != y[j]
            )
            if total > 0:
                terms.append(torch.clamp(log(total) + d[i][j], min=0) ** 2 / 2)
    return sum(terms) / max(1, count)


def supcon(x, y, n, temperature=0.1):
    c = table(x, n, cosine)
    terms = []
    for i in range(n):
        pos = positives(y, i)
        total = sum(exp(c[i][a] / temperature) for a in range(len(y)) if a != i)
        if pos:
            terms.append(-sum(log(exp(c[i][p] / temperature) / total) for p in pos) / len(pos))
    return mean(terms)


def nt_xent(x, y, n, temperature=0.07):
    c = table(x, n, cosine)
    terms = []
    for i in range(n):
        others = sum(exp(c[i][k] / temperature) for k in negatives(y, i))
        terms += [-log(exp(c[i][j] / temperature) / (exp(c[i][j] / temperature) + others)) for j in positives(y, i)]
    return mean(terms)


def multi_similarity(x, y, n, alpha=2.0, beta=50.0, base=0.5, mining="multi_similarity"):
    c = table(x, n, cosine)
    d = [[None if v is None else 1 - v for v in row] for row in c]
    pull, push = pairs(mining, d, y, n)
    terms = []
    for i in range(n):
        near = sum(exp(-alpha * (c[i][k] - base)) for a, k in pull if a == i)
        far = sum(exp(beta * (c[i][k] - base)) for a, k in push if a == i)
        terms.append(log(1 + near) / alpha + log(1 + far) / beta)
    return mean(terms)


def circle(x, y, n, margin=0.4, scale=80.0):
    c = table(x, n, cosine)
    terms = []
    for i in range(n):
        pos, neg = positives(y, i), negatives(y, i)
        if pos and neg:
            far = sum(exp(scale * max(c[i][j].item() + margin, 0) * (c[i][j] - margin)) for j in neg)
            near = sum(exp(-scale * max(1 + margin - c[i][j].item(), 0) * (c[i][j] - 1 + margin)) for j in pos)
            terms.append(log(1 + far * near))
    return mean(terms)


PAIRWISE = {
    "contrastive": contrastive,
    "triplet": triplet,
    "lifted_structure": lifted_structure,
    "supcon": supcon,
    "nt_xent": nt_xent,
    "multi_similarity": multi_similarity,
    "circle": circle,
}


# -- the others: criterion (for its proxies and centers), x, y --------------------------------------------------------------------


def n_pair(criterion, x, y, l2_weight=0.002):
    sets: dict[int, list[tuple[int, int]]] = {}
    for label in sorted(set(y)):
        members = [i for i in range(len(y)) if y[i] == label]
        for number in range(len(members) // 2):
            sets.setdefault(number, []).append((members[2 * number], members[2 * number + 1]))
    terms, lengths = [], []
    for chosen in sets.values():
        for i, (a, p) in enumerate(chosen):
            total = sum(exp(x[a] @ x[q] - x[a] @ x[p]) for j, (_, q) in enumerate(chosen) if j != i)
            terms.append(log(1 + total))
            lengths.append((x[a] @ x[a] + x[p] @ x[p]) / 2)
    return mean(terms) + l2_weight * mean(lengths)


def proxy_nca(criterion, x, y, scale=9.0, denominator="negatives", **_):
    terms = []
    for i, label in enumerate(y):
        e = [exp(-scale * distance(x[i], p) ** 2) for p in criterion.proxies]
        terms.append(-log(e[label] / sum(v for j, v in enumerate(e) if denominator == "all" or j != label)))
    return mean(terms)


def proxy_anchor(criterion, x, y, margin=0.1, scale=32.0, **_):
    pull, push = [], []
    for label, proxy in enumerate(criterion.proxies):
        c = [cosine(row, proxy) for row in x]
        own = [exp(-scale * (v - margin)) for v, t in zip(c, y, strict=True) if t == label]
        others = [exp(scale * (v + margin)) for v, t in zip(c, y, strict=True) if t != label]
        pull += [log(1 + sum(own))] if own else []
        push.append(log(1 + sum(others)))
    return mean(pull) + mean(push)


def soft_triple(criterion, x, y, scale=20.0, gamma=0.1, margin=0.01, regularizer=0.2, **_):
    terms, spread = [], []
    for i, label in enumerate(y):
        similarity = []
        for centers in criterion.centers:
            c = [cosine(x[i], w) for w in centers]
            total = sum(exp(v / gamma) for v in c)
            similarity.append(sum(exp(v / gamma) / total * v for v in c))
        e = [exp(scale * (s - (margin if j == label else 0.0))) for j, s in enumerate(similarity)]
        terms.append(-log(e[label] / sum(e)))
    k = criterion.centers.shape[1]
    for centers in criterion.centers:
        spread += [torch.sqrt(2 - 2 * cosine(centers[s], centers[t])) for t in range(k) for s in range(t)]
    return mean(terms) + regularizer * sum(spread) / max(len(criterion.centers) * k * (k - 1), 1)


def center(criterion, x, y, **_):
    return mean([((x[i] - criterion.centers[label]) ** 2).sum() / 2 for i, label in enumerate(y)])


def ring(criterion, x, y, radius=None):
    start = mean([row.norm().item() for row in x]) if radius is None else radius
    return mean([(row.norm() - start) ** 2 for row in x]) / 2


def norm(criterion, x, y, target=0.0):
    return mean([(row.norm() - target) ** 2 for row in x]) / 2


def cross_entropy(criterion, x, y, label_smoothing=0.0):
    terms = []
    for row, label in zip(x, y, strict=True):
        log_p = [log(exp(z) / sum(exp(v) for v in row)) for z in row]
        terms.append(-(1 - label_smoothing) * log_p[label] - label_smoothing * mean(log_p))
    return mean(terms)


OTHERS = {
    "n_pair": n_pair,
    "proxy_nca": proxy_nca,
    "proxy_anchor": proxy_anchor,
    "soft_triple": soft_triple,
    "center": center,
    "ring": ring,
    "norm": norm,
    "cross_entropy": cross_entropy,
}
