"""Surface normals from depth: exact on planes, sharp at edges."""

import numpy as np

from rotograd_cli.data.nyuv2.surface_normals import Camera, estimate_normals

CAMERA = Camera(fx=100.0, fy=110.0, cx=29.0, cy=21.5)
HEIGHT, WIDTH = 48, 64


def rays(camera: Camera = CAMERA, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """What each pixel sees at depth 1, shape ``[H, W, 3]``."""
    v, u = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack(
        [(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], axis=-1
    )


def unit(*vector: float) -> np.ndarray:
    return np.array(vector) / np.linalg.norm(vector)


def angles(normals: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Degrees between unit vectors, exact for small angles."""
    return np.degrees(2 * np.arcsin(np.linalg.norm(normals - expected, axis=-1) / 2))


def test_planes_have_their_exact_normal() -> None:
    for normal in [(0, 0, -1), (0.7, 0, -0.7), (0, -0.9, -0.4), (-0.4, 0.5, -0.6)]:
        n = unit(*normal)
        depth = 2 * n[2] / (rays() @ n)
        depth[depth <= 0] = 0
        result = estimate_normals(depth, CAMERA)
        known = depth > 0
        assert known.sum() > 100
        assert angles(result[known], n).max() < 1e-4  # float32 of the result
        assert (result[~known] == 0).all()


def test_wall_floor_and_left_side_show_the_axes() -> None:
    directions = rays()
    wall = estimate_normals(np.full((HEIGHT, WIDTH), 3.0), CAMERA)
    np.testing.assert_allclose(wall[20, 20], [0, 0, -1], atol=1e-6)
    below = directions[30:, :, 1]  # a floor 1.5 m under the camera: y = 1.5
    floor = estimate_normals(1.5 / below, Camera(100.0, 110.0, 29.0, 21.5 - 30))
    np.testing.assert_allclose(floor[8, 20], [0, -1, 0], atol=1e-6)
    left = directions[:, :20, 0]  # a wall 1 m to the left: x = -1
    side = estimate_normals(-1 / left, CAMERA)
    np.testing.assert_allclose(side[20, 8], [1, 0, 0], atol=1e-6)


def test_normals_are_unit_and_point_to_the_camera() -> None:
    generator = np.random.default_rng(0)
    depth = 2 + 0.05 * generator.random((HEIGHT, WIDTH)).cumsum(0).cumsum(1) / 100
    normals = estimate_normals(depth, CAMERA)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-6)
    assert ((normals * rays()).sum(-1) < 0).all()


def test_unknown_depth_has_no_normal_and_does_not_disturb_its_neighbours() -> None:
    n = unit(0.3, -0.2, -0.9)
    depth = 2 * n[2] / (rays() @ n)
    generator = np.random.default_rng(1)
    holes = generator.random(depth.shape) < 0.4
    holes[10:30, 30:50] = True
    depth[holes] = 0
    normals = estimate_normals(depth, CAMERA)
    assert (normals[holes] == 0).all()
    assert angles(normals[~holes], n).max() < 1e-4


def test_lonely_and_collinear_pixels_have_no_normal() -> None:
    depth = np.zeros((HEIGHT, WIDTH))
    depth[5, 5] = 2.0
    depth[30, 20:40] = 2.0
    depth[40:42, 60:62] = 2.0  # four pixels determine a plane
    normals = estimate_normals(depth, CAMERA)
    assert (normals[:35] == 0).all()
    np.testing.assert_allclose(normals[40, 60], [0, 0, -1], atol=1e-6)


def test_both_sides_of_a_depth_edge_keep_their_normal() -> None:
    near, far = unit(0.4, 0, -0.9), unit(-0.2, 0.3, -0.9)
    directions = rays()
    depth = 2 * near[2] / (directions @ near)
    depth[:, 32:] = (4 * far[2] / (directions @ far))[:, 32:]
    normals = estimate_normals(depth, CAMERA)
    inner = slice(8, -8)  # windows at the border of the image are smaller and tell less
    assert angles(normals[inner, 8:32], near).max() < 1e-3
    assert angles(normals[inner, 32:-8], far).max() < 1e-3


def test_depth_in_another_unit_has_the_same_normals() -> None:
    generator = np.random.default_rng(2)
    depth = 2 + generator.random((HEIGHT, WIDTH)) * 0.01
    np.testing.assert_allclose(
        estimate_normals(depth, CAMERA), estimate_normals(depth * 1000, CAMERA), atol=1e-5
    )
