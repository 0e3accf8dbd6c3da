"""Cut a mosaic in space, so that a class that is one large field can validate as well.

The overlaps of a group place its images on a common plane. A straight cut across the longer side
puts the far end into validation; images that touch it, or come closer than a margin, are left out.
"""

from collections import defaultdict, deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.splitting.rules import LEFT_OUT, TRAIN, VAL, Assignment

MARGIN = 0.1  # of an image's side: textures correlate a little beyond their own pixels

_Ints = npt.NDArray[np.int64]
_Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Boxes:
    """The positions of a mosaic's images on its plane: (N, 2) corners, x and y, any unit."""

    low: _Reals
    high: _Reals


def cut_mosaic(boxes: Boxes, overlaps: _Ints, target: int) -> Assignment:
    """Cut a mosaic so that about `target` images validate; `overlaps` are the found pairs (M, 2).

    Returns the assignment of each image. No training image overlaps a validation image, neither on
    the plane nor as a found pair. All train when no cut leaves more to train than to validate.
    """
    count = target
    while count > 0:
        assignment = _cut(boxes, overlaps, count)
        if (assignment == TRAIN).sum() > (assignment == VAL).sum():
            return assignment
        count = count * 3 // 4  # few tries: each looks at all images
    return np.full(len(boxes.low), TRAIN, np.int8)


def lay_out(members: _Ints, sizes: _Ints, overlaps: npt.NDArray[np.void]) -> Boxes:
    """Place `members` of one group on the plane of the first, along the fewest overlaps.

    `sizes` are their (height, width), (N, 2); `overlaps` (dtype `matching.OVERLAP`, with positions
    as in `members`) connect all of them. Rotations are small and ignored.
    """
    place = {int(member): number for number, member in enumerate(members)}
    edges: dict[int, list[tuple[int, float, float, float]]] = defaultdict(list)
    for overlap in overlaps[np.argsort(-overlaps["score"], kind="stable")]:
        one, other = place[int(overlap["first"])], place[int(overlap["second"])]
        x, y, scale = float(overlap["x"]), float(overlap["y"]), float(overlap["scale"])
        edges[one].append((other, x, y, scale))
        edges[other].append((one, -x / scale, -y / scale, 1 / scale))
    origin = np.zeros((len(members), 2))
    scale_of = np.ones(len(members))
    seen = {0}
    queue = deque([0])
    while queue:
        here = queue.popleft()
        for there, x, y, scale in edges[here]:
            if there not in seen:
                seen.add(there)
                origin[there] = origin[here] + scale_of[here] * np.array([x, y])
                scale_of[there] = scale_of[here] * scale
                queue.append(there)
    return Boxes(origin, origin + scale_of[:, None] * sizes[:, ::-1])


def _cut(boxes: Boxes, overlaps: _Ints, count: int) -> Assignment:
    extent = boxes.high.max(0) - boxes.low.min(0)
    axis = int(extent.argmax())
    order = np.argsort(-(boxes.low + boxes.high)[:, axis], kind="stable")
    assignment = np.full(len(order), TRAIN, np.int8)
    held = order[:count]
    assignment[held] = VAL
    margin = MARGIN * np.median(boxes.high[:, axis] - boxes.low[:, axis])
    below = (boxes.low[:, None] < boxes.high[held] + margin).all(2)
    above = (boxes.high[:, None] > boxes.low[held] - margin).all(2)
    touching = np.any(below & above, axis=1)
    in_val = assignment == VAL
    for one, other in ((0, 1), (1, 0)):
        touching[overlaps[in_val[overlaps[:, one]], other]] = True
    return np.where(touching & ~in_val, np.int8(LEFT_OUT), assignment)
