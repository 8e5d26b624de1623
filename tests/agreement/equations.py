"""The paper's equations 1-14, and what they stand on, in loops over Python's own floats.

Nothing of torch and nothing of `plca_dist`: no tensor, no softmax, no argmax, no automatic gradient. A map is a list of
positions in row-major order, a position a list of channels. The gradient is taken by central differences, in which the
means, deviations and thresholds that the paper lets carry no gradient keep the values that they had.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

Position = list[float]
Map = list[Position]
Similarity = Callable[[Position, Position], float]

CLASSES, CHANNELS = 6, 3
SOURCE, TARGET, IMAGE = (2, 3), (2, 2), (5, 7)  # the grids of features and logits, and the size of the labels
IGNORED = 255
BETA_1, BETA_2, BETA_3, GAMMA = 0.75, 0.1, 0.01, 2.0
#: The authors' guards: of a deviation in Eq. 5 and 6, of a logarithm in Eq. 9.
EPSILON = 1e-10


class HeldConstants:
    """Numbers without gradient: `held(x)` is x, and in a replay what it was in the first run."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.replay: list[float] | None = None

    def __call__(self, value: float) -> float:
        if self.replay is not None:
            return self.replay.pop(0)
        self.values.append(value)
        return value


def cosine(a: Position, b: Position) -> float:
    """Eq. 1."""
    length = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / length


def minus_kl(p: Position, q: Position) -> float:
    """Eq. 9."""
    return -sum(x * math.log((x + EPSILON) / (y + EPSILON)) for x, y in zip(p, q, strict=True))


def best(row: list[float]) -> int:
    """The argmax of Eq. 2 and 3: the first of equals."""
    return max(range(len(row)), key=lambda j: (row[j], -j))


def contrast(row: list[float], held: HeldConstants) -> list[float]:
    """Eq. 5, 6: the candidates of one softmax, less their mean, over their unbiased deviation."""
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((d - mean) ** 2 for d in row) / (len(row) - 1))
    mean, deviation = held(mean), held(deviation)
    return [(d - mean) / (deviation + EPSILON) for d in row]


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(d) for d in row]
    return [p / sum(powers) for p in powers]


def aggregated(x: Map, alpha: float, similarity: Similarity, normalize: bool, held: HeldConstants) -> Map:
    """Eq. 7, 8."""
    result = []
    for own in x:
        row = [similarity(own, other) for other in x]
        weights = softmax(contrast(row, held) if normalize else row)
        average = [sum(w * other[c] for w, other in zip(weights, x, strict=True)) for c in range(len(own))]
        result.append([(1 - alpha) * a + alpha * b for a, b in zip(own, average, strict=True)])
    return result


class Level(NamedTuple):
    """One level of association for one pair: its loss, |Î| over the labelled starts, and i* of every i."""

    loss: float
    share: float
    ends: list[int]


def association(
    source: Map, target: Map, labels: list[int], D: Similarity, contrasted: bool, held: HeldConstants
) -> Level:
    """Eq. 2-6, or Sim-PLCA where not `contrasted`: the similarities themselves."""
    loss, consistent, ends = 0.0, 0, []
    for i, own in enumerate(source):
        there = [D(own, t) for t in target]
        j = best(there)
        back = [D(target[j], s) for s in source]
        end = best(back)
        ends.append(end)
        if labels[i] != IGNORED and labels[i] == labels[end]:
            consistent += 1
            if contrasted:
                loss -= math.log(softmax(contrast(there, held))[j] * softmax(contrast(back, held))[end])
            else:
                loss -= there[j] + back[end]
    starts = sum(label != IGNORED for label in labels)
    return Level(loss / max(consistent, 1), consistent / max(starts, 1), ends)


def smoothing(logits: Map, held: HeldConstants) -> float:
    """Eq. 13."""
    total = 0.0
    for z in logits:
        uniform = -sum(math.log(p) for p in softmax(z)) / len(z)
        total += held(uniform / GAMMA - 1) * uniform
    return total / len(logits)


