"""Drives boto3 for the tests: a JSON command on each line of standard input, a JSON answer on each line of output.

Command: {"operation", "input", "target": {"endpoint", "region", "accessKey", "secret"}}, binary members in base64.
Answer: {"output"} or {"refusal": {"class", "code", "message", "status"}} or {"unknown": true} when this boto3 is older
than the operation or a member of its input. Lists take a page size as Limit and go through boto3's paginators. Without
an operation the output is {"Operations"}: those that this boto3 has.
"""
import base64
import datetime
import json
import sys

import boto3
from botocore import xform_name
from botocore.exceptions import ClientError, ParamValidationError


def new_client(target):
    return boto3.client(
        "kms",
        endpoint_url=target["endpoint"],
        region_name=target["region"],
        aws_access_key_id=target["accessKey"],
        aws_secret_access_key=target["secret"],
    )


def run(client, operation, members):
    shapes = client.meta.service_model.operation_model(operation).input_shape.members
    binary = {name for name, shape in shapes.items() if shape.type_name == "blob"}
    arguments = {name: base64.b64decode(value) if name in binary else value for name, value in members.items()}
    name = xform_name(operation)
    if "Limit" in arguments:
        size = arguments.pop("Limit")
        return client.get_paginator(name).paginate(**arguments, PaginationConfig={"PageSize": size}).build_full_result()
    output = getattr(client, name)(**arguments)
    del output["ResponseMetadata"]
    return output


def refusal(client, error):
    code = error.response["Error"]["Code"]
    own = getattr(client.exceptions, code, None)
    return {
        "class": code if own is not None and isinstance(error, own) else type(error).__name__,
        "code": code,
        "message": error.response["Error"]["Message"],
        "status": error.response["ResponseMetadata"]["HTTPStatusCode"],
    }


def answer(clients, command):
    target = command["target"]
    key = json.dumps(target)
    if key not in clients:
        clients[key] = new_client(target)
    operations = clients[key].meta.service_model.operation_names
    if not command["operation"]:
        return {"output": {"Operations": operations}}
    if command["operation"] not in operations:
        return {"unknown": True}
    try:
        return {"output": run(clients[key], command["operation"], command["input"])}
    except ClientError as error:
        return {"refusal": refusal(clients[key], error)}
    except ParamValidationError as error:
        if "Unknown parameter" in str(error):
            return {"unknown": True}
        raise


def plain(value):
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)


def main():
    clients = {}
    for line in sys.stdin:
        print(json.dumps(answer(clients, json.loads(line)), default=plain), flush=True)


main()
