"""Drawings of materials whose phases fill the image: metals, ceramics and coatings."""

import numpy as np
from scipy import ndimage

from shards.synthetic.drawing import (
    Cells,
    Drawing,
    Field,
    Mask,
    bent,
    chance,
    count_for,
    coverage,
    either,
    grid,
    log_uniform,
    scattered,
    smooth_field,
    smooth_profile,
    turned,
    voronoi,
    windows,
)


def grains(rng: np.random.Generator, size: int) -> Drawing:
    """A polycrystal in channelling contrast, at times rolled, twinned or etched."""
    pitch = size * log_uniform(rng, 0.07, 0.26)
    stretch = log_uniform(rng, 1.2, 2.5) if chance(rng, 0.3) else 1.0
    cells = voronoi(rng, size, pitch, stretch, rng.uniform(0, np.pi), waviness=0.06)
    spread = rng.uniform(0.05, 0.22)
    image = 0.5 + spread * cells.share(rng.uniform(-1.7, 1.7, cells.count))
    if chance(rng, 0.5):
        image += spread * _twins(rng, size, cells, pitch)
    image += 0.15 * spread * smooth_field(rng, size, 0.3 * pitch)  # bent lattice inside a grain
    groove = rng.choice([0.0, -0.35, 0.3], p=[0.3, 0.5, 0.2])
    image += groove * np.exp(-((cells.edge / rng.uniform(0.7, 1.6)) ** 2))
    return Drawing.of(image)


def _twins(rng: np.random.Generator, size: int, cells: Cells, pitch: float) -> Field:
    """Straight-sided bands of another orientation, in some of the grains."""
    y, x = grid(size)
    across, _ = turned(y, x, cells.share(rng.uniform(0, np.pi, cells.count)))
    period = pitch * cells.share(rng.uniform(0.5, 1.5, cells.count))
    thickness = cells.share(rng.uniform(0.1, 0.4, cells.count))
    twinned = cells.share(rng.uniform(-1.5, 1.5, cells.count) * (rng.random(cells.count) < 0.4))
    phase = cells.share(rng.random(cells.count))
    return np.asarray(((across / period + phase) % 1 < thickness) * twinned, dtype=np.float32)


def laths(rng: np.random.Generator, size: int) -> Drawing:
    """Martensite or bainite: packets of irregular laths, between prior grain boundaries."""
    packets = voronoi(rng, size, size * log_uniform(rng, 0.25, 0.7), waviness=0.08)
    width = size * log_uniform(rng, 0.018, 0.05)
    y, x = bent(rng, size, 3 * width, rng.uniform(0.2, 0.6) * width)
    # A prior grain transforms along few habit planes, so that packets share directions.
    variants = rng.uniform(0, np.pi, 4)
    angle = packets.share(rng.choice(variants, packets.count) + rng.normal(0, 0.1, packets.count))
    across, along = turned(y, x, angle)
    across = across + packets.share(rng.uniform(3 * size, 6 * size, packets.count))
    steps = rng.gamma(3, 1 / 3, int(9 * size / width)).clip(0.3) * width
    edges = np.cumsum(steps)
    strip = np.searchsorted(edges, across).clip(1, len(edges) - 1)
    length = width * rng.uniform(8, 28, len(edges)).astype(np.float32)
    slant = rng.uniform(-3, 3, len(edges)).astype(np.float32)  # laths end in points, not squarely
    start = rng.uniform(20, 40, len(edges)).astype(np.float32)
    within = (across - edges[strip]).astype(np.float32)
    run = (along + slant[strip] * within) / length[strip] + start[strip]
    side = np.minimum(across - edges[strip - 1], edges[strip] - across)
    end = np.minimum(run % 1, 1 - run % 1) * length[strip]
    rim = np.minimum(side, 0.35 * end).astype(np.float32)
    levels = rng.uniform(-1, 1, 997)  # prime: neighbouring laths get unrelated entries
    grey = levels[(strip * 61 + run.astype(np.int64) * 389) % len(levels)].astype(np.float32)
    film = np.exp(-((rim / rng.uniform(0.7, 1.3)) ** 2))
    film *= coverage(smooth_field(rng, size, 1.5 * width) + rng.uniform(-0.3, 1.0))
    image = (
        0.5 + rng.uniform(0.03, 0.16) * grey + rng.choice([-1, 1]) * rng.uniform(0.1, 0.4) * film
    )
    image += 0.08 * packets.share(rng.uniform(-1, 1, packets.count))
    image -= rng.uniform(0, 0.25) * np.exp(-((packets.edge / 1.2) ** 2))
    return Drawing.of(image)


