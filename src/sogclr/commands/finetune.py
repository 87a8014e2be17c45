"""Run `sogclr.finetune`: choose labels, plan, fit the head, train, test, store the classifier."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from ..common.console import result, say, setting_line
from ..common.environment import processes
from ..common.errors import UserError
from ..data.choose_labels import LabelledImages, choose_of_each_class, divide_labelled
from ..data.open_images import open_images, require_undamaged
from ..distributed.device import choose_device
from ..evaluation.classified import Classified, measure_classifier
from ..evaluation.embed_images import embed_images
from ..evaluation.linear import fit_linear
from ..models.classifier import ImageClassifier
from ..models.encoders import width_of
from ..planning.finetune_plan import FinetunePlan, plan_finetuning
from ..planning.settings_finetune import FinetuneArguments, FinetuneSettings
from ..planning.settings_images import ImageSettings
from ..runs.classifiers import write_head
from ..runs.data_address import data_address
from ..runs.evaluations import append_evaluation
from ..runs.folder import Run
from ..runs.load import load_encoder
from ..runs.resume import choose_settings, finds_checkpoint, read_resolved, resumes
from .evaluation_tables import describe_classified
from .result import checkpoint_bytes

__all__ = ["Finetuned", "finetune"]

# Images that the head is fitted on before the encoder is trained: more would take minutes.
FITTED = 10_000


@dataclass(frozen=True)
class Finetuned:
    """The outcome of `finetune`.

    Attributes:
        folder: Folder of the classifier.
        complete: False if the training was stopped on request and can be resumed.
        labels: Number of labelled images that it was trained on.
        tested: How well it recognizes the images to test on; None if it is not complete.
    """

    folder: Path
    complete: bool
    labels: int
    tested: Classified | None


def finetune(
    arguments: FinetuneArguments, request: FinetuneSettings, module: nn.Module | None
) -> Finetuned:
    """Do what `sogclr.finetune` documents.

    Args:
        arguments: All arguments, of which those on data, storage and machine are used.
        request: The settings that were given.
        module: The user's own encoder; None if the run has an encoder by name.
    """
    if processes() > 1:
        raise UserError("finetune trains in one process, but several were started; start one")
    pretrained = Run(arguments.run)
    settings = read_resolved(pretrained.read_settings(), ImageSettings)
    run = Run(arguments.out or pretrained.folder / "finetuned")
    if arguments.resume:
        run.read_settings()  # `claim` creates a missing folder, so refuse one without a run before
    with run.claim():
        resume = resumes(run, arguments.resume)
        request = choose_settings(run, request, "finetune", resume)
        if resume:
            _require_unfinished(run, pretrained)
        resume = finds_checkpoint(run, resume)
        return _finetune(arguments, request, settings, module, run, resume)


def _require_unfinished(run: Run, pretrained: Run) -> None:
    """Refuse to resume a classifier that is complete, or that was made of another run."""
    if run.classes.exists():
        raise UserError(f"--resume: {run.folder} is complete; name another --out to train again")
    source = run.read_settings().get("run")
    if source != data_address(pretrained.folder):
        raise UserError(f"--resume: {run.folder} was made of {source}; give that run")


def _finetune(
    arguments: FinetuneArguments,
    request: FinetuneSettings,
    pretraining: ImageSettings,
    module: nn.Module | None,
    run: Run,
    resume: bool,
) -> Finetuned:
    """Train in the claimed folder; `resume` from the checkpoint in it."""
    device = choose_device(arguments.device)
    encoder, spec = load_encoder(arguments.run, module, initial=request.initial)
    images = _open_labelled(arguments, request)
    views = images.source.augmentation.over(pretraining.views.resolved(spec.image_size))
    count, local = len(images.rows), images.source.local
    plan = plan_finetuning(request, count, views, local, device, arguments.workers)
    for name, value, reason in plan.reasons:
        say(setting_line(name, value, reason))
    head = nn.Linear(width_of(encoder, spec.image_size), len(images.classes))
    model = ImageClassifier(encoder, head, spec, images.classes).to(device)
    run.require_space(checkpoint_bytes(model, 0))
    if not resume:
        run.write_settings(
            {
                "kind": request.kind,
                "run": data_address(arguments.run),
                "data": data_address(arguments.data),
                "test": data_address(arguments.test),
                "asked": request.as_dict(),
                "resolved": plan.resolved().as_dict(),
                "reasons": plan.reasons,
            }
        )
        _fit_head(model, images, plan, device)
    if not request.only_head and not _train(model, images, plan, run, device, resume):
        return Finetuned(run.folder, False, count, None)
    tested = measure_classifier(
        model, images.tested, images.tested_rows, device=device, workers=arguments.workers
    )
    run.write_encoder(model.encoder.state_dict(), spec)
    write_head(run, model.head, images.classes)  # the last file: the classifier is complete
    result(describe_classified(tested))
    report = {"labels": count, "label_share": request.label_share, **asdict(tested)}
    for each in (run, Run(arguments.run)):
        append_evaluation(each, report, data=arguments.data, test=arguments.test)
    say(f"done: {run.folder}; sogclr.load reads it, and its classify(images) names classes")
    return Finetuned(run.folder, True, count, tested)


def _open_labelled(arguments: FinetuneArguments, request: FinetuneSettings) -> LabelledImages:
    """Open the images, and say what is trained and tested on."""
    source = open_images(arguments.data)
    test = None if arguments.test is None else open_images(arguments.test)
    for each in (source, test):
        if each is not None:
            say(each.describe())
            require_undamaged(each.damaged, request.on_damaged)
    images = divide_labelled(source, test, request.label_share, request.seed)
    held = "a fifth of each class, held out" if test is None else "all of --test"
    say(
        f"{len(images.rows):,} of {images.available:,} labels in {len(images.classes):,} classes; "
        f"tested on {len(images.tested_rows):,} images, {held}"
    )
    return images


def _fit_head(
    model: ImageClassifier, images: LabelledImages, plan: FinetunePlan, device: str
) -> None:
    """Fit the head on features of undistorted views, by logistic regression."""
    rows, request = images.rows, plan.request
    if not request.only_head and len(rows) > FITTED:
        share = FITTED / len(rows)
        rows = choose_of_each_class(images.source.ids, images.labels, rows, share, request.seed)
    embedded = embed_images(
        model.encoder, images.source, model.spec, rows, device=device, workers=plan.workers
    )
    labels = images.labels[embedded.indices]
    if len(set(labels.tolist())) < 2:
        raise UserError("data: fewer than two classes have an image that can be read")
    say(f"fitting the head on {len(labels):,} images")
    weights, biases = fit_linear(embedded.vectors, labels, len(images.classes))
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(weights))
        model.head.bias.copy_(torch.from_numpy(biases))


def _train(
    model: ImageClassifier,
    images: LabelledImages,
    plan: FinetunePlan,
    run: Run,
    device: str,
    resume: bool,
) -> bool:
    """Train encoder and head; return whether the training is complete."""
    from ..distributed.launch import start
    from ..training.finetuning import ClassifierTrainer

    fabric = start(device, plan.precision)
    torch.manual_seed(plan.request.seed)
    trainer = ClassifierTrainer(fabric, model, images, plan, run)
    if resume:
        trainer.restore()
        say(f"going on from step {trainer.step:,} of {trainer.schedule.total_steps:,}")
    complete = trainer.train()
    if not complete:
        say(f"stopped at step {trainer.step:,}; go on with --resume")
    return complete
