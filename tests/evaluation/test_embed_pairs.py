"""A side of pairs is embedded as the encoder embeds its samples one by one."""

import pytest
import torch
from helpers.pictures import encode_pictures

import sogclr
from sogclr.data.open_pairs import open_pairs
from sogclr.evaluation.embed_pairs import embed_side


@pytest.mark.parametrize("run", ["trained", "joined"])
def test_sides_are_embedded_as_the_encoder_embeds(run, pairs, request):
    """Whether in batches of the whole side or one by one, frozen towers or trained ones."""
    model, source = sogclr.load(request.getfixturevalue(run)), open_pairs(pairs)
    a, b = (torch.from_numpy(embed_side(model, side)) for side in (source.a, source.b))
    single = torch.cat([encode_pictures(model, pairs.parent, [name]) for name in source.a.names])
    torch.testing.assert_close(torch.nn.functional.normalize(a, dim=1), single)
    single = torch.cat([model.encode_text([text]) for text in source.b.texts])
    torch.testing.assert_close(torch.nn.functional.normalize(b, dim=1), single)
