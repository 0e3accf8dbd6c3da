"""Drawings of separate objects: fibres, particles, powders, wires and dislocation lines."""

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from shards.synthetic.drawing import (
    Drawing,
    Field,
    Table,
    bent,
    chance,
    count_for,
    coverage,
    either,
    grid,
    log_uniform,
    scattered,
    smooth_field,
    turned,
    windows,
)


def fibres(rng: np.random.Generator, size: int) -> Drawing:
    """A composite cut across its fibres, at times beside a ply whose fibres lie in the section."""
    radius = size * log_uniform(rng, 0.025, 0.1)
    y, x = grid(size)
    across, along = turned(y - size / 2, x - size / 2, rng.uniform(0, np.pi))
    depth, fibre_of = _cut_fibres(rng, size, radius, across, along)
    if chance(rng, 0.4):
        lying, lying_of = _lying_fibres(rng, size, radius, across)
        ply = across - np.float32(size * rng.uniform(-0.35, 0.35))
        depth = np.where(ply > 0, np.minimum(lying, ply), depth)
        fibre_of = np.where(ply > 0, lying_of, fibre_of)
    matrix, fibre = either(rng, 0.5 - rng.uniform(0.08, 0.3), 0.5 + rng.uniform(0.08, 0.3))
    grey = rng.normal(0, rng.uniform(0.005, 0.04), 1024).astype(np.float32)[fibre_of % 1024]
    inside = coverage(depth, softness=1.3)
    resin = matrix + rng.uniform(0.005, 0.04) * smooth_field(rng, size, 0.3 * radius)
    if chance(rng, 0.5):  # voids in the matrix
        void = smooth_field(rng, size, 0.35 * radius) - np.float32(rng.uniform(1.6, 2.6))
        resin = resin * (1 - 0.8 * coverage(void * np.float32(radius)))
    image = resin * (1 - inside) + (fibre + grey) * inside
    if chance(rng, 0.45):  # an interphase coats every fibre
        ring = coverage(depth) * coverage(np.float32(radius * rng.uniform(0.1, 0.22)) - depth)
        image += rng.uniform(0.5, 1.0) * ring * (rng.choice([0.1, 0.9]) - image)
    if chance(rng, 0.2):  # a core, on which the fibre was deposited
        core = coverage(depth - np.float32(radius * rng.uniform(0.6, 0.75)))
        image += rng.choice([-0.25, 0.25]) * core
    return Drawing.of(image, depth > 0)


def _cut_fibres(
    rng: np.random.Generator, size: int, radius: float, across: Field, along: Field
) -> tuple[Field, npt.NDArray[np.intp]]:
    """Depth inside densely packed discs (ellipses where the cut is oblique), and their numbers."""
    oblique = rng.uniform(1.0, 1.25) if chance(rng, 0.6) else rng.uniform(1.25, 2.0)
    extent = int(1.45 * size)  # the turned image fits into this square
    radii = np.full(count_for(extent, radius, rng.uniform(0.3, 0.7)), radius)
    centres = scattered(rng, extent, 1.04 * radii, rounds=12)
    pixels = np.stack([across, along / oblique], axis=-1).reshape(-1, 2) + extent / 2
    distance, nearest = cKDTree(centres).query(pixels)
    radii = radii * (1 - np.abs(rng.normal(0, rng.uniform(0.01, 0.1), len(radii)))).clip(0.6)
    depth = (radii[nearest] - distance).reshape(size, size)
    return depth.astype(np.float32), nearest.reshape(size, size)


def _lying_fibres(
    rng: np.random.Generator, size: int, radius: float, across: Field
) -> tuple[Field, npt.NDArray[np.intp]]:
    """Depth inside parallel strips: fibres of the section plane, cut at any height."""
    starts = np.cumsum(radius * rng.uniform(1.3, 2.8, int(2 * size / radius) + 2))
    place = across + size
    strip = np.searchsorted(starts, place).clip(1, len(starts) - 1)
    middle, half = (starts[strip] + starts[strip - 1]) / 2, (starts[strip] - starts[strip - 1]) / 2
    gap = rng.uniform(0, 0.5, len(starts))[strip] * 0.6 * radius
    return (half - gap - np.abs(place - middle)).astype(np.float32), strip


