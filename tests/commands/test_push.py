"""`sogclr push`, and models that come back from the hub: a stand-in of it on this machine."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.hub_stand_in import hub_stand_in
from helpers.json_files import change_json
from helpers.refusal import refused
from safetensors.torch import load_file
from transformers import AutoTokenizer

import sogclr
from sogclr import UserError
from sogclr.runs.published import public_settings

PUSH = """
import sys
from sogclr.commands.cli import main

for run, name in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        main(["push", run, name])
    except SystemExit as end:
        assert end.code == 2
"""

# Vectors of the hub's models, by each library that the cards name, beside those of the runs.
LOAD = """
import sys, torch, timm, open_clip, sogclr
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

images, towers, texts = sys.argv[1:4]
sentences = ["a red picture 3", "the very green picture 12"]

def same(found, expected):
    torch.testing.assert_close(torch.as_tensor(found), expected, rtol=0, atol=1e-4)

with torch.no_grad():
    model, run = sogclr.load("hf:someone/images"), sogclr.load(images)
    image = torch.randn(2, 3, 96, 96)
    assert torch.equal(model(image), run(image))
    encoder = timm.create_model("hf-hub:someone/images", pretrained=True, num_classes=0).eval()
    same(encoder(image), run(image))
    same(AutoModel.from_pretrained("someone/images")(image).pooler_output, run(image))

    model, run = sogclr.load("hf:someone/towers@main"), sogclr.load(towers)
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.encode_text(sentences), run.encode_text(sentences))
    assert torch.equal(model.encode_image(image), run.encode_image(image))
    clip = open_clip.create_model("hf-hub:someone/towers").eval()
    tokens = open_clip.get_tokenizer("hf-hub:someone/towers")(sentences)
    same(clip.encode_text(tokens, normalize=True), run.encode_text(sentences))
    same(clip.encode_image(image, normalize=True), run.encode_image(image))

    model, run = sogclr.load("hf:someone/texts"), sogclr.load(texts)
    assert torch.equal(model.encode_text(sentences), run.encode_text(sentences))
    same(SentenceTransformer("someone/texts").encode(sentences), run.encode_text(sentences))
"""

SAY_WHY = """
import sys, sogclr
from sogclr import UserError

for address in sys.argv[1:]:
    try:
        sogclr.load(address)
        print(f"{address} loaded")
    except UserError as error:
        print(str(error))
