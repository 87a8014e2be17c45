import torch
from PIL import Image

from sogclr.models.encoders import build_encoder
from sogclr.models.image_encoder import ImageEncoder


def test_images_are_encoded_as_their_preprocessed_pixels():
    model = ImageEncoder(*build_encoder("small", 16))
    assert not model.training
    images = [Image.new("RGB", (40, 20), "red"), Image.new("L", (16, 24), 200)]
    pixels = torch.stack([model.preprocess(image) for image in images])
    features = model.encode_image(images)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert torch.equal(features, model.encode_image(pixels))
    assert torch.equal(features, model(pixels))
    assert torch.equal(features, model.encoder(pixels))
