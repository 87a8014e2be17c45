from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import sogclr
from sogclr import Augmentation
from sogclr.data.batches.schedule import ShuffledSchedule
from sogclr.data.open_pairs import open_pairs
from sogclr.data.texts import Texts
from sogclr.models.tower_features import plain_inputs
from sogclr.models.tower_inputs import CenterImages, ImageViews, StoredFeatures, Tokens, padding_of
from sogclr.models.towers import PairSpec
from sogclr.planning.pairs import CLIP_VIEWS
from sogclr.training.pair_batches import loss_indices, pair_batches

SPEC = PairSpec(("image", "text"), 16, {}, {}, image_size=16)
CPU = torch.device("cpu")
SENTENCES = Texts(["red", "a very very very blue picture 7", "a picture", "in the green"])


def _fed(inputs, rows, epoch=0):
    """What the tower is given for these rows."""
    prepared = inputs.prepare(np.array(rows), epoch)
    return inputs.to_model(prepared, CPU)


def test_padding_is_cut_off_only_where_the_tower_masks_it(joined, trained):
    for run, cut in ((joined, True), (trained, False)):
        encoder = sogclr.load(run)
        length = encoder.spec.text["context_length"]
        inputs = plain_inputs(SENTENCES, encoder.spec, encoder.tokenizer)
        shapes = [_fed(inputs, rows).shape for rows in ([0], [0, 2], [0, 1, 2])]
        if cut:
            assert [shape[0] for shape in shapes] == [1, 2, 3]
            assert shapes[0][1] < shapes[1][1] < shapes[2][1] < length
        else:
            assert shapes == [(1, length), (2, length), (3, length)]


@torch.no_grad()
def test_cutting_padding_off_changes_nothing(joined):
    encoder = sogclr.load(joined)
    tower, pad = encoder.towers["text"], padding_of(encoder.spec, encoder.tokenizer)
    assert pad is not None
    whole = tower(encoder.tokenizer(SENTENCES.texts))[1]
    for rows in ([0], [2, 0], [3, 1, 0, 2]):
        cut = tower(_fed(Tokens(SENTENCES, encoder.tokenizer, pad), rows))[1]
        torch.testing.assert_close(cut, whole[rows], rtol=1e-5, atol=1e-6)


def test_padding_on_the_left_is_not_cut_off(joined):
    encoder = sogclr.load(joined)
    assert padding_of(encoder.spec, encoder.tokenizer) is not None
    left = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0, padding_side="left"))
    assert padding_of(encoder.spec, left) is None


@pytest.mark.parametrize("run", ["joined", "trained"])
def test_no_rows_are_no_tokens(run, request):
    """What is left of a batch of which no image could be read."""
    encoder = sogclr.load(request.getfixturevalue(run))
    prepared = plain_inputs(SENTENCES, encoder.spec, encoder.tokenizer).prepare(np.array([]), 0)
    assert len(prepared.tensor) == len(prepared.readable) == 0


def test_the_center_view_is_the_encoders_preprocessing(pairs, trained):
    encoder, source = sogclr.load(trained), open_pairs(pairs).a
    ours = _fed(CenterImages(source, encoder.spec), [3, 5])
    theirs = torch.stack([encoder.preprocess(source.image(row)) for row in (3, 5)])
    torch.testing.assert_close(ours, theirs)


def _views(source, seed=0, **settings):
    return ImageViews(source, SPEC, Augmentation(**settings).over(CLIP_VIEWS), seed)


def test_views_hang_on_seed_epoch_and_image_alone(make_pairs):
    source = open_pairs(make_pairs()).a
    drawn = {"crop_min": 0.3, "flip": 0.5, "color": 0.5, "gray": 0.2}
    views = _views(source, **drawn)
    whole = _fed(views, range(24), epoch=3)
    some = [11, 2, 17]
    assert torch.equal(_fed(views, some, epoch=3), whole[some])
    assert torch.equal(_fed(_views(source, **drawn), some, epoch=3), whole[some])
    for other in (_fed(views, some, epoch=4), _fed(_views(source, 1, **drawn), some, epoch=3)):
        assert not (other == whole[some]).flatten(1).all(dim=1).any()
    assert len({tuple(view.flatten().tolist()) for view in whole}) == 24