def particles(rng: np.random.Generator, size: int) -> Drawing:
    """Nanoparticles on a thin film in transmission: spheres, cubes, rods or facetted crystals."""
    radius = size * log_uniform(rng, 0.022, 0.1)
    count = max(4, round(rng.uniform(0.05, 0.35) * size**2 / (np.pi * radius**2)))
    radii = radius * np.exp(rng.normal(0, rng.uniform(0.05, 0.35), count)).clip(0.5, 2)
    centres = _clustered(rng, size, radii) if chance(rng, 0.5) else scattered(rng, size, radii, 4)
    faces = int(rng.choice([0, 3, 4, 5, 6], p=[0.45, 0.1, 0.2, 0.1, 0.15]))  # 0: round
    aspects = rng.uniform(2, 4.5) if chance(rng, 0.3) else 1.0
    angles = rng.uniform(0, np.pi, count)
    density = rng.uniform(0.5, 1.6) * rng.uniform(0.6, 1.3, count)
    reach = radii * (aspects + 1.2) + 4
    mass = np.zeros((size, size), dtype=np.float32)  # optical depth of what the beam crosses
    mask = np.zeros((size, size), dtype=np.uint8)
    fringe = np.zeros((size, size), dtype=np.float32)
    for number, near in windows(size, centres, reach):
        across, along = turned(near.dy, near.dx, angles[number])
        r = np.float32(radii[number])
        if faces:
            depth = _facet_depth(across, along / np.float32(aspects), r, faces)
            thickness = np.clip(0.55 + 0.45 * depth / r, 0, 1)
        else:
            rest = np.maximum(np.abs(along) - r * np.float32(aspects - 1), 0)
            depth = r - np.hypot(across, rest)
            thickness = np.sqrt(np.clip(1 - (1 - np.clip(depth / r, 0, 1)) ** 2, 0, 1))
        mass[near.where] += coverage(depth) * thickness * np.float32(density[number])
        mask[near.where] |= depth > 0
        halo = np.exp(-(((depth + 1.5) / 1.2) ** 2)) * (depth < 0)
        np.maximum(fringe[near.where], halo, out=fringe[near.where])
    film = 0.9 + rng.uniform(0.005, 0.05) * smooth_field(rng, size, 0.2 * size)
    film += rng.uniform(0.005, 0.04) * smooth_field(rng, size, rng.uniform(0.6, 1.5))
    image = film * np.exp(-mass) + rng.uniform(0, 0.15) * fringe * (mask == 0)
    if chance(rng, 0.2):  # annular dark field: the same scattering seen as light
        image = 1.05 - image
    return Drawing.of(image, mask)


def _clustered(rng: np.random.Generator, size: int, radii: Table) -> Table:
    """Centres of particles that dried in clumps: each next to one that is already there."""
    centres = rng.uniform(0, size, (len(radii), 2))
    seeds = int(rng.integers(2, 7))
    for number in range(seeds, len(radii)):
        host = int(rng.integers(0, number))
        direction = rng.uniform(0, 2 * np.pi)
        touch = rng.uniform(0.8, 1.15) * (radii[number] + radii[host])
        centres[number] = centres[host] + touch * np.array([np.sin(direction), np.cos(direction)])
    return centres


def _facet_depth(across: Field, along: Field, radius: np.float32, faces: int) -> Field:
    """Depth below the nearest side of a regular polygon with an inscribed circle of `radius`."""
    depth: Field = radius - along
    for side in range(1, faces):
        turn = 2 * np.pi * side / faces
        depth = np.minimum(
            depth, radius - np.float32(np.cos(turn)) * along - np.float32(np.sin(turn)) * across
        )
    return depth


