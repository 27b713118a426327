"""A JSON Web Token signed with HS256 by an HMAC key that never leaves its token (RFC 7515, RFC 7518 section 3.2).

The calls are those for AWS KMS; only endpoint_url says that they go to pkcs11kms. Credentials and region come from the
environment, as usual: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION. Run it with the endpoint:

    AWS_ENDPOINT_URL_KMS=http://127.0.0.1:4599 python3 jwt_hs256.py
"""
import base64
import json
import os
import time

import boto3

# boto3 before 1.28 does not read AWS_ENDPOINT_URL_KMS by itself.
kms = boto3.client("kms", endpoint_url=os.environ.get("AWS_ENDPOINT_URL_KMS"))


def base64url(data):
    """Base64 for URLs, without padding: the only form that a JWT may have."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_base64url(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encode(part):
    return base64url(json.dumps(part, separators=(",", ":")).encode("utf-8"))


def sign(key_id, claims):
    """Returns the JWT: header.payload.signature. KMS takes up to 4,096 bytes of header and payload."""
    header = {"alg": "HS256", "typ": "JWT", "kid": key_id}
    signing_input = encode(header) + "." + encode(claims)
    answer = kms.generate_mac(KeyId=key_id, MacAlgorithm="HMAC_SHA_256", Message=signing_input.encode("ascii"))
    return signing_input + "." + base64url(answer["Mac"])


def verify(key_id, token):
    """Returns the claims of a token that this key has signed and that has not expired; raises otherwise.

    Key and algorithm are the caller's choice. They are never taken from the header, which the sender wrote.
    """
    signing_input, _, signature = token.rpartition(".")
    kms.verify_mac(
        KeyId=key_id,
        MacAlgorithm="HMAC_SHA_256",
        Message=signing_input.encode("ascii"),
        Mac=from_base64url(signature),
    )  # raises KMSInvalidMacException: KMS has no answer that says "not valid"
    header, _, payload = signing_input.partition(".")
    if json.loads(from_base64url(header))["alg"] != "HS256":
        raise ValueError("the token is not an HS256 token")
    claims = json.loads(from_base64url(payload))
    if claims["exp"] <= time.time():
        raise ValueError("the token has expired")
    return claims


def tamper(token):
    """Makes Alice an administrator and keeps the signature."""
    header, payload, signature = token.split(".")
    claims = json.loads(from_base64url(payload))
    claims["admin"] = True
    return ".".join([header, encode(claims), signature])


def main():
    key = kms.create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC", Description="signs JWTs")
    key_id = key["KeyMetadata"]["KeyId"]

    token = sign(key_id, {"sub": "alice", "admin": False, "exp": int(time.time()) + 600})
    print("token:", token)
    print("verified:", verify(key_id, token)["sub"])
    try:
        verify(key_id, tamper(token))
    except kms.exceptions.KMSInvalidMacException:
        print("tampered token refused")


if __name__ == "__main__":
    main()
