"""Ball-and-stick pictures of molecules: spheres and cylinders met by parallel rays, with soft light and outlines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from modalities.molecules.elements import symbol_of
from modalities.molecules.molecule import Numbers, Orders, Positions

COLORS = {  # the customary ones (Corey, Pauling, Koltun), softened for white paper
    "H": "#f4f5f8", "B": "#f0a99c", "C": "#5b616d", "N": "#3d68e0", "O": "#e2382f", "F": "#53c25d", "Si": "#d9b98c",
    "P": "#f08a24", "S": "#f2c230", "Cl": "#2fae4a", "Br": "#9c3d2a", "I": "#7a3a9e", "Se": "#e6a12e",
}  # fmt: skip
OTHER = "#b98fc7"  # of all other elements
BALL = 0.25  # radius of a ball, as a part of the van der Waals radius
STICK = {1: 0.115, 2: 0.075, 3: 0.06}  # radius of a bond's cylinders in angstrom, by its order
APART = {1: 0.0, 2: 0.115, 3: 0.15}  # how far the outer ones are from the axis
LIGHT = np.array([-0.42, 0.6, 0.68])  # where it comes from: (right, up, towards the viewer)
LIGHT /= np.linalg.norm(LIGHT)
HALFWAY = LIGHT + np.array([0, 0, 1])  # between the light and the viewer
HALFWAY /= np.linalg.norm(HALFWAY)
AMBIENT, DIFFUSE, SHINE, GLOSS = 0.6, 0.52, 0.4, 42.0
SHADE = 0.62  # how much nearby balls darken
MIST, MIST_DEPTH = 0.4, 8.0  # how much what lies so many angstrom behind the nearest atom fades into the paper
EDGE, EDGE_STEP = 0.72, 0.5  # darkness of outlines; the step in depth, in angstrom, that has a full one
FINER = 3  # rays per pixel and axis

Picture = UInt8[np.ndarray, "height width 3"]
Rays = Float[np.ndarray, "height width 3"]
Turn = Float[np.ndarray, "3 3"]


@cache
def color(number: int) -> tuple[float, float, float]:
    """Of an element, each channel in [0, 1]."""
    code = COLORS.get(symbol_of(number), OTHER)
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


@cache
def radius(number: int) -> float:
    """Of an element's ball, in angstrom."""
    from rdkit.Chem import GetPeriodicTable

    return BALL * GetPeriodicTable().GetRvdw(number)


def facing(positions: Positions) -> Turn:
    """The rotation that shows the molecule at its widest: longest axis to the right, shortest towards the viewer.

    It is leaned back and aside a little, so that flat molecules look solid too. `positions @ facing(positions).T` are
    the coordinates (right, up, towards the viewer); no molecule becomes its mirror image.
    """
    around = positions - positions.mean(0)
    axes = np.linalg.svd(around.T @ around + np.diag([3e-6, 2e-6, 1e-6]))[2]
    skew = ((around @ axes.T) ** 3).sum(0)
    axes *= np.where(skew < 0, -1.0, 1.0)[:, None]  # one way of two, the same for every copy of a molecule
    axes[2] = np.cross(axes[0], axes[1])
    return about(0, 0.32) @ about(1, 0.3) @ axes


