"""Scale, crop and flip: against a naive loop, and what stays consistent."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rotograd_cli.data.nyuv2.augmentation import Variation, augment_maps, vary
from rotograd_cli.data.nyuv2.surface_normals import KINECT, Camera, estimate_normals
from tests.fake_nyuv2 import resized_camera

HEIGHT, WIDTH = 288, 384


def examples(
    num: int, height: int = HEIGHT, width: int = WIDTH
) -> tuple[Tensor, dict[str, Tensor]]:
    """Noise with a patch of void, of no depth and of no normal in every example."""
    generator = torch.Generator().manual_seed(num)
    image = torch.rand(num, 3, height, width, generator=generator)
    label = torch.randint(-1, 13, (num, height, width), generator=generator)
    depth = torch.rand(num, 1, height, width, generator=generator) * 9 + 0.7
    normal = F.normalize(torch.randn(num, 3, height, width, generator=generator), dim=1)
    depth[:, :, height // 4 : height // 2, : width // 3] = 0
    normal[:, :, height // 3 :, width // 2 :] = 0
    return image, {"segmentation": label, "depth": depth, "normals": normal}


def variation(step: int, top: int, left: int, flip: bool, num: int = 1) -> Variation:
    values = (torch.full((num,), value) for value in (step, top, left))
    return Variation(*values, flip=torch.full((num,), flip))


def naive(image: Tensor, targets: dict[str, Tensor], v: Variation) -> list[dict[str, Tensor]]:
    """One example after the other, by slices and ``F.interpolate``."""
    results = []
    size = image.shape[2:]
    for n in range(len(image)):
        h, w = (side - int(v.step[n]) * side // 6 for side in size)
        rows, columns = (
            slice(int(first), int(first) + side) for first, side in ((v.top[n], h), (v.left[n], w))
        )

        def resize(maps: Tensor, mode: str) -> Tensor:
            corners = True if mode == "bilinear" else None
            crop = maps[n : n + 1, :, rows, columns]  # noqa: B023 - called in this turn
            result: Tensor = F.interpolate(crop, size=size, mode=mode, align_corners=corners)
            return result[0]

        normal = targets["normals"]
        mean = resize(normal, "bilinear")
        valid = (normal != 0).any(1, keepdim=True).float()
        # the closest pixel is the one with the largest weight
        ys, xs = (
            (torch.arange(full) * ((side - 1) / (full - 1)) + 0.5).long()
            for full, side in zip(size, (h, w), strict=True)
        )
        closest = valid[n : n + 1, :, rows, columns][..., ys[:, None], xs][0]
        result = {
            "image": resize(image, "bilinear"),
            "segmentation": resize(targets["segmentation"][:, None].float(), "nearest")[0].long(),
            "depth": resize(targets["depth"], "nearest") / (1, 1.2, 1.5)[int(v.step[n])],
            "normals": F.normalize(mean, dim=0) * closest,
        }
        if v.flip[n]:
            result = {name: maps.flip(-1) for name, maps in result.items()}
            result["normals"][0] *= -1
        results.append(result)
    return results


def test_equals_a_loop_over_examples_with_interpolate() -> None:
    image, targets = examples(12)
    draws = torch.rand(12, 4, generator=torch.Generator().manual_seed(3))
    v = vary(draws, HEIGHT, WIDTH)
    assert set(v.step.tolist()) == {0, 1, 2}
    assert set(v.flip.tolist()) == {False, True}
    new_image, new_targets = augment_maps(image, targets, v)
    for n, expected in enumerate(naive(image, targets, v)):
        torch.testing.assert_close(new_image[n], expected["image"], rtol=0, atol=1e-5)
        assert torch.equal(new_targets["segmentation"][n], expected["segmentation"])
        torch.testing.assert_close(new_targets["depth"][n], expected["depth"])
        difference = (new_targets["normals"][n] - expected["normals"]).abs()
        # where four random directions all but cancel, rounding turns the mean
        assert difference.max() < 1e-2
        assert difference.mean() < 1e-6


def test_plain_variation_is_the_identity_bit_for_bit() -> None:
    image, targets = examples(2)
    targets["normals"] *= 0.9  # lengths are kept too
    new_image, new_targets = augment_maps(image, targets, variation(0, 0, 0, False, 2))
    assert torch.equal(new_image, image)
    for name, target in targets.items():
        assert torch.equal(new_targets[name], target)
        assert new_targets[name].dtype == target.dtype


def test_flipping_twice_is_the_identity() -> None:
    image, targets = examples(2)
    v = variation(0, 0, 0, True, 2)
    once = augment_maps(image, targets, v)
    assert torch.equal(once[0], image.flip(3))
    assert torch.equal(once[1]["normals"][:, 0], -targets["normals"][:, 0].flip(2))
    assert torch.equal(once[1]["normals"][:, 1:], targets["normals"][:, 1:].flip(3))
    new_image, new_targets = augment_maps(*once, v)
    assert torch.equal(new_image, image)
    for name, target in targets.items():
        assert torch.equal(new_targets[name], target)


def test_flip_commutes_with_scale_and_crop() -> None:
    image, targets = examples(1)
    plain = augment_maps(image, targets, variation(2, 31, 64, False))
    mirrored = augment_maps(*plain, variation(0, 0, 0, True))
    at_once = augment_maps(image, targets, variation(2, 31, 64, True))
    assert torch.equal(mirrored[0], at_once[0])
    for name in targets:
        assert torch.equal(mirrored[1][name], at_once[1][name])


def test_inputs_are_not_changed() -> None:
    image, targets = examples(2)
    copies = image.clone(), {name: target.clone() for name, target in targets.items()}
    new_image, new_targets = augment_maps(image, targets, variation(0, 0, 0, False, 2))
    new_image.zero_()
    for target in new_targets.values():
        target.zero_()
    assert torch.equal(image, copies[0])
    assert all(torch.equal(targets[name], copies[1][name]) for name in targets)


def test_labels_and_depths_are_those_of_the_crop() -> None:
    for step in [0, 1, 2]:
        _, targets = examples(1)
        top, left = 5 * step, 7 * step
        h, w = HEIGHT - 48 * step, WIDTH - 64 * step
        new = augment_maps(
            torch.zeros(1, 3, HEIGHT, WIDTH), targets, variation(step, top, left, True)
        )
        crop = targets["segmentation"][0, top : top + h, left : left + w]
        assert set(new[1]["segmentation"].unique().tolist()) <= set(crop.unique().tolist())
        depths = targets["depth"][0, 0, top : top + h, left : left + w] / (6 / (6 - step))
        assert torch.isin(new[1]["depth"][0, 0], depths).all()
        # every row and every column of the crop is there
        row_numbers = torch.arange(HEIGHT).view(1, 1, -1, 1).expand(1, 1, HEIGHT, WIDTH)
        new_rows = augment_maps(
            torch.zeros(1, 3, HEIGHT, WIDTH),
            {"segmentation": row_numbers[:, 0]},
            variation(step, top, left, False),
        )[1]["segmentation"]
        assert new_rows.unique().tolist() == list(range(top, top + h))


def test_normals_are_unit_or_zero_and_never_bleed() -> None:
    image, targets = examples(3)
    targets["normals"][:] = 0
    targets["normals"][:, :, :100, :100] = torch.tensor([0.6, 0, -0.8]).view(3, 1, 1)
    for step in (1, 2):
        new = augment_maps(image, targets, variation(step, 11, 13, False, 3))[1]["normals"]
        length = new.norm(dim=1)
        valid = (new != 0).any(1)
        torch.testing.assert_close(length[valid], torch.ones_like(length[valid]))
        # no mixture with the zeros around: the direction is that of the patch up to its edge
        expected = torch.tensor([0.6, 0, -0.8]).view(3, 1, 1).expand_as(new[0])
        torch.testing.assert_close(new[0][:, valid[0]], expected[:, valid[0]])
        assert (new.permute(0, 2, 3, 1)[~valid] == 0).all()
        h = HEIGHT - 48 * step
        # pixels closer to row 99 than to row 100: 89 rows of the crop, whose first is row 11
        position = torch.arange(HEIGHT) * ((h - 1) / (HEIGHT - 1)) + 11
        assert int(valid[0].any(1).sum()) == int((position < 99.5).sum())


def test_variations_have_the_published_distribution() -> None:
    draws = torch.rand(200_000, 4, generator=torch.Generator().manual_seed(0))
    v = vary(draws, HEIGHT, WIDTH)
    share = torch.bincount(v.step, minlength=3) / len(draws)
    assert (share - 1 / 3).abs().max() < 0.006  # five standard deviations
    assert abs(v.flip.float().mean() - 0.5) < 0.006
    for step, scale in enumerate((1, 1.2, 1.5)):
        here = v.step == step
        assert v.scale[here].allclose(torch.tensor(scale, dtype=torch.float64))
        assert set(v.top[here].tolist()) == set(range(HEIGHT - int(HEIGHT / scale) + 1))
        assert set(v.left[here].tolist()) == set(range(WIDTH - int(WIDTH / scale) + 1))


def test_largest_draws_stay_inside() -> None:
    for dtype in (torch.float32, torch.float64):
        draws = torch.full((1, 4), 1 - torch.finfo(dtype).eps / 2, dtype=dtype)
        v = vary(draws, HEIGHT, WIDTH)
        assert (int(v.step), int(v.top), int(v.left)) == (2, 96, 128)


def test_result_is_a_function_of_the_draws() -> None:
    image, targets = examples(4)
    draws = torch.rand(4, 4, generator=torch.Generator().manual_seed(1))
    first = augment_maps(image, targets, vary(draws, HEIGHT, WIDTH))
    torch.manual_seed(99)
    second = augment_maps(image, targets, vary(draws, HEIGHT, WIDTH))
    assert torch.equal(first[0], second[0])
    # each example by its own draws alone
    third = augment_maps(
        image[2:3],
        {name: target[2:3] for name, target in targets.items()},
        vary(draws[2:3], HEIGHT, WIDTH),
    )
    assert torch.equal(first[0][2:3], third[0])
    for name in targets:
        assert torch.equal(first[1][name], second[1][name])
        assert torch.equal(first[1][name][2:3], third[1][name])


def test_the_host_reads_nothing(count_reads: Callable[[Callable[[], Any]], int]) -> None:
    image, targets = examples(2)
    draws = torch.rand(2, 4)
    assert count_reads(lambda: augment_maps(image, targets, vary(draws, HEIGHT, WIDTH))) == 0


@pytest.mark.gpu
def test_accelerator_gives_the_same_without_waiting() -> None:
    image, targets = examples(4)
    draws = torch.rand(4, 4, generator=torch.Generator().manual_seed(1))
    expected = augment_maps(image, targets, vary(draws, HEIGHT, WIDTH))
    moved = {name: target.cuda() for name, target in targets.items()}
    cuda_image, cuda_draws = image.cuda(), draws.cuda()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = augment_maps(cuda_image, moved, vary(cuda_draws, HEIGHT, WIDTH))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(result[0].cpu(), expected[0])
    assert torch.equal(result[1]["segmentation"].cpu(), expected[1]["segmentation"])
    torch.testing.assert_close(result[1]["depth"].cpu(), expected[1]["depth"])
    difference = (result[1]["normals"].cpu() - expected[1]["normals"]).abs()
    assert difference.mean() < 1e-6


def plane(normal: tuple[float, float, float], camera: Camera) -> tuple[Tensor, Tensor]:
    """Depth and normals of a plane 3 m away on the optical axis, as a camera sees it."""
    n = torch.tensor(normal, dtype=torch.float64)
    n = n / n.norm()
    v, u = torch.meshgrid(
        torch.arange(HEIGHT, dtype=torch.float64),
        torch.arange(WIDTH, dtype=torch.float64),
        indexing="ij",
    )
    x, y = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
    depth = 3 * n[2] / (n[0] * x + n[1] * y + n[2])
    assert (depth > 0).all()
    return depth[None, None].float(), n.float().view(1, 3, 1, 1).expand(1, 3, HEIGHT, WIDTH)


def test_depth_and_normals_stay_consistent_under_the_scaled_camera() -> None:
    for flip in [False, True]:
        for step in [0, 1, 2]:
            for normal in [(0.0, 0.0, -1.0), (0.5, 0.2, -0.9), (-0.3, -0.6, -0.7)]:
                camera = resized_camera(KINECT, 0.6, 0.6)
                depth, normals = plane(normal, camera)
                top, left, scale = 9 * step, 20 * step, 6 / (6 - step)
                _, new = augment_maps(
                    torch.zeros(1, 3, HEIGHT, WIDTH),
                    {"depth": depth, "normals": normals},
                    variation(step, top, left, flip),
                )
                cropped = Camera(camera.fx, camera.fy, camera.cx - left, camera.cy - top)
                seen = resized_camera(cropped, scale, scale)
                if flip:
                    seen = Camera(seen.fx, seen.fy, WIDTH - 1 - seen.cx, seen.cy)
                # the depth is divided by s: a camera of focal length s f sees the scene shrunk by s
                estimate = torch.from_numpy(
                    estimate_normals(new["depth"][0, 0].double().numpy(), seen)
                )
                cosine = (estimate * new["normals"][0].permute(1, 2, 0)).sum(-1).clamp(-1, 1)
                angle = torch.rad2deg(torch.acos(cosine))[8:-8, 8:-8]
                # without scaling up to rounding; nearest neighbours make the depth a staircase
                assert angle.mean() < (0.05 if step == 0 else 1.5)


def test_with_an_unscaled_focal_length_normals_tilt_as_documented() -> None:
    camera = resized_camera(KINECT, 0.6, 0.6)
    depth, _ = plane((0.5, 0.2, -0.9), camera)
    _, new = augment_maps(
        torch.zeros(1, 3, HEIGHT, WIDTH), {"depth": depth}, variation(2, 48, 64, False)
    )
    cropped = resized_camera(Camera(camera.fx, camera.fy, camera.cx - 64, camera.cy - 48), 1.5, 1.5)
    unscaled = Camera(camera.fx, camera.fy, cropped.cx, cropped.cy)
    estimate = estimate_normals(new["depth"][0, 0].double().numpy(), unscaled)[8:-8, 8:-8]
    expected = np.array([0.5, 0.2, -0.9 * 1.5]) / np.linalg.norm([0.5, 0.2, -0.9 * 1.5])
    angle = np.degrees(np.arccos(np.clip(estimate @ expected, -1, 1)))
    assert angle.mean() < 1.5