def pearlite(rng: np.random.Generator, size: int) -> Drawing:
    """Eutectic or eutectoid lamellae in colonies, at times with a second constituent between."""
    colonies = voronoi(rng, size, size * log_uniform(rng, 0.25, 0.8), waviness=0.08)
    spacing = size * log_uniform(rng, 0.028, 0.1)
    y, x = bent(rng, size, 2.5 * spacing, rng.uniform(0.1, 0.5) * spacing)
    across, along = turned(y, x, colonies.share(rng.uniform(0, np.pi, colonies.count)))
    # The section cuts each colony at its own angle: the apparent spacing only grows.
    apparent = spacing * colonies.share(1 / rng.uniform(0.45, 1.0, colonies.count))
    bow = colonies.share(rng.normal(0, 0.25, colonies.count)) * along**2 / size
    phase = (across + bow) / apparent + rng.uniform(0.03, 0.2) * smooth_field(rng, size, spacing)
    wave = np.cos(2 * np.pi * phase.astype(np.float32))
    thinness = rng.uniform(-0.2, 0.75) + rng.uniform(0, 0.45) * smooth_field(rng, size, spacing)
    plates = coverage((wave - thinness) * apparent / (2 * np.pi), softness=1.3)
    ferrite, cementite = either(rng, 0.5 - rng.uniform(0.08, 0.35), 0.5 + rng.uniform(0.08, 0.35))
    if chance(rng, 0.4):  # proeutectoid film along the former grain boundaries
        film = size * rng.uniform(0.01, 0.05) * (1 + 0.5 * smooth_field(rng, size, 0.04 * size))
        plates *= coverage(colonies.edge - film)
    image = ferrite + (cementite - ferrite) * plates
    image += 0.06 * colonies.share(rng.uniform(-1, 1, colonies.count))
    return Drawing.of(image)


def dendrites(rng: np.random.Generator, size: int) -> Drawing:
    """As-cast dendrites, cut along their trunks (feathers) or across them (crosses)."""
    arm = size * log_uniform(rng, 0.035, 0.09)  # secondary arm spacing
    depth = _feathers(rng, size, arm) if chance(rng, 0.5) else _crosses(rng, size, arm)
    depth += np.float32(0.08 * arm) * smooth_field(rng, size, 0.4 * arm)
    solid = coverage(depth, softness=arm * rng.uniform(0.15, 0.6))
    core, melt = either(rng, 0.5 - rng.uniform(0.08, 0.3), 0.5 + rng.uniform(0.08, 0.3))
    image = melt + (core - melt) * solid
    if chance(rng, 0.6):  # eutectic or carbides that froze last
        last = coverage(smooth_field(rng, size, 0.18 * arm) * 2 - np.float32(rng.uniform(1, 3)))
        image += rng.choice([-1, 1]) * 0.3 * last * (1 - solid)
    return Drawing.of(image)


def _feathers(rng: np.random.Generator, size: int, arm: float) -> Field:
    """Depth in pixels inside parallel trunks whose side arms lean towards the growing tip."""
    y, x = bent(rng, size, 1.5 * arm, rng.uniform(0.08, 0.25) * arm)
    angle: float | Field = rng.uniform(0, np.pi)
    if chance(rng, 0.4):  # several grains, each growing its own way
        colonies = voronoi(rng, size, size * rng.uniform(0.5, 1.2))
        angle = colonies.share(rng.uniform(0, np.pi, colonies.count))
    across, along = turned(y - size / 2, x - size / 2, angle)
    pitch = arm * rng.uniform(3.5, 6.5)
    column = np.floor(across / pitch + 0.5)
    shift = rng.uniform(0, arm, 211).astype(np.float32)[(17 * column.astype(np.int64)) % 211]
    u = np.abs(across - column * np.float32(pitch))
    v = along + shift - u * np.float32(rng.uniform(0.0, 0.7))
    trunk = arm * rng.uniform(0.2, 0.4)
    taper = np.clip(1 - (u / (0.5 * pitch * rng.uniform(0.8, 1.15))) ** 2, 0, 1)
    side_arm = arm * rng.uniform(0.26, 0.4) * taper - np.abs((v / arm) % 1 - 0.5) * arm
    return np.asarray(np.maximum(trunk - u, side_arm), dtype=np.float32)


