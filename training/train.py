"""Entry point of the SageMaker training job (script mode): SageMaker's folders in, `kickstand train`, its folders out.

Hyperparameters arrive as options, folders as environment variables, as
https://github.com/aws/sagemaker-training-toolkit/blob/master/ENVIRONMENT_VARIABLES.md names them. The files in
SM_MODEL_DIR become model.tar.gz, those in SM_OUTPUT_DATA_DIR output.tar.gz. The folder of checkpoints is copied to S3
while the job runs, and back when it continues after a spot interruption:
https://docs.aws.amazon.com/sagemaker/latest/dg/model-checkpoints.html.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

BASE = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
FAILURE = BASE / "output" / "failure"
FAILURE_LIMIT = 1024  # characters of it that DescribeTrainingJob shows
CHECKPOINTS = BASE / "checkpoints"


class Options(argparse.ArgumentParser):
    """Says what is wrong in the failure file, where SageMaker looks, instead of on the way out."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"hyperparameters: {message}")


def main() -> int:
    """The job's exit status; where it is not 0, the reason is in the failure file."""
    try:
        train(read_options(sys.argv[1:]))
    except Exception as error:
        traceback.print_exc()
        FAILURE.parent.mkdir(parents=True, exist_ok=True)
        FAILURE.write_text(f"{type(error).__name__}: {error}"[:FAILURE_LIMIT], "utf-8")
        return 1
    return 0


def whole(least: int) -> Callable[[str], int]:
    """Reads a whole number from `least` up; raises ArgumentTypeError for anything else."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} up")
        return int(text)

    return read


def share(text: str) -> float:
    """A number between 0 and 1, without either. Raises ValueError for no number, ArgumentTypeError for one outside."""
    if not 0.0 < float(text) < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} does not lie between 0 and 1")
    return float(text)


def read_options(arguments: list[str]) -> argparse.Namespace:
    """The hyperparameters. Raises ValueError for one that is unknown or out of its range."""
    parser = Options(description=__doc__, allow_abbrev=False)
    parser.add_argument("--folds", type=whole(2), default=5)
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--max-risk", type=share, default=0.02)
    parser.add_argument("--mix", default="")
    parser.add_argument("--confidence", type=share, default=0.95)
    return parser.parse_args(arguments)


def train(options: argparse.Namespace) -> None:
    """Train on the channel `dataset`: train/<label>/, test/<label>/ (only to keep its images out of training), and
    auxiliary.npz, where there is one: more images of neither."""
    from kickstand_cli.classify.goal import Goal
    from kickstand_cli.training.head import Recipe
    from kickstand_cli.training.pipeline import Leakage, Places, train_model

    dataset = Path(os.environ["SM_CHANNEL_DATASET"])
    auxiliary = dataset / "auxiliary.npz"
    places = Places(
        photos=[dataset, auxiliary] if auxiliary.is_file() else [dataset],
        out=Path(os.environ["SM_MODEL_DIR"]),
        evidence=Path(os.environ["SM_OUTPUT_DATA_DIR"]),
        features=CHECKPOINTS / "features.sqlite",
        backbone=Path(__file__).parent / "model",
    )
    recipe = Recipe(folds=options.folds, seed=options.seed)
    threads = int(os.environ.get("SM_NUM_CPUS", "1"))
    goal = Goal([str(options.max_risk)], options.confidence, options.mix or None)
    report(train_model(places, recipe, Leakage.DROP, goal, threads).card)


def report(card: dict[str, Any]) -> None:
    """One line for each metric, in the form that the job's metric definitions read."""
    for name, told in card["metrics"].items():
        print(f"metric {name}={told['value']:.6f};", flush=True)  # noqa: T201
    print(f"model {card['model_version']}, policy {card['policy']['policy_version']}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
