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
# A group and a managed policy give the right that the inline policy does not.
iam.delete_user_policy(UserName="Bob", PolicyName="own")
iam.create_group(GroupName="Ops")
made_policy = iam.create_policy(PolicyName="Mac", PolicyDocument=policy("kms:GenerateMac"), Tags=[{"Key": "Team", "Value": "id"}])["Policy"]
iam.get_waiter("policy_exists").wait(PolicyArn=made_policy["Arn"])
iam.attach_group_policy(GroupName="Ops", PolicyArn=made_policy["Arn"])
iam.add_user_to_group(GroupName="Ops", UserName="Bob")
mac = client("kms", **bob).generate_mac(KeyId=key, Message=b"a message", MacAlgorithm="HMAC_SHA_256")
found["by group"] = len(mac["Mac"])
found["members"] = [user["UserName"] for user in iam.get_group(GroupName="Ops")["Users"]]
found["entities"] = [g["GroupName"] for g in iam.list_entities_for_policy(PolicyArn=made_policy["Arn"])["PolicyGroups"]]
version = iam.create_policy_version(PolicyArn=made_policy["Arn"], PolicyDocument=policy("kms:VerifyMac"), SetAsDefault=True)["PolicyVersion"]
read = iam.get_policy(PolicyArn=made_policy["Arn"])["Policy"]
found["managed"] = [version["VersionId"], read["DefaultVersionId"], read["AttachmentCount"], read["Tags"]]
document = iam.get_policy_version(PolicyArn=made_policy["Arn"], VersionId="v2")["PolicyVersion"]["Document"]
found["version"] = document["Statement"][0]["Action"]
for call in (
    lambda: client("kms", **bob).generate_mac(KeyId=key, Message=b"a message", MacAlgorithm="HMAC_SHA_256"),
    lambda: iam.delete_policy(PolicyArn=made_policy["Arn"]),
    lambda: iam.attach_user_policy(UserName="Bob", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess"),
):
    try:
        call()
    except botocore.exceptions.ClientError as e:
        found.setdefault("refused", []).append([type(e).__name__, e.response["Error"]["Code"]])
iam.remove_user_from_group(GroupName="Ops", UserName="Bob")
iam.detach_group_policy(GroupName="Ops", PolicyArn=made_policy["Arn"])
iam.delete_group(GroupName="Ops")
iam.delete_policy_version(PolicyArn=made_policy["Arn"], VersionId="v1")
iam.delete_policy(PolicyArn=made_policy["Arn"])
found["policies"] = iam.list_policies(Scope="Local")["Policies"]
iam.delete_access_key(UserName="Bob", AccessKeyId=made["AccessKeyId"])
iam.delete_user(UserName="Bob")
iam.delete_role_policy(RoleName="Maker", PolicyName="own")
iam.delete_role(RoleName="Maker")
found["roles"] = iam.list_roles()["Roles"]
print(json.dumps(found))
