"""Makes a MAC by boto3, and then looks for that in the event history of the same server, in the ways of its arguments: KEY USER.

Prints what was found, a JSON object a line. The endpoint is in ENDPOINT.
"""
import json
import os
import sys

import boto3

key, user = sys.argv[1:]
endpoint = os.environ["ENDPOINT"]
boto3.client("kms", endpoint_url=endpoint).generate_mac(KeyId=key, Message=b"a message", MacAlgorithm="HMAC_SHA_256")
trail = boto3.client("cloudtrail", endpoint_url=endpoint)
for name, value in (("ResourceName", key), ("Username", user)):
    pages = trail.get_paginator("lookup_events").paginate(
        LookupAttributes=[{"AttributeKey": name, "AttributeValue": value}], PaginationConfig={"PageSize": 1}
    )
    for event in pages.build_full_result()["Events"]:
        event["EventTime"] = event["EventTime"].isoformat()
        print(json.dumps(event))
