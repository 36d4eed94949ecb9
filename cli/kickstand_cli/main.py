"""The `kickstand` command."""

import typer

from kickstand_cli import dataset, labels, switch, training_command
from kickstand_cli.baseline import baseline
from kickstand_cli.classify import classify
from kickstand_cli.cost import cost
from kickstand_cli.demo import demo
from kickstand_cli.doctor import doctor
from kickstand_cli.evaluate import evaluate
from kickstand_cli.explain import explain
from kickstand_cli.gate import gate
from kickstand_cli.import_capture import import_capture
from kickstand_cli.ledger import ledger
from kickstand_cli.load import load
from kickstand_cli.monitor import monitor
from kickstand_cli.policy import policy
from kickstand_cli.replay import replay
from kickstand_cli.report import report
from kickstand_cli.review import review
from kickstand_cli.serve import serve
from kickstand_cli.train import train

app = typer.Typer(
    name="kickstand",
    help="Classifies photos as they are uploaded to S3, and guards every answer.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(doctor)
app.command()(classify)
app.command()(train)
app.command()(evaluate)
app.command()(policy)
app.command()(gate)
app.command()(review)
app.command()(ledger)
app.command()(explain)
app.command()(load)
app.command()(baseline)
app.command()(monitor)
app.command()(report)
app.command()(import_capture)
app.command()(replay)
app.command()(serve)
app.command()(cost)
app.add_typer(dataset.app, name="dataset")
app.add_typer(labels.app, name="labels")
app.add_typer(training_command.app, name="training")
app.add_typer(switch.app, name="switch")
