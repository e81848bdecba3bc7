"""A line says where all entries of maps are rotated together."""

from torch import nn

from rotograd_cli.methods import RotoGrad, VanillaMTL
from rotograd_cli.runs.building import rotated_maps


def test_maps_that_are_rotated_whole_are_named_with_the_remedy() -> None:
    heads = [nn.Flatten(), nn.Flatten()]
    whole = RotoGrad(nn.Identity(), heads, feature_shape=(2, 3, 4))
    assert rotated_maps(whole) == [
        "All 24 entries of features [2, 3, 4] are rotated together; add "
        "'rotation.post_shape=[-1,-1]' to rotate the channels of maps, which is faster."
    ]
    channels = RotoGrad(nn.Identity(), heads, post_shape=(-1, -1), feature_shape=(2, 3, 4))
    vectors = RotoGrad(nn.Identity(), heads, feature_shape=(24,))
    for model in (channels, vectors, VanillaMTL(nn.Identity(), heads)):
        assert rotated_maps(model) == []