"""


@pytest.fixture(scope="module")
def hub():
    with hub_stand_in() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos of a user")
    for number in range(8):
        Image.new("RGB", (100, 90 + number), (30 * number, 90, 200)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def images(photos, tmp_path_factory) -> Path:
    """A run of images, which started from weights in a file, and was evaluated."""
    import timm

    weights = tmp_path_factory.mktemp("weights of a user") / "start.pt"
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    out = tmp_path_factory.mktemp("runs") / "images"
    settings = {"encoder": "test_resnet", "weights": str(weights), "image_size": 96}
    sogclr.pretrain(photos, out, epochs=1, batch_size=4, device="cpu", **settings)
    sogclr.evaluate(out, photos, protocol="views", device="cpu")
    return out


@pytest.fixture(scope="module")
def texts(sentences, bert, tmp_path_factory) -> Path:
    """A run on two sentences, with a text tower of Hugging Face."""
    out = tmp_path_factory.mktemp("runs") / "texts"
    settings = {"text_tower": str(bert), "width": 12, "batch_size": 8, "device": "cpu"}
    sogclr.align(sentences, out, epochs=1, **settings)
    return out


@pytest.fixture(scope="module")
def pushed(hub, images, joined, texts, tmp_path_factory):
    """What the command prints while it pushes a run of each kind."""
    hub.files["someone/edited"] = {"README.md": b"mine"}
    pairs = (
        (images, "someone/images"), (joined, "someone/towers"), (texts, "someone/texts"),
        (images, "someone/edited"), (images, "forbidden/images"),
    )  # fmt: skip
    home = tmp_path_factory.mktemp("home")
    return hub.run(PUSH, home, *(word for pair in pairs for word in pair))[1]


def test_every_library_that_a_card_names_loads_the_model(
    hub, pushed, images, joined, texts, tmp_path
):
    hub.run(LOAD, tmp_path, images, joined, texts)
    cards = {name: files["README.md"].decode() for name, files in hub.files.items()}
    assert 'timm.create_model("hf-hub:someone/images"' in cards["someone/images"]
    assert 'AutoModel.from_pretrained("someone/images")' in cards["someone/images"]
    assert 'create_model_and_transforms("hf-hub:someone/towers")' in cards["someone/towers"]
    assert 'SentenceTransformer("someone/texts")' in cards["someone/texts"]
    assert "Not in open_clip: a run of pretrain has no text tower" in cards["someone/images"]


def test_a_repository_is_private_and_all_files_are_listed_before(hub, pushed):
    assert hub.private["someone/images"]
    listed, _, rest = pushed.partition("pushed to")
    for name in hub.files["someone/images"]:
        assert f"  {name} (" in listed
    assert "someone/images" in rest


def test_nothing_of_the_machine_is_pushed(hub, pushed, photos, bert, images):
    words = ["photos of a user", "weights of a user", str(bert.parent), str(Path.home()), "/tmp"]
    for name in ("someone/images", "someone/towers", "someone/texts"):
        for path, content in hub.files[name].items():
            assert not path.endswith(
                (".pt", ".jsonl", ".png", "digests.json", "initial.safetensors")
            )
            if path.endswith((".json", ".md")) and path != "tokenizer.json":
                assert not [word for word in words if word in content.decode()], (name, path)
    assert "log_u.safetensors" not in hub.files["someone/images"]


def test_the_card_has_data_plan_and_results(hub, pushed):
    card = hub.files["someone/images"]["README.md"].decode()
    assert card.startswith("---\n")
    assert "library_name: timm" in card
    assert "8 images" in card
    assert "| batch size | 4 |" in card
    assert "| encoder | test_resnet |" in card
    assert "| R@1 of random views | data of the training |" in card


def test_a_card_that_its_owner_edited_stays(hub, pushed):
    assert "README.md of someone/edited stays as it is" in pushed
    assert hub.files["someone/edited"]["README.md"] == b"mine"
    assert "encoder.safetensors" in hub.files["someone/edited"]


def test_a_hub_that_refuses_is_one_line(pushed):
    line = pushed.strip().split("\n")[-1]
    assert line.startswith("sogclr: push: the hub does not let you write to forbidden/images")
    assert line.endswith("hf auth login")
    assert "Traceback" not in pushed


def test_repositories_of_strangers_are_refused_in_a_line(hub, pushed, tmp_path, monkeypatch):
    """What is fetched is loaded again once the hub is gone."""
    home = tmp_path / "home"
    home.mkdir()
    plain = dict(hub.files["someone/towers"])
    sound = {k: v for k, v in plain.items() if k != "README.md"}
    settings = plain["settings.json"]
    with_code = plain["towers.json"].replace(b'"kinds"', b'"trust_remote_code": true, "kinds"')
    hub.files |= {
        "stranger/climbs": {**sound, "text/../../../climbed.json": b"{}"},
        "stranger/rooted": {**sound, "/etc/climbed.json": b"{}"},
        "stranger/pickle": {**sound, "pytorch_model.bin": b"x"},
        "stranger/code": {**sound, "modeling.py": b"x"},
        "stranger/huge": sound,
        "stranger/many": {**sound, **{f"text/{i}.json": b"{}" for i in range(40)}},
        "stranger/other": {"config.json": b"{}"},
        "stranger/empty": {"settings.json": b"{}", "encoder.json": b"{}"},
        "stranger/damaged": {**sound, "trained.safetensors": b"no tensors"},
        "stranger/options": {**sound, "towers.json": with_code},
        "stranger/calls": {
            **sound,
            "text/config.json": b'{"model_type": "bert", "auto_map": {"AutoModel": "x.Y"}}',
        },
        "stranger/settings": {**sound, "settings.json": settings[:-4]},
    }
    hub.claimed["stranger/huge", "trained.safetensors"] = 1 << 50
    expected = {
        "hf:stranger/climbs": "which is refused",
        "hf:stranger/rooted": "which is refused",
        "hf:stranger/pickle": "pytorch_model.bin, which can run code",
        "hf:stranger/code": "modeling.py, which can run code",
        "hf:stranger/huge": "at most 68,719,476,736 bytes are fetched",
        "hf:stranger/many": "more than any tokenizer",
        "hf:stranger/other": "is no model that sogclr pushed",
        "hf:stranger/empty": "lacks encoder.safetensors",
        "hf:stranger/damaged": "is damaged",
        "hf:stranger/options": "'trust_remote_code' is unknown",
        "hf:stranger/calls": "names code to run (auto_map)",
        "hf:stranger/settings": "is damaged",
        "hf:stranger/none": "there is no stranger/none",
        "hf:someone/towers@v9": "has no revision v9",
        "hf:../../tmp": "is no name of a repository",
        "hf:a\nb/c": "is no name of a repository",
        "hf:someone/images": "hf:someone/images loaded",
    }
    lines = hub.run(SAY_WHY, home, *expected)[0].splitlines()
    assert len(lines) == len(expected)
    for line, part in zip(lines, expected.values(), strict=True):
        assert part in line
    assert not list(tmp_path.rglob("climbed.json"))

    monkeypatch.setattr(hub, "address", "http://127.0.0.1:9")  # where nothing answers
    out, told = hub.run(SAY_WHY, home, "hf:someone/images", "hf:someone/towers")
    first, second = out.splitlines()
    assert first == "hf:someone/images loaded"
    assert "is what was fetched before" in told
    assert "hf:someone/towers cannot be reached" in second


def test_a_folder_is_written_to_look_at(images, tmp_path, capsys):
    target = tmp_path / "new"
    assert sogclr.push(images, "someone/images", folder=target, log_u=True) == str(target)
    assert "would be pushed" in capsys.readouterr().err
    samples = load_file(target / "log_u.safetensors")
    assert samples["ids"].shape == samples["log_u"].shape == (8,)
    x = torch.randn(1, 3, 96, 96)
    assert torch.equal(sogclr.load(target)(x), sogclr.load(images)(x))
    line = refused(capsys, "push", images, "someone/images", "--folder", target)
    assert "exists already" in line
    assert "has the form owner/name" in refused(capsys, "push", images, "images")


def test_a_path_that_would_be_pushed_is_refused(joined, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(joined, run)
    change_json(run / "text" / "tokenizer_config.json", lambda c: c.update(name_or_path=str(run)))
    sogclr.push(run, "someone/x", folder=tmp_path / "dropped")
    found = json.loads((tmp_path / "dropped" / "text" / "tokenizer_config.json").read_text())
    assert "name_or_path" not in found
    assert AutoTokenizer.from_pretrained(tmp_path / "dropped" / "text") is not None
    change_json(run / "text" / "tokenizer_config.json", lambda c: c.update(note=f"in {run}!"))
    with pytest.raises(UserError, match="a path of this machine; nothing was pushed"):
        sogclr.push(run, "someone/x", folder=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    (run / "trained.safetensors").unlink()
    with pytest.raises(UserError, match="has saved no model yet"):
        sogclr.push(run, "someone/x", folder=tmp_path / "untrained")


def test_settings_that_are_published_name_nothing_of_the_user():
    from sogclr.planning.settings_images import ImageSettings
    from sogclr.planning.settings_pairs import PairSettings

    own = ImageSettings(encoder="custom:SecretNet", weights="/home/me/x.pt", batch_size=7)
    assert public_settings(own) == ImageSettings(batch_size=7)
    assert public_settings(ImageSettings(encoder="resnet18")).encoder == "resnet18"
    pairs = PairSettings(
        text_tower="/home/me/bert", image_tower="resnet18", columns=("a", "secret"), width=9
    )
    assert public_settings(pairs) == PairSettings(image_tower="resnet18", width=9)
    clip = PairSettings(model="/home/me/clip.json", pretrained="/home/me/x.pt", epochs=3)
    assert public_settings(clip) == PairSettings(epochs=3)
