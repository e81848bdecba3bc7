r"""Surface normals from a depth map: planes fitted to windows.

The inverse depth of a plane is an affine function of the pixel, :math:`1/z = a + b u + c v`, and
the noise of a Kinect is about uniform in disparity, which is proportional to it. So an affine
least-squares fit of the inverse depth is exact on planes, and all its sums are box filters.
"""

from dataclasses import dataclass

import numpy as np

WINDOW = 15  # pixels, height and width
_UNEVEN = 0.03  # root mean square of the fit, relative to 1/z, above which a window is not a plane


@dataclass(frozen=True)
class Camera:
    """Pinhole camera: the pixel in column u and row v, counted from 0, sees (u - cx) / fx."""

    fx: float
    fy: float
    cx: float
    cy: float


# colour camera of NYUv2 at 640 x 480, to which the labelled frames' depth is registered: the data
# set's toolbox, camera_params.m
KINECT = Camera(fx=518.857901, fy=519.469611, cx=325.582449, cy=253.736166)


def estimate_normals(depth: np.ndarray, camera: Camera, window: int = WINDOW) -> np.ndarray:
    """Estimate the unit normals of the surfaces that a depth map shows.

    A plane is fitted to the window around every pixel. Where that is no plane (a depth edge, a
    crease), the flattest of the nine windows that have the pixel in the middle, at a corner or in
    the middle of a side is taken instead, so that no normal mixes two surfaces where it need not.

    Args:
        depth: Distances along the optical axis in any unit, shape ``[H, W]``; 0 where unknown.
        camera: Camera of this map.
        window: Side of the window in pixels, odd.

    Returns:
        Normals, float32, shape ``[H, W, 3]``, in the camera's frame: x to the right, y down, z
        forward; they point towards the camera, so that a wall seen at a right angle has (0, 0, -1).
        Zero where the depth is unknown or fewer than three pixels in general position are known.
    """
    is_known = depth > 0
    inverse = np.where(is_known, 1 / np.where(is_known, depth, 1).astype(np.float64), 0.0)
    height, width = depth.shape
    v, u = np.meshgrid(np.arange(height) - camera.cy, np.arange(width) - camera.cx, indexing="ij")
    fit, residual = _fit_affine(u, v, inverse, is_known.astype(np.float64), window // 2)
    fit = _flattest(fit, residual, inverse, window // 2)
    # of a plane <n, X> = 1: 1/z = n_x (u - cx)/fx + n_y (v - cy)/fy + n_z, and n points away
    normals = -np.stack([fit[1] * camera.fx, fit[2] * camera.fy, fit[0]], axis=-1)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    valid = is_known[..., None] & np.isfinite(length) & (length > 0)
    units: np.ndarray = np.where(valid, normals / np.where(valid, length, 1), 0)
    result: np.ndarray = units.astype(np.float32)
    return result


def _fit_affine(
    u: np.ndarray, v: np.ndarray, q: np.ndarray, weight: np.ndarray, radius: int
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of q = a + b u + c v in the window around every pixel.

    Returns:
        a, b, c, shape ``[3, H, W]``, NaN where they are not determined; and the root mean square
        residual, infinite there.
    """

    def mean(values: np.ndarray) -> np.ndarray:
        result: np.ndarray = _box_sum(weight * values, radius) / count
        return result

    count = np.maximum(_box_sum(weight, radius), 1)
    mu, mv, mq = mean(u), mean(v), mean(q)
    uu, uv, vv = mean(u * u) - mu**2, mean(u * v) - mu * mv, mean(v * v) - mv**2
    uq, vq, qq = mean(u * q) - mu * mq, mean(v * q) - mv * mq, mean(q * q) - mq**2
    determinant = uu * vv - uv**2
    # in squared pixels squared: three pixels at the corners of a unit square have 1/27
    determined = determinant > 1e-3
    divisor = np.where(determined, determinant, 1)
    b = np.where(determined, (vv * uq - uv * vq) / divisor, np.nan)
    c = np.where(determined, (uu * vq - uv * uq) / divisor, np.nan)
    square = np.maximum(qq - b * uq - c * vq, 0)
    return np.stack([mq - b * mu - c * mv, b, c]), np.where(determined, np.sqrt(square), np.inf)


def _flattest(fit: np.ndarray, residual: np.ndarray, q: np.ndarray, radius: int) -> np.ndarray:
    """Replace the fit of a window that is no plane by that of the flattest window around."""
    best, smallest = fit.copy(), residual.copy()
    uneven = residual > _UNEVEN * q
    height, width = q.shape
    padded = np.pad(residual, radius, constant_values=np.inf)
    for top in (0, radius, 2 * radius):
        for left in (0, radius, 2 * radius):
            there = padded[top : top + height, left : left + width]
            rows, columns = np.nonzero(uneven & (there < smallest))
            smallest[rows, columns] = there[rows, columns]
            best[:, rows, columns] = fit[:, rows + top - radius, columns + left - radius]
    return best


def _box_sum(values: np.ndarray, radius: int) -> np.ndarray:
    """Sum over the square window around every pixel, cut at the border; float64."""
    for axis in (0, 1):
        sums = np.cumsum(values, axis)
        size = values.shape[axis]
        last = np.minimum(np.arange(size) + radius, size - 1)
        before = np.arange(size) - radius - 1
        start = np.take(sums, np.maximum(before, 0), axis)
        mask = (before >= 0).reshape((-1, 1) if axis == 0 else (1, -1))
        values = np.take(sums, last, axis) - np.where(mask, start, 0)
    return values
