"""What a pod with a projected service account token does by boto3, which finds role and token in its environment.

The argument is KEY; the endpoint is in AWS_ENDPOINT_URL_STS for the token, which botocore knows from 1.31 on and is told here before, and in
ENDPOINT for the rest. Prints what was found as one JSON object.
"""
import json
import os
import sys

import boto3
import botocore
import botocore.credentials
import botocore.session

key, = sys.argv[1:]
endpoint = os.environ["ENDPOINT"]
token_file = os.environ["AWS_WEB_IDENTITY_TOKEN_FILE"]
inner = botocore.session.get_session()
if tuple(int(n) for n in botocore.__version__.split(".")[:2]) < (1, 31):
    def client(service, **more):
        return botocore.session.get_session().create_client(service, endpoint_url=endpoint, **more)
    fetcher = botocore.credentials.AssumeRoleWithWebIdentityCredentialFetcher(
        client_creator=client, web_identity_token_loader=botocore.utils.FileWebIdentityTokenLoader(token_file),
        role_arn=os.environ["AWS_ROLE_ARN"], extra_args={"RoleSessionName": os.environ["AWS_ROLE_SESSION_NAME"]})
    inner._credentials = botocore.credentials.DeferredRefreshableCredentials(
        method="assume-role-with-web-identity", refresh_using=fetcher.fetch_credentials)
session = boto3.Session(botocore_session=inner)
kms = session.client("kms", endpoint_url=endpoint)
found = {
    "arn": session.client("sts", endpoint_url=endpoint).get_caller_identity()["Arn"],
    "mac": len(kms.generate_mac(KeyId=key, Message=b"m", MacAlgorithm="HMAC_SHA_256")["Mac"]),
}
with open(token_file) as f:
    token = f.read()
sts = session.client("sts", endpoint_url=endpoint)
ask = {"RoleArn": os.environ["AWS_ROLE_ARN"], "RoleSessionName": "boto"}
made = sts.assume_role_with_web_identity(WebIdentityToken=token, DurationSeconds=900, **ask)
found["subject"], found["provider"], found["audience"] = made["SubjectFromWebIdentityToken"], made["Provider"], made["Audience"]
for name, text in ("altered", token[:-8] + "AAAAAAAA"), ("none", "a.b.c"):
    try:
        sts.assume_role_with_web_identity(WebIdentityToken=text, **ask)
    except sts.exceptions.InvalidIdentityTokenException as error:
        found[name] = error.response["ResponseMetadata"]["HTTPStatusCode"]
print(json.dumps(found))