def enlarged(x: Map, grid: tuple[int, int], size: tuple[int, int]) -> Map:
    """Bilinear interpolation between the centres of cells, the border's values kept beyond them."""

    def between(n: int, cells: int, of: int) -> tuple[int, int, float]:
        place = min(max((n + 0.5) * cells / of - 0.5, 0.0), cells - 1.0)
        low = min(int(place), max(cells - 2, 0))
        return low, min(low + 1, cells - 1), place - low

    result = []
    for row in range(size[0]):
        top, bottom, down = between(row, grid[0], size[0])
        for column in range(size[1]):
            left, right, along = between(column, grid[1], size[1])
            corners = [x[r * grid[1] + c] for r in (top, bottom) for c in (left, right)]
            shares = [(1 - down) * (1 - along), (1 - down) * along, down * (1 - along), down * along]
            result.append([sum(s * z for s, z in zip(shares, zs, strict=True)) for zs in zip(*corners, strict=True)])
    return result


def places(grid: tuple[int, int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """The pixel whose label a cell of the grid takes: its nearest neighbour, at its top left."""
    return [(r * size[0] // grid[0], c * size[1] // grid[1]) for r in range(grid[0]) for c in range(grid[1])]


def cross_entropy(probabilities: Map, labels: list[int]) -> float:
    """Eq. 11."""
    losses = [-math.log(p[y]) for p, y in zip(probabilities, labels, strict=True) if y != IGNORED]
    return sum(losses) / max(len(losses), 1)


def lovasz(probabilities: Map, labels: list[int]) -> float:
    """Of every class that is present: the errors, worst first, times what each adds to the Jaccard loss."""
    pixels = [(p, y) for p, y in zip(probabilities, labels, strict=True) if y != IGNORED]
    losses = []
    for k in sorted({y for _, y in pixels}):
        worst_first = sorted(((abs((y == k) - p[k]), y == k) for p, y in pixels), reverse=True)
        mine = sum(own for _, own in worst_first)
        loss = before = 0.0
        for n in range(1, len(worst_first) + 1):
            missed = sum(own for _, own in worst_first[:n])
            jaccard = 1 - (mine - missed) / (mine + n - missed)
            loss += worst_first[n - 1][0] * (jaccard - before)
            before = jaccard
        losses.append(loss)
    return sum(losses) / max(len(losses), 1)


class Pair(NamedTuple):
    """One source and one target: what the network gave for them, and the source's labels."""

    source_features: Map
    source_logits: Map
    target_features: Map
    target_logits: Map
    labels: list[int]


def by_equations(
    pair: Pair, alpha: float, kl_contrast: bool, contrasted: bool, held: HeldConstants
) -> tuple[dict[str, float], list[list[int]]]:
    """Eq. 14 for one pair: every term by the name that `LossTerms` has for it, and i* of both levels."""
    labels = [pair.labels[r * IMAGE[1] + c] for r, c in places(SOURCE, IMAGE)]
    features, predictions = pair.target_features, [softmax(z) for z in pair.target_logits]
    if alpha:
        features = aggregated(features, alpha, cosine, True, held)
        predictions = aggregated(predictions, alpha, minus_kl, kl_contrast, held)
    feature = association(pair.source_features, features, labels, cosine, contrasted, held)
    source_predictions = [softmax(z) for z in pair.source_logits]
    prediction = association(source_predictions, predictions, labels, minus_kl, contrasted, held)
    pixels = [softmax(z) for z in enlarged(pair.source_logits, SOURCE, IMAGE)]
    terms = {
        "cross_entropy": cross_entropy(pixels, pair.labels),
        "lovasz": lovasz(pixels, pair.labels),
        "feature": feature.loss,
        "prediction": prediction.loss,
        "smoothing_source": smoothing(pair.source_logits, held),
        "smoothing_target": smoothing(pair.target_logits, held),
    }
    weights = (1, BETA_1, BETA_2, BETA_2, BETA_3, BETA_3)
    total = sum(w * term for w, term in zip(weights, terms.values(), strict=True))
    shares = {"consistent_feature": feature.share, "consistent_prediction": prediction.share}
    return {"total": total, **terms, **shares}, [feature.ends, prediction.ends]


def gradient(pair: Pair, *settings: Any) -> list[list[Map]]:
    """∂total by central differences, one map for each of the pair's four."""
    held = HeldConstants()
    by_equations(pair, *settings, held)
    step = 1e-5

    def total() -> float:
        again = HeldConstants()
        again.replay = list(held.values)
        return by_equations(pair, *settings, again)[0]["total"]

    result = []
    for x in pair[:4]:
        slopes = [[0.0] * len(position) for position in x]
        for n, position in enumerate(x):
            for c, value in enumerate(position):
                position[c] = value + step
                above = total()
                position[c] = value - step
                slopes[n][c] = (above - total()) / (2 * step)
                position[c] = value
        result.append(slopes)
    return result
