"""A session of a role by boto3: begun with a session policy and tags, used for a MAC, and refused what it may not.

The arguments are KEY and ROLE, the endpoint is in ENDPOINT. Prints what was found as one JSON object.
"""
import json
import os
import sys

import boto3
import botocore.exceptions

key, role = sys.argv[1:]
endpoint = os.environ["ENDPOINT"]
policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:GenerateMac", "Resource": "*"}]}
made = boto3.client("sts", endpoint_url=endpoint).assume_role(
    RoleArn=role, RoleSessionName="boto", DurationSeconds=900, Policy=json.dumps(policy),
    Tags=[{"Key": "Team", "Value": "id"}], TransitiveTagKeys=["Team"], SourceIdentity="bob", ExternalId="ours")
given = made["Credentials"]
session = boto3.Session(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
kms = session.client("kms", endpoint_url=endpoint)
found = {
    "arn": session.client("sts", endpoint_url=endpoint).get_caller_identity()["Arn"],
    "user": made["AssumedRoleUser"]["Arn"],
    "source": made["SourceIdentity"],
    "packed": 0 < made["PackedPolicySize"] <= 100,
    "mac": len(kms.generate_mac(KeyId=key, Message=b"m", MacAlgorithm="HMAC_SHA_256")["Mac"]),
}
try:
    kms.describe_key(KeyId=key)
except botocore.exceptions.ClientError as error:
    found["refused"] = error.response["Error"]["Code"]
other = boto3.Session(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"][:-8] + "AAAAAAA=")
try:
    other.client("sts", endpoint_url=endpoint).get_caller_identity()
except botocore.exceptions.ClientError as error:
    found["altered"] = error.response["Error"]["Code"]
print(json.dumps(found))
