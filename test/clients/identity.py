"""A role's life by boto3: made, given a policy, read, listed, changed and deleted; and a user who makes a MAC by its own access key.

The key is the argument KEY, the endpoint is in ENDPOINT. Prints what was found as one JSON object.
"""
import json
import os
import sys

import boto3
import botocore.exceptions

(key,) = sys.argv[1:]
endpoint = os.environ["ENDPOINT"]


def client(service, **credentials):
    return boto3.client(service, endpoint_url=endpoint, **credentials)


def policy(*actions):
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]}
iam = client("iam")
found = {"identity": client("sts").get_caller_identity()["Arn"]}
iam.create_role(RoleName="Maker", Path="/jwt/", AssumeRolePolicyDocument=json.dumps(trust), Tags=[{"Key": "Team", "Value": "id"}])
iam.get_waiter("role_exists").wait(RoleName="Maker")
iam.put_role_policy(RoleName="Maker", PolicyName="own", PolicyDocument=policy("kms:GenerateMac"))
role = iam.get_role(RoleName="Maker")["Role"]
found["role"] = [role["Arn"], role["AssumeRolePolicyDocument"] == trust, role["Tags"], role["MaxSessionDuration"]]
found["policy"] = iam.get_role_policy(RoleName="Maker", PolicyName="own")["PolicyDocument"]["Statement"][0]["Action"]
for name in ("a", "b", "c", "Bob"):
    iam.create_user(UserName=name)
pages = iam.get_paginator("list_users").paginate(PaginationConfig={"PageSize": 2})
found["users"] = [user["UserName"] for user in pages.build_full_result()["Users"]]
iam.put_user_policy(UserName="Bob", PolicyName="own", PolicyDocument=policy("kms:GenerateMac"))
made = iam.create_access_key(UserName="Bob")["AccessKey"]
bob = {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}
mac = client("kms", **bob).generate_mac(KeyId=key, Message=b"a message", MacAlgorithm="HMAC_SHA_256")
found["mac"] = len(mac["Mac"])
found["bob"] = client("sts", **bob).get_caller_identity()["Arn"]
for call in (
    lambda: client("iam", **bob).list_users(),
    lambda: iam.delete_user(UserName="Bob"),
    lambda: iam.get_user(UserName="None"),
    lambda: iam.create_user(UserName="bob"),
):
    try:
        call()
    except botocore.exceptions.ClientError as e:
        found.setdefault("errors", []).append([type(e).__name__, e.response["Error"]["Code"]])
iam.delete_access_key(UserName="Bob", AccessKeyId=made["AccessKeyId"])
iam.delete_user_policy(UserName="Bob", PolicyName="own")
iam.delete_user(UserName="Bob")
iam.delete_role_policy(RoleName="Maker", PolicyName="own")
iam.delete_role(RoleName="Maker")
found["roles"] = iam.list_roles()["Roles"]
print(json.dumps(found))
