"""`kickstand monitor` reads a deployed stack's table."""

import json
from pathlib import Path

import boto3
import typer
from moto import mock_aws
from typer.testing import CliRunner

from kickstand.records import Record
from kickstand.store import put_record
from kickstand_cli.monitor import monitor

RECORD = {
    "version": "v",
    "image_ref": {"bucket": "photos", "key": "a.jpg", "etag": "e", "uploaded_at": "2026-05-04T12:00:00Z"},
    "decision": {"route": "reject", "reason": "unreadable"},
    "execution": "arn",
    "recorded_at": "2026-05-04T12:00:00Z",
}


def test_every_record_of_the_table_is_read(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(monitor)
    outputs = tmp_path / "outputs.json"
    outputs.write_text(json.dumps({"RecordsTableName": "records"}))
    (tmp_path / "model.json").write_text("{}")
    with mock_aws():
        dynamodb = boto3.client("dynamodb")
        dynamodb.create_table(
            TableName="records",
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[
                {"AttributeName": "image", "KeyType": "HASH"},
                {"AttributeName": "version", "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[
                {"AttributeName": "image", "AttributeType": "S"},
                {"AttributeName": "version", "AttributeType": "S"},
            ],
        )
        for i in range(30):
            put_record(dynamodb, "records", Record.model_validate({**RECORD, "image": f"s3://photos/{i}.jpg"}))
        result = CliRunner().invoke(app, ["--outputs", str(outputs), "--model", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["images"] == 30