def powder(rng: np.random.Generator, size: int) -> Drawing:
    """Gas-atomised powder: overlapping spheres of many sizes, lit from the detector's side."""
    radius = size * log_uniform(rng, 0.035, 0.11)
    count = round(rng.uniform(0.5, 1.6) * size**2 / (np.pi * radius**2)) + 3
    radii = radius * np.exp(rng.normal(-0.1, rng.uniform(0.2, 0.5), count)).clip(0.3, 2.5)
    centres = scattered(rng, size, radii, rounds=int(rng.integers(0, 5)))
    centres, radii = _with_satellites(rng, centres, radii)
    light = np.array([rng.normal(-0.3, 0.4), rng.normal(0, 0.5)], dtype=np.float32)
    glow = rng.uniform(0.15, 0.45)  # secondary electrons escape best from steep flanks
    body = rng.uniform(0.4, 0.6) + rng.normal(0, 0.05, len(radii))
    oval = np.exp(rng.normal(0, 0.06, len(radii)))
    speckle = rng.uniform(0.01, 0.06) * smooth_field(rng, size, rng.uniform(0.6, 1.5))
    floor = rng.uniform(0.03, 0.25) + rng.uniform(0, 0.05) * smooth_field(rng, size, 0.03 * size)
    image = np.asarray(floor, dtype=np.float32)
    mask = np.zeros((size, size), dtype=np.uint8)
    for number, near in windows(size, centres, 1.5 * radii):
        r, o = np.float32(radii[number]), np.float32(oval[number])
        v, u = near.dy / (r * o), near.dx * o / r
        square = u**2 + v**2
        depth = r * (1 - np.sqrt(square))
        inside = coverage(depth)
        lit = body[number] + 0.3 * (light[0] * v + light[1] * u)
        lit = lit + glow * np.clip(square, 0, 1) ** 3 + speckle[near.where]
        shadow = 1 - 0.45 * np.exp(np.clip(depth, -r, 0) / (0.15 * r + 1))
        behind = image[near.where] * shadow
        image[near.where] = behind * (1 - inside) + lit * inside
        mask[near.where] |= depth > 0
    return Drawing.of(image, mask)


def _with_satellites(rng: np.random.Generator, centres: Table, radii: Table) -> tuple[Table, Table]:
    """Add the small spheres that stick to large ones, in front of their hosts."""
    hosts = rng.integers(0, len(radii), int(rng.uniform(0, 0.8) * len(radii)))
    direction = rng.uniform(0, 2 * np.pi, len(hosts))
    outward = np.stack([np.sin(direction), np.cos(direction)], axis=-1)
    stuck = centres[hosts] + outward * (rng.uniform(0.5, 1.05, len(hosts)) * radii[hosts])[:, None]
    small = (radii[hosts] * rng.uniform(0.12, 0.35, len(hosts))).clip(1.2)
    # A host is painted before its satellites, and what lies higher covers both.
    order = np.argsort(np.concatenate([np.arange(len(radii)), hosts + 0.5]), kind="stable")
    return np.concatenate([centres, stuck])[order], np.concatenate([radii, small])[order]


def nanowires(rng: np.random.Generator, size: int) -> Drawing:
    """Wires lying over each other on a substrate, bright-edged, at times with catalyst tips."""
    width = size * log_uniform(rng, 0.007, 0.025)  # half of the diameter
    count = int(rng.uniform(14, 45) * (0.012 * size / width) ** 0.5)
    lengths = size * rng.uniform(0.25, 1.1) * rng.uniform(0.5, 1.2, count)
    halves = (width * np.exp(rng.normal(0, rng.uniform(0.05, 0.3), count))).clip(0.9)
    centres = rng.uniform(-0.05 * size, 1.05 * size, (count, 2))
    angles = rng.uniform(0, np.pi) + rng.normal(0, rng.choice([0.15, 0.6, 3]), count)
    bows = rng.normal(0, rng.uniform(0, 0.35), count) / lengths
    tips = chance(rng, 0.35)
    image = rng.uniform(0.1, 0.4) + rng.uniform(0.01, 0.05) * smooth_field(
        rng, size, size * log_uniform(rng, 0.006, 0.05)
    )
    hollow = rng.uniform(0.1, 0.45)
    for number, near in windows(size, centres, 0.55 * lengths + 4):
        half, end = np.float32(halves[number]), np.float32(lengths[number] / 2)
        across, along = turned(near.dy, near.dx, angles[number])
        across = across - np.float32(bows[number]) * (along**2 - end**2 / 3)
        off = np.hypot(across, np.maximum(np.abs(along) - end, 0))
        inside = coverage(half - off)
        shadow = 1 - 0.3 * np.exp(-np.clip(off - half, 0, None) / (half + 1))
        grey = rng.uniform(0.55, 0.85) - hollow * np.clip(1 - (off / half) ** 2, 0, 1)
        if tips:
            ball = coverage(1.5 * half - np.hypot(across, along - end))
            inside, grey = np.maximum(inside, ball), grey * (1 - ball) + 0.95 * ball
        image[near.where] = image[near.where] * shadow * (1 - inside) + grey * inside
    return Drawing.of(image)