def _crosses(rng: np.random.Generator, size: int, arm: float) -> Field:
    """Depth in pixels inside fourfold stars with side arms, all of one crystal orientation."""
    y, x = bent(rng, size, 1.5 * arm, rng.uniform(0.08, 0.25) * arm)
    half = arm * rng.uniform(2.2, 4)
    centres = scattered(rng, size, np.full(count_for(size, half, 0.9), half), rounds=10)
    reach = half * rng.uniform(1.0, 1.35, len(centres))
    angle, thin = rng.uniform(0, np.pi / 2), rng.uniform(0.24, 0.36)
    depth = np.full((size, size), -arm, dtype=np.float32)
    for number, near in windows(size, centres, 1.5 * reach):
        cy, cx = centres[number]
        turn = angle + rng.normal(0, 0.04)
        across, along = turned(y[near.where] - cy, x[near.where] - cx, turn)
        u, v = np.abs(across), np.abs(along)
        u, v = np.minimum(u, v), np.maximum(u, v)
        to_tip = np.clip(1 - v / reach[number], 0, 1)
        trunk = arm * (0.15 + 0.4 * to_tip) * (to_tip > 0) - u
        # Side arms are longest midway: near the centre the other trunk is in their way.
        side = np.clip(1 - u / np.minimum(0.75 * v, 0.9 * reach[number] * to_tip + 1e-3), 0, 1)
        side_arm = arm * (1.6 * thin * np.sqrt(side) - np.abs((v / arm + 0.4) % 1 - 0.5))
        star = np.maximum(trunk, np.where(side > 0, side_arm, -arm)).astype(np.float32)
        np.maximum(depth[near.where], star, out=depth[near.where])
    return depth


def precipitates(rng: np.random.Generator, size: int) -> Drawing:
    """A superalloy: cuboidal secondary precipitates, tiny tertiary ones in the channels between."""
    pitch = size * log_uniform(rng, 0.1, 0.24)
    depth = _cuboids(rng, size, pitch)
    mask = (depth > 0).astype(np.uint8)
    tertiary = _tertiary(rng, size, mask)
    mask[tertiary > 0.5] = 2
    rim = rng.uniform(0, 0.35) * np.exp(-(((depth + 1.5) / rng.uniform(1.0, 2.5)) ** 2))
    contrast = rng.choice([-1, 1], p=[0.65, 0.35]) * rng.uniform(0.12, 0.4)
    inside = np.maximum(coverage(depth, softness=rng.uniform(1, 2.5)), tertiary)
    image = 0.5 + contrast * (inside - 0.5) + abs(contrast) * rim * (depth < 1)
    image += rng.uniform(0.0, 0.03) * smooth_field(rng, size, 0.02 * size)
    return Drawing.of(image + _scratches(rng, size), mask)


