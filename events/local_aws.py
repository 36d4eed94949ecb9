"""An AWS for `sam local invoke`, on moto: a bucket with events/photo.png, the template's tables, queues and topics, and
what the functions of training are about.

It serves until interrupted.

python events/local_aws.py
"""

import argparse
import json
import socket
import subprocess
import sys
import threading
from functools import cache
from ipaddress import ip_network
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

from kickstand.events import split_uri
from kickstand_cli.local.template import Template, create_table
from kickstand_cli.project import PROJECT
from kickstand_cli.training.training_source import pack


def address() -> str:
    """Where containers reach this machine: Docker's bridge on Linux; Docker Desktop forwards to 127.0.0.1."""
    command = ["docker", "network", "inspect", "bridge", "--format", "{{json (index .IPAM.Config 0)}}"]
    try:
        bridge = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        gateway = str(bridge.get("Gateway") or ip_network(bridge["Subnet"])[1])  # older engines leave the first out
        socket.create_server((gateway, 0)).close()
    except (OSError, subprocess.CalledProcessError):
        return "127.0.0.1"
    return gateway


def furnish(endpoint: str) -> None:
    """Make what the functions read and write; a resource is called by its logical ID, as `sam local invoke` does."""
    session = boto3.Session("local", "local", region_name="us-east-1")
    upload = json.loads((PROJECT / "events/prepare_image.json").read_bytes())["detail"]
    s3 = session.client("s3", endpoint_url=endpoint)
    s3.create_bucket(Bucket=upload["bucket"]["name"])
    s3.create_bucket(Bucket=json.loads((PROJECT / "events/env.json").read_bytes())["Parameters"]["REPORT_BUCKET"])
    photo = (PROJECT / "events/photo.png").read_bytes()
    s3.put_object(Bucket=upload["bucket"]["name"], Key=upload["object"]["key"], Body=photo)
    dynamodb = session.client("dynamodb", endpoint_url=endpoint)
    sqs = session.client("sqs", endpoint_url=endpoint)
    template = Template(PROJECT / "template.yaml", {}, str, "{}.{}".format)
    sns = session.client("sns", endpoint_url=endpoint)
    for name, resource in template.resources.items():
        if resource["Type"] == "AWS::DynamoDB::Table":
            create_table(dynamodb, name, template.resolve(resource["Properties"]))
        elif resource["Type"] == "AWS::SQS::Queue":
            sqs.create_queue(QueueName=name)
        elif resource["Type"] == "AWS::SNS::Topic":
            sns.create_topic(Name=name)
    furnish_training(session, endpoint)


def furnish_training(session: boto3.Session, endpoint: str) -> None:
    """Golden images to learn from; the champion as what a job has made of them, registered as a challenger."""
    artefact = json.loads((PROJECT / "events/evaluate_model.json").read_bytes())["dataset"]["artefact_uri"]
    bucket, key = split_uri(artefact)
    s3 = session.client("s3", endpoint_url=endpoint)
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key=key, Body=champion())
    for number, photo in enumerate(sorted((PROJECT / "layers/model/golden").glob("*/*.jpg"))):
        split = ("train", "test")[number % 2]
        s3.put_object(Bucket=bucket, Key=f"base/{split}/{photo.parent.name}/{photo.name}", Body=photo.read_bytes())
    group = json.loads((PROJECT / "events/announce_approval.json").read_bytes())["detail"]["ModelPackageGroupName"]
    sagemaker: Any = session.client("sagemaker", endpoint_url=endpoint)
    sagemaker.create_model_package_group(ModelPackageGroupName=group)
    container = {"Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/kickstand-serving:1", "ModelDataUrl": artefact}
    types = {"SupportedContentTypes": ["image/png"], "SupportedResponseMIMETypes": ["application/json"]}
    sagemaker.create_model_package(
        ModelPackageGroupName=group, InferenceSpecification={"Containers": [container], **types}
    )


@cache
def champion() -> bytes:
    """model.tar.gz of the shipped model."""
    return pack({path.name: path for path in (PROJECT / "layers/model/model").iterdir()})


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=5055, help="the port in events/env.json")
    host, port = address(), parser.parse_args().port
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        sys.exit(f"error: {host}:{port}: {error.strerror}")
    server = ThreadedMotoServer(host, port, verbose=False)
    server.start()
    furnish(f"http://{host}:{port}")
    print(f"A local AWS answers on http://{host}:{port}, until Ctrl-C.", flush=True)  # noqa: T201
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        server.stop()


if __name__ == "__main__":
    main()