def test_clips_views_show_nearly_the_whole_image_as_it_is(make_pairs):
    source = open_pairs(make_pairs()).a
    center = _fed(CenterImages(source, SPEC), range(24))
    views = _fed(_views(source), range(24))
    assert views.shape == center.shape == (24, 3, 16, 16)
    assert torch.equal(views.mean(dim=(2, 3)).argmax(dim=1), center.mean(dim=(2, 3)).argmax(dim=1))
    assert not torch.equal(views, center)


def test_unreadable_images_are_named_and_the_others_keep_their_views(make_pairs):
    table = make_pairs(size=(60, 60))
    source = open_pairs(table).a
    whole = _fed(_views(source, crop_min=0.3, color=0.5), range(6))
    victim = table.parent / "img" / "02.png"
    victim.write_bytes(victim.read_bytes()[:500])
    for inputs in (_views(source, crop_min=0.3, color=0.5), CenterImages(source, SPEC)):
        prepared = inputs.prepare(np.arange(6), 0)
        assert prepared.readable.tolist() == [True, True, False, True, True, True]
        assert [name for name, _ in prepared.unreadable] == ["img/02.png"]
        assert len(prepared.tensor) == 5
        if isinstance(inputs, ImageViews):
            assert torch.equal(inputs.to_model(prepared, CPU), whole[[0, 1, 3, 4, 5]])


def test_stored_features_are_handed_out_but_for_rows_of_nan():
    features = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    features[2] = np.nan
    inputs = StoredFeatures(features, list("vwxyz"))
    prepared = inputs.prepare(np.array([4, 2, 0]), 7)
    assert prepared.readable.tolist() == [True, False, True]
    assert prepared.unreadable == [("x", "could not be read")]
    assert torch.equal(inputs.to_model(prepared, CPU), torch.from_numpy(features[[4, 0]]))


def _epochs(source, inputs, workers=0):
    plan = ShuffledSchedule(source.a.ids, 7, 2, 2, seed=0)
    batches = list(pair_batches(source, plan, *inputs, workers=workers, pin_memory=False))
    return [[b for b in batches if b.micro_batch.epoch == epoch] for epoch in range(2)]


def test_an_epoch_of_batches_has_every_image_once_with_a_caption_of_its_own(pairs, trained):
    source, encoder = open_pairs(pairs), sogclr.load(trained)
    inputs = (
        _views(source.a),
        Tokens(source.b, encoder.tokenizer, None),
    )
    owners = set(zip(source.owners().tolist(), source.partners.tolist(), strict=True))
    drawn = []
    for batches in _epochs(source, inputs):
        rows, partners = (
            torch.cat([loss_indices(b)[side] for b in batches]).tolist() for side in (0, 1)
        )
        assert sorted(rows) == list(range(24))
        assert set(zip(rows, partners, strict=True)) <= owners
        drawn.append(dict(zip(rows, partners, strict=True)))
        for batch in batches:
            texts = [source.b.texts[row] for row in batch.partners]
            assert torch.equal(batch.b.tensor, encoder.tokenizer(texts))
            assert len(batch.a.tensor) == len(batch.micro_batch.rows)
    assert drawn[0] != drawn[1]


def test_a_batch_without_a_readable_image_is_empty(make_pairs, joined):
    table = make_pairs(count=4, size=(60, 60))
    source, encoder = open_pairs(table), sogclr.load(joined)
    for file in (table.parent / "img").iterdir():
        file.write_bytes(file.read_bytes()[:500])
    texts = plain_inputs(source.b, encoder.spec, encoder.tokenizer)
    for batch in _epochs(source, (CenterImages(source.a, SPEC), texts))[0]:
        assert len(batch.micro_batch.rows) == len(batch.partners) == len(batch.b.tensor) == 0
        assert len(batch.unreadable) == 4


def test_images_of_every_mode_are_fed(tmp_path):
    for mode in ("L", "RGBA", "P"):
        Image.new(mode, (20, 30)).save(tmp_path / f"{mode}.png")
    paths = [str(tmp_path / f"{mode}.png") for mode in ("L", "RGBA", "P")]
    source = open_pairs({"image": paths, "caption": ["x", "y", "z"]}).a
    assert _fed(_views(source), [0, 1, 2]).shape == (3, 3, 16, 16)
