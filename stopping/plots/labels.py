"""Placement of the names of points, so that they cover neither points nor lines nor each other."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from stopping.plots.panels import LABEL_POINTS

_RADII_POINTS = (7, 12, 18, 26, 36, 48, 62, 80, 100)  # how far from its point a label is tried
_LEADER_POINTS = 12  # farther labels are joined to their points
_CLEAR_POINTS = 4  # around a point, kept free of labels
_NUM_SWEEPS = 8  # over all labels, each put where it is best among the others
_HIT = 20  # cost of covering a point or another label, or of lying outside


def put_labels(axes: Axes, points: np.ndarray, names: Sequence[str], lines: np.ndarray) -> None:
    """Put each name near its point, away from other points and names and from lines; far ones get a leader.

    Limits and layout are final by now; `points` [rules, 2] and `lines` [lines, ends, 2] are in data units.
    """
    scale = axes.figure.dpi / 72  # pixels a point
    near = _CLEAR_POINTS * scale
    pixels = axes.transData.transform(points)
    ends = axes.transData.transform(lines.reshape(-1, 2)).reshape(lines.shape)
    ink = np.concatenate([np.linspace(one, two, int(abs(one - two).max() / 2) + 2) for one, two in ends])
    texts = [
        axes.annotate(
            name, point, (0, 0), textcoords="offset points", fontsize=LABEL_POINTS, color="0.1", zorder=4,
            verticalalignment="bottom", gid="label", path_effects=[withStroke(linewidth=1.5, foreground="white")],
        )
        for name, point in zip(names, points, strict=True)
    ]  # fmt: skip
    offsets = _offsets() * scale
    sizes = np.array([text.get_window_extent().size for text in texts])[:, None] + scale  # and room between two
    low = pixels[:, None] + offsets - sizes * (1 - np.sign(np.round(offsets, 6))) / 2  # [rules, places, 2]
    high = low + sizes
    inside = axes.get_window_extent()
    distance = np.hypot(*offsets.T) / scale
    joined = distance > _LEADER_POINTS
    leaders = pixels[:, None, None] + offsets[:, None] * (joined[:, None] * np.linspace(0, 1, 24))[..., None]

    cost = distance / 25 + 0.05 * _count(ink, low, high)
    cost += _HIT * ((low < inside.min) | (high > inside.max)).any(axis=-1)
    cost += _HIT * _count(pixels, low - near, high + near)
    whose = np.where(joined, _CLEAR_POINTS, distance + _CLEAR_POINTS)[:, None] * scale
    cost += 5 * (_count(pixels, low - whose, high + whose) - ~joined)  # other points it could be taken to name
    everyone, place = np.arange(len(names)), cost.argmin(axis=1).tolist()
    for index in range(len(names)):  # a leader should pass no other point
        beside = pixels[everyone != index][:, None]
        cost[index] += 3 * (_count(leaders[index], beside - near, beside + near) > 0).sum(axis=0)
    for _ in range(_NUM_SWEEPS):
        for index in range(len(names)):
            others = everyone != index
            boxes = [side[everyone, place][others, None] for side in (low, high)]  # [others, 1, 2]
            covered = _overlap(low[index], high[index], *boxes).sum(axis=0) / sizes[index].prod()
            crossed = (_count(leaders[index], *boxes) > 0).sum(axis=0)
            crossed += _count(leaders[everyone, place][others].reshape(-1, 2), low[index], high[index])
            place[index] = int(np.argmin(cost[index] + _HIT * covered + 3 * crossed))
    for index, text in enumerate(texts):
        text.set_position((low[index, place[index]] - pixels[index]) / scale)
        if joined[place[index]]:
            leader = axes.transData.inverted().transform(leaders[index, place[index]])
            axes.plot(*leader[[0, -1]].T, color="0.3", linewidth=0.5, zorder=2.5, gid="leader")


def _offsets() -> np.ndarray:
    """Return the offsets from a point to the nearest corner or edge of its label, in points: `[places, 2]`, near ones first.

    Far ones keep off the directions of error bars, for which their leaders could be taken.
    """
    angles = np.deg2rad([0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200, 70, 110, 250, 290])
    around = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return np.concatenate([radius * (around if radius <= _LEADER_POINTS else around[4:]) for radius in _RADII_POINTS])


def _count(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return how many of the points `[..., points, 2]` lie in each box `[..., 2]`."""
    low, high = low[..., None, :], high[..., None, :]
    return ((points >= low) & (points <= high)).all(axis=-1).sum(axis=-1)


def _overlap(low: np.ndarray, high: np.ndarray, other_low: np.ndarray, other_high: np.ndarray) -> np.ndarray:
    """Return the area common to two boxes `[..., 2]`."""
    return np.maximum(np.minimum(high, other_high) - np.maximum(low, other_low), 0).prod(axis=-1)
