"""The command `finetune` as a Python function; see `api.py`."""

from ..planning.settings_finetune import FinetuneArguments, FinetuneSettings
from ..runs.resume import require_new
from .argument_types import Finetuned
from .arguments import takes
from .early_checks import require_data, unwrap_encoder

__all__ = ["finetune"]


@takes(FinetuneArguments)
def finetune(arguments: FinetuneArguments) -> Finetuned:
    """Make a classifier of the encoder of a run of `pretrain`, with all labels or a share of them.

    The head is fitted by logistic regression, then encoder and head are trained on random crops
    and flips. Settings that are left out are derived, and printed with the reason. The accuracy on
    images that were not trained on is added to evaluations.jsonl of the run and of the classifier.

    Returns:
        The folder of the classifier, which `sogclr.load` reads, and its accuracy.

    Raises:
        sogclr.UserError: An error that the user can correct; one line says how.
    """
    settings = FinetuneSettings.from_arguments(arguments)
    require_data(arguments.data)
    require_data(arguments.test, "test")
    if arguments.out is not None and not arguments.resume:
        require_new(arguments.out)
    from .finetune import finetune as run_finetuning

    return run_finetuning(arguments, settings, unwrap_encoder(arguments.encoder))