def dislocations(rng: np.random.Generator, size: int) -> Drawing:
    """Dislocation lines and loops in a thin foil: thin wavy dark lines over bend contours."""
    y, x = bent(rng, size, 0.05 * size, rng.uniform(0.004, 0.025) * size)
    systems = rng.uniform(0, np.pi, int(rng.integers(1, 4)))
    count = round(log_uniform(rng, 25, 110))
    angles = rng.choice(systems, count) + rng.normal(0, rng.uniform(0.05, 0.35), count)
    lengths = size * log_uniform(rng, 0.1, 0.4) * np.exp(rng.normal(0, 0.4, count)).clip(0.4, 2.5)
    centres = rng.uniform(0, size, (count, 2))
    if chance(rng, 0.5):  # tangles: lines gather in walls
        wall = smooth_field(rng, size, 0.12 * size, 2.5, rng.uniform(0, np.pi))
        weight = np.exp(rng.uniform(0.5, 1.8) * wall).ravel().astype(np.float64)
        chosen = rng.choice(size * size, count, p=weight / weight.sum())
        centres = np.stack(np.divmod(chosen, size), axis=-1).astype(np.float64)
    bows = rng.normal(0, 0.5, count) / lengths
    thickness = max(0.7, size * log_uniform(rng, 0.004, 0.008))
    beads = rng.uniform(0, 0.5) if chance(rng, 0.5) else 0.0  # inclined lines look dotted
    strengths = rng.uniform(0.3, 1.0, count)
    lines = np.zeros((size, size), dtype=np.float32)
    for number, near in windows(size, centres, 0.55 * lengths + 5):
        cy, cx = centres[number]
        across, along = turned(
            y[near.where] - np.float32(cy), x[near.where] - np.float32(cx), angles[number]
        )
        end = np.float32(lengths[number] / 2)
        across = across - np.float32(bows[number]) * (along**2 - end**2 / 3)
        fade = np.clip((end - np.abs(along)) / (0.15 * end), 0, 1)
        fade = fade * (1 - beads * (0.5 + 0.5 * np.cos(along / thickness)))
        line = np.exp(-((across / thickness) ** 2)) * fade * np.float32(strengths[number])
        np.maximum(lines[near.where], line, out=lines[near.where])
    if chance(rng, 0.5):
        _add_loops(rng, lines, size * rng.uniform(0.008, 0.03), thickness)
    image = 0.7 + _bend_contours(rng, size) - rng.uniform(0.3, 0.6) * lines
    image += rng.uniform(0.005, 0.03) * smooth_field(rng, size, rng.uniform(0.6, 1.5))
    if chance(rng, 0.2):  # weak-beam dark field: lines are bright
        image = 1.05 - image
    return Drawing.of(image)


def _add_loops(rng: np.random.Generator, lines: Field, radius: float, thickness: float) -> None:
    """Draw small prismatic loops and black dots into `lines`."""
    size = len(lines)
    count = int(rng.integers(5, 40))
    radii = radius * rng.uniform(0.5, 1.5, count)
    for number, near in windows(size, rng.uniform(0, size, (count, 2)), radii + 4):
        across, along = turned(near.dy, near.dx, rng.uniform(0, np.pi))
        off = np.hypot(across / rng.uniform(0.4, 1), along) - np.float32(radii[number])
        np.maximum(
            lines[near.where], 0.8 * np.exp(-((off / thickness) ** 2)), out=lines[near.where]
        )


def _bend_contours(rng: np.random.Generator, size: int) -> Field:
    """Broad dark bands where the bent foil meets the Bragg condition, over uneven thickness."""
    height = smooth_field(rng, size, 0.35 * size)
    bands = np.exp(-(((height - rng.uniform(-1, 1)) / rng.uniform(0.1, 0.3)) ** 2))
    contours = rng.uniform(0.02, 0.1) * smooth_field(rng, size, 0.25 * size)
    return np.asarray(contours - rng.uniform(0, 0.3) * bands, dtype=np.float32)
