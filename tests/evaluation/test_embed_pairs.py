"""`embed_side` equals the encoder on single samples."""

import pytest
import torch
from helpers.pictures import encode_pictures

import sogclr
from sogclr.data.open_pairs import open_pairs
from sogclr.evaluation.embed_pairs import embed_side


@pytest.mark.parametrize("run", ["trained", "joined"])
def test_a_side_is_embedded_as_the_encoder_embeds_single_samples(run, pairs, request):
    """Frozen and trained towers give the same vectors in batches and one by one."""
    model, source = sogclr.load(request.getfixturevalue(run)), open_pairs(pairs)
    a, b = (torch.from_numpy(embed_side(model, side)) for side in (source.a, source.b))
    single = torch.cat([encode_pictures(model, pairs.parent, [name]) for name in source.a.names])
    torch.testing.assert_close(torch.nn.functional.normalize(a, dim=1), single)
    single = torch.cat([model.encode_text([text]) for text in source.b.texts])
    torch.testing.assert_close(torch.nn.functional.normalize(b, dim=1), single)
