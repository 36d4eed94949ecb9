"""Runs asl-validator over every state machine, as it stands after deployment: `make check` calls this."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from kickstand_cli.local.template import all_resources

ROOT = Path(__file__).parent.parent
TEMPLATE = ROOT / "template.yaml"
PLACEHOLDER_ARN = "arn:aws:lambda:us-east-1:123456789012:function:placeholder"


def main() -> int:
    """asl-validator's exit status, over the definitions with their substitutions filled in."""
    with tempfile.TemporaryDirectory() as folder:
        definitions = []
        for definition, substitutions in state_machines():
            text = (ROOT / definition).read_text("utf-8")
            for name in substitutions:
                text = text.replace(f"${{{name}}}", "aws" if name == "Partition" else PLACEHOLDER_ARN)
            definitions.append(Path(folder, Path(definition).name).with_suffix(".json"))
            definitions[-1].write_text(json.dumps(yaml.safe_load(text)), "utf-8")
        paths = [argument for path in definitions for argument in ("--json-path", str(path))]
        return subprocess.run([ROOT / "node_modules/.bin/asl-validator", *paths], check=False).returncode


def state_machines() -> list[tuple[str, dict[str, Any]]]:
    """Definition file and substitutions of each state machine in the template and its nested ones."""
    resources = all_resources(TEMPLATE).values()
    machines = [item["Properties"] for item in resources if item["Type"] == "AWS::Serverless::StateMachine"]
    return [(machine["DefinitionUri"], machine.get("DefinitionSubstitutions", {})) for machine in machines]


if __name__ == "__main__":
    sys.exit(main())