def _cuboids(rng: np.random.Generator, size: int, pitch: float) -> Field:
    """Depth in pixels below the outline of rounded, aligned cubes on a disturbed lattice."""
    count = int(1.6 * size / pitch) + 2
    lattice = np.argwhere(np.ones((count, count))) - (count - 1) / 2
    lattice = lattice + rng.uniform(0.05, 0.35) * rng.standard_normal(lattice.shape)
    angle = rng.uniform(0, np.pi / 2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centres = size / 2 + pitch * lattice @ turn
    half = pitch * rng.uniform(0.34, 0.52) * np.exp(rng.normal(0, 0.22, (len(centres), 2)))
    centres = centres[keep := rng.random(len(centres)) > rng.uniform(0, 0.2)]
    half = half[keep].clip(0.15 * pitch, 0.75 * pitch)
    power = np.float32(rng.uniform(2.2, 6))
    wavy_y, wavy_x = (
        np.float32(pitch * rng.uniform(0.02, 0.07)) * smooth_field(rng, size, 0.15 * pitch)
        for _ in range(2)
    )
    first = np.full((size, size), -pitch, dtype=np.float32)
    second = first.copy()
    for number, near in windows(size, centres, 2 * half.max(axis=1)):
        dy, dx = near.dy + wavy_y[near.where], near.dx + wavy_x[near.where]
        across, along = turned(dy, dx, angle)
        b, a = half[number].astype(np.float32)
        radius = (np.abs(across / b) ** power + np.abs(along / a) ** power) ** (1 / power)
        depth = (1 - radius) * np.minimum(a, b)
        second[near.where] = np.maximum(second[near.where], np.minimum(first[near.where], depth))
        first[near.where] = np.maximum(first[near.where], depth)
    if chance(rng, 0.7):  # a film of matrix parts neighbours; elsewhere they have merged
        film = max(2.0, pitch * rng.uniform(0.08, 0.25))
        return np.asarray(np.minimum(first, (first - second - film) / 2), dtype=np.float32)
    return first


def _tertiary(rng: np.random.Generator, size: int, secondary: Mask) -> Field:
    """Coverage by small discs that touch neither a larger precipitate nor each other."""
    room = ndimage.distance_transform_edt(secondary == 0)
    radius = min(max(1.2, size * log_uniform(rng, 0.008, 0.018)), 0.45 * float(room.max()))
    crowded = smooth_field(rng, size, 0.12 * size) > rng.uniform(-1.5, 0.6)
    free = np.argwhere((room > radius + 1.2) & crowded)
    drawn = np.zeros((size, size), dtype=np.float32)
    wanted = round(log_uniform(rng, 15, 120))
    centres = rng.permutation(free)[: 4 * wanted].astype(np.float64)
    centres += rng.uniform(-0.4, 0.4, centres.shape)  # off the pixel grid
    radii = radius * rng.uniform(0.75, 1.2, len(centres))
    for number, near in windows(size, centres, radii + 2):
        depth = np.float32(radii[number]) - np.hypot(near.dy, near.dx)
        if wanted > 0 and not drawn[near.where][depth > -1.5].any():
            np.maximum(drawn[near.where], coverage(depth), out=drawn[near.where])
            wanted -= 1
    return drawn


def _scratches(rng: np.random.Generator, size: int) -> Field:
    """Faint lines left by polishing, on some of the specimens."""
    y, x = grid(size)
    lines = np.zeros((size, size), dtype=np.float32)
    for _ in range(int(rng.integers(1, 6)) if chance(rng, 0.3) else 0):
        across, along = turned(
            y - rng.uniform(0, size), x - rng.uniform(0, size), rng.uniform(0, 3)
        )
        fade = np.exp(-((along / (size * rng.uniform(0.1, 0.4))) ** 2))
        lines += np.float32(rng.normal(0, 0.1)) * fade * np.exp(-(across**2))
    return lines


def pores(rng: np.random.Generator, size: int) -> Drawing:
    """A porous ceramic: an open network of cavities, or rounded closed ones."""
    pore = size * log_uniform(rng, 0.018, 0.06)
    depth = _network(rng, size, pore) if chance(rng, 0.6) else _bubbles(rng, size, 2 * pore)
    solid_grey = rng.uniform(0.5, 0.75)
    texture = rng.uniform(0, 0.05) * smooth_field(rng, size, rng.uniform(0.5, 2))
    if chance(rng, 0.4):  # grains of the ceramic, barely told apart
        cells = voronoi(rng, size, pore * rng.uniform(2, 5))
        texture += rng.uniform(0.02, 0.06) * cells.share(rng.uniform(-1.5, 1.5, cells.count))
    if chance(rng, 0.3):  # curtains below the pores of an ion-milled section
        texture += rng.uniform(0.01, 0.05) * smooth_field(rng, size, 0.8, 30, np.pi / 2)
    # Deep cavities are black; shallow ones show a rough floor and a lit far wall.
    floor = 0.25 * np.exp(-np.clip(depth, 0, None) / (pore * rng.uniform(0.3, 1.5)))
    floor += rng.uniform(0, 0.12) * np.clip(smooth_field(rng, size, 0.6 * pore), 0, 2)
    rim = rng.uniform(0, 0.3) * np.exp(-(((depth + 1) / rng.uniform(0.8, 2.0)) ** 2)) * (depth < 0)
    void = coverage(depth, softness=rng.uniform(1, 2))
    image = (solid_grey + texture + rim) * (1 - void) + floor * void
    return Drawing.of(image, depth > 0)


def _network(rng: np.random.Generator, size: int, pore: float) -> Field:
    """Depth in pixels inside the cavities of a thresholded random field."""
    field = smooth_field(rng, size, pore, rng.uniform(1, 1.8), rng.uniform(0, np.pi))
    field = field + rng.uniform(0.1, 0.4) * smooth_field(rng, size, 0.35 * pore)
    level = np.quantile(field, 1 - rng.uniform(0.08, 0.42))
    return np.asarray((field - level) * pore, dtype=np.float32)


def _bubbles(rng: np.random.Generator, size: int, radius: float) -> Field:
    """Depth in pixels inside rounded cavities of mixed sizes."""
    count = int(rng.uniform(0.1, 0.45) * size**2 / (np.pi * radius**2)) + 4
    radii = radius * np.exp(rng.normal(-0.2, 0.5, count)).clip(0.25, 2.5)
    centres = scattered(rng, size, radii, rounds=2)
    flatness = rng.uniform(0.6, 1.0)
    angle = rng.uniform(0, np.pi)
    depth = np.full((size, size), -2 * radius, dtype=np.float32)
    for number, near in windows(size, centres, radii * 1.7 + 3):
        across, along = turned(near.dy, near.dx, angle)
        inside = np.float32(radii[number]) - np.hypot(across / flatness, along)
        np.maximum(depth[near.where], inside, out=depth[near.where])
    return depth + np.float32(0.12 * radius) * smooth_field(rng, size, 0.4 * radius)


def layered_oxide(rng: np.random.Generator, size: int) -> Drawing:
    """A coating in section: porous top coat, cracked oxide of uneven thickness, bond coat."""
    y, x = grid(size)
    tilt = rng.normal(0, 0.06) * (np.arange(size, dtype=np.float32) - size / 2)
    top = size * rng.uniform(0.25, 0.6) + tilt
    top = top + size * log_uniform(rng, 0.008, 0.04) * smooth_profile(rng, size, 0.1 * size)
    top = top + size * log_uniform(rng, 0.003, 0.012) * smooth_profile(rng, size, 0.02 * size)
    thickness = (
        size
        * log_uniform(rng, 0.06, 0.22)
        * np.exp(rng.uniform(0.1, 0.35) * smooth_profile(rng, size, 0.12 * size))
    )
    bottom = top + np.maximum(thickness, 3)
    oxide = np.minimum(coverage(y - top), coverage(bottom - y))
    bond = coverage(y - bottom)

    bond_grey = rng.uniform(0.2, 0.5)
    oxide_grey = bond_grey + rng.choice([-1, 1]) * rng.uniform(0.06, 0.18)
    top_grey = max(bond_grey, oxide_grey) + rng.uniform(0.12, 0.4)
    image = top_grey * (1 - oxide - bond) + oxide_grey * oxide + bond_grey * bond
    speckle = smooth_field(rng, size, size * log_uniform(rng, 0.006, 0.015), rng.uniform(1, 4))
    holes = coverage((speckle - rng.uniform(1.1, 2.2)) * 2) * (1 - oxide - bond)
    sparse = smooth_field(rng, size, 0.012 * size, rng.uniform(1, 2))
    holes += coverage((sparse - rng.uniform(2.4, 3.2)) * 2) * bond
    image = image * (1 - holes) + rng.uniform(0.0, 0.12) * holes
    if chance(rng, 0.35):  # mounting resin above the specimen
        surface = size * (rng.uniform(0.03, 0.15) + 0.015 * smooth_profile(rng, size, 0.05 * size))
        image = np.where(y < surface, rng.uniform(0.02, 0.12), image)

    cracks = _vertical_cracks(rng, y, x, top, bottom)
    if chance(rng, 0.25):  # the oxide comes off along its lower face
        path = bottom + size * 0.006 * smooth_profile(rng, size, 0.03 * size)
        opening = size * 0.008 * np.clip(smooth_profile(rng, size, 0.15 * size) + 0.3, 0, None)
        cracks = np.maximum(cracks, coverage(opening - np.abs(y - path)))
    image = image * (1 - cracks) + rng.uniform(0.0, 0.1) * cracks
    mask = ((oxide > 0.5) * 1).astype(np.uint8)
    mask[cracks > 0.5] = 2
    image += rng.uniform(0, 0.02) * smooth_field(rng, size, 1.0)
    return Drawing.of(image, mask)


def _vertical_cracks(
    rng: np.random.Generator, y: Field, x: Field, top: Field, bottom: Field
) -> Field:
    """Coverage by thin wandering cracks that cross the oxide, partly or fully."""
    size = len(y)
    cracks = np.zeros((size, size), dtype=np.float32)
    for foot in rng.uniform(0, size, int(rng.integers(1, 5))):
        column = int(foot)
        high = top[column] - size * rng.uniform(-0.02, 0.03)
        low = high + (bottom[column] - top[column]) * rng.uniform(0.5, 1.2)
        path = foot + size * 0.012 * smooth_profile(rng, size, 0.04 * size)
        path = path + rng.normal(0, 0.15) * (np.arange(size, dtype=np.float32) - high)
        width = max(0.7, size * rng.uniform(0.003, 0.008))
        taper = np.clip(np.minimum(y - high, 2 * (low - y)) / 3 + 0.5, 0, 1)
        inside = width * np.sqrt(taper) - np.abs(x - path[:, None])
        cracks = np.maximum(cracks, coverage(inside) * (taper > 0))
    return cracks