def about(axis: int, angle: float) -> Turn:
    """The rotation by an angle in radians about the axis to the right (0), up (1) or towards the viewer (2)."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3)
    turn[i, i] = turn[j, j] = np.cos(angle)
    turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
    return turn


def reach(positions: Positions, numbers: Numbers) -> tuple[float, float]:
    """How far the balls reach from the origin, to the sides and up or down, in angstrom."""
    radii = np.array([radius(number) for number in numbers.tolist()])
    across, high = (np.abs(positions[:, :2]) + radii[:, None]).max(0)
    return float(across), float(high)


def draw(
    positions: Positions,
    numbers: Numbers,
    orders: Orders,
    size: tuple[int, int],
    unit: float,
    finer: int = FINER,
) -> Picture:
    """A picture of size (width, height) in pixels, on white.

    positions: (right, up, towards the viewer) in angstrom, from the middle of the picture.  unit: pixels per angstrom.
    finer: rays per pixel and axis, of which the pixel is the mean.
    """
    scene = _Scene(size[0] * finer, size[1] * finer, unit * finer)
    balls = [radius(number) for number in numbers.tolist()]
    for place, number, ball in zip(positions, numbers.tolist(), balls, strict=True):
        scene.ball(place, ball, color(number))
    for i, j in np.argwhere(np.triu(orders)):
        colors = (color(int(numbers[i])), color(int(numbers[j])))
        middle = 0.5 + (balls[i] - balls[j]) / (2 * max(np.linalg.norm(positions[i] - positions[j]), 1e-6))
        for shift in _shifts(positions[i], positions[j], int(orders[i, j])):
            scene.stick(positions[i] + shift, positions[j] + shift, STICK[int(orders[i, j])], colors, middle)
    light = scene.light(positions, np.array(balls))
    picture = Image.fromarray((light * 255).round().astype(np.uint8))
    return np.asarray(picture.reduce(finer) if finer > 1 else picture)


def _shifts(start: Float[np.ndarray, "3"], end: Float[np.ndarray, "3"], order: int) -> list[Float[np.ndarray, "3"]]:
    """Where the cylinders of a bond lie, beside its axis: side by side as the viewer sees it."""
    aside = np.array([start[1] - end[1], end[0] - start[0], 0.0])
    length = np.linalg.norm(aside)
    aside = aside / length if length > 1e-6 else np.array([1.0, 0, 0])
    places = {1: (0.0,), 2: (-1.0, 1.0), 3: (-1.0, 0.0, 1.0)}[order]
    return [APART[order] * place * aside for place in places]


class _Scene:
    """What each ray meets first: how near it is, which way its surface faces, and its colour."""

    def __init__(self, width: int, height: int, unit: float) -> None:
        self.unit = unit
        self.x = (np.arange(width) - (width - 1) / 2) / unit
        self.y = ((height - 1) / 2 - np.arange(height)) / unit
        self.depth = np.full((height, width), -np.inf, dtype=np.float32)
        self.normal = np.zeros((height, width, 3), dtype=np.float32)
        self.paint = np.zeros((height, width, 3), dtype=np.float32)

    def ball(self, centre: Float[np.ndarray, "3"], ball: float, paint: Sequence[float]) -> None:
        window, x, y = self._window(centre[:2] - ball, centre[:2] + ball)
        x, y = x - centre[0], y - centre[1]
        square = ball**2 - x**2 - y**2
        z = np.sqrt(square.clip(min=0))
        normal = np.stack(np.broadcast_arrays(x, y, z), -1) / ball
        self._put(window, square > 0, z + centre[2], normal, np.array(paint))

    def stick(
        self,
        start: Float[np.ndarray, "3"],
        end: Float[np.ndarray, "3"],
        thick: float,
        paints: Sequence[Sequence[float]],
        middle: float,
    ) -> None:
        """A cylinder without ends, which are inside the balls; its colour changes at `middle`, between 0 and 1."""
        length = float(np.linalg.norm(end - start))
        if length < 1e-6:
            return
        axis = (end - start) / length
        slant = 1 - axis[2] ** 2
        if slant < 1e-6:  # seen from its end: a ball hides it
            return
        low, high = np.minimum(start, end)[:2] - thick, np.maximum(start, end)[:2] + thick
        window, x, y = self._window(low, high)
        x, y = x - start[0], y - start[1]
        along = x * axis[0] + y * axis[1]
        # the ray (x, y, z) is `thick` away from the axis where slant z² - 2 axis_z along z + rest = 0
        rest = x**2 + y**2 - along**2 - thick**2
        root = (axis[2] * along) ** 2 - slant * rest
        z = (axis[2] * along + np.sqrt(root.clip(min=0))) / slant
        place = along + z * axis[2]
        normal = (np.stack(np.broadcast_arrays(x, y, z), -1) - place[..., None] * axis) / thick
        paint = np.where((place < middle * length)[..., None], paints[0], paints[1])
        self._put(window, (root > 0) & (place > 0) & (place < length), z + start[2], normal, paint)

    def light(self, centres: Positions, balls: Float[np.ndarray, " n"]) -> Rays:
        """The colours of all rays, (height, width, 3) in [0, 1]; white where they meet nothing."""
        met = np.isfinite(self.depth)
        light = np.ones_like(self.paint)
        if not met.any():
            return light
        normal, depth = self.normal[met], self.depth[met]
        row, column = np.nonzero(met)
        points = np.stack([self.x[column], self.y[row], depth], -1).astype(np.float32)
        lambert = (normal @ LIGHT).clip(min=0) * 0.85 + (0.5 + 0.5 * normal[:, 1]) * 0.15
        shine = (normal @ HALFWAY).clip(min=0) ** GLOSS
        open_ = 1 - SHADE * _shadow(points, normal, centres.astype(np.float32), balls.astype(np.float32))
        color = self.paint[met] * ((AMBIENT + DIFFUSE * lambert) * open_)[:, None] + (SHINE * shine * open_)[:, None]
        far = ((depth.max() - depth) / MIST_DEPTH).clip(0, 1)[:, None]
        light[met] = color.clip(0, 1) * (1 - MIST * far) + MIST * far
        return (light * (1 - self._edges()[..., None])).clip(0, 1)

    def _window(self, low: Float[np.ndarray, "2"], high: Float[np.ndarray, "2"]) -> tuple[tuple[slice, slice], ...]:
        """The rays within a box: their place in the picture, x as a row and y as a column."""
        columns = slice(*np.searchsorted(self.x, [low[0], high[0]]))
        rows = slice(*np.searchsorted(-self.y, [-high[1], -low[1]]))
        return (rows, columns), self.x[None, columns], self.y[rows, None]

    def _put(self, window: tuple[slice, slice], hit: Bool[np.ndarray, "h w"], depth, normal, paint) -> None:
        """Draws what is nearer than all that was drawn before."""
        nearer = hit & (depth > self.depth[window])
        self.depth[window][nearer] = depth[nearer]
        self.normal[window][nearer] = normal[nearer]
        self.paint[window][nearer] = paint[nearer] if paint.ndim == 3 else paint

    def _edges(self) -> Float[np.ndarray, "height width"]:
        """Dark lines behind what is nearer: on the far side of each step in depth, one pixel or so wide."""
        wide = max(1, round(0.02 * self.unit))
        nearest = self.depth
        for axis in (0, 1):
            nearest = _maximum(nearest, wide, axis)
        with np.errstate(invalid="ignore"):
            step = np.where(np.isfinite(nearest), nearest - self.depth, 0)
        return EDGE * ((step - 0.12) / EDGE_STEP).clip(0, 1)


def _maximum(values: Float[np.ndarray, "h w"], wide: int, axis: int) -> Float[np.ndarray, "h w"]:
    """The largest value at most `wide` places away."""
    found = values.copy()
    size = values.shape[axis]
    for shift in range(1, min(wide, size - 1) + 1):
        near, far = [slice(None)] * 2, [slice(None)] * 2
        near[axis], far[axis] = slice(0, size - shift), slice(shift, size)
        np.maximum(found[tuple(near)], values[tuple(far)], out=found[tuple(near)])
        np.maximum(found[tuple(far)], values[tuple(near)], out=found[tuple(far)])
    return found


def _shadow(
    points: Float[np.ndarray, "p 3"],
    normal: Float[np.ndarray, "p 3"],
    centres: Float[np.ndarray, "n 3"],
    balls: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " p"]:
    """How much of the sky above each point nearby balls hide, 0 to 1: each its part of the half-sphere, by a cosine."""
    hidden = np.zeros(len(points), dtype=np.float32)
    for centre, ball in zip(centres, balls, strict=True):
        way = centre - points
        square = np.einsum("pi,pi->p", way, way)
        cosine = np.einsum("pi,pi->p", way, normal) / np.sqrt(square)
        hidden += cosine.clip(min=0) * (1.6 * ball) ** 2 / np.maximum(square, (1.6 * ball) ** 2)
    return 1 - np.exp(-hidden)
