"""A JSON Web Token signed with RS256 by an RSA key that never leaves its token (RFC 7515, RFC 7518 section 3.3).

    AWS_ENDPOINT_URL_KMS=http://127.0.0.1:4599 python3 jwt_rs256.py sign alias/tokens > token
    AWS_ENDPOINT_URL_KMS=http://127.0.0.1:4599 python3 jwt_rs256.py verify KEY_ID... < token

The producer signs by an alias and writes the id of the key behind it into the token's header (kid). So the alias can be
moved to another key while tokens of the old one are still around: whoever verifies names both.
"""
import json
import sys
import time

from jwt_hs256 import base64url, encode, from_base64url, kms

ALGORITHM = "RSASSA_PKCS1_V1_5_SHA_256"


def sign(alias, claims):
    """Returns the JWT. The alias is resolved first, and the key that it named then signs: kid and key cannot differ."""
    key_id = kms.describe_key(KeyId=alias)["KeyMetadata"]["KeyId"]
    signing_input = encode({"alg": "RS256", "typ": "JWT", "kid": key_id}) + "." + encode(claims)
    answer = kms.sign(KeyId=key_id, SigningAlgorithm=ALGORITHM, MessageType="RAW", Message=signing_input.encode("ascii"))
    return signing_input + "." + base64url(answer["Signature"])


def verify(key_ids, token):
    """Returns the claims of a token that one of the keys has signed and that has not expired; raises otherwise.

    The kid of the header, which the sender wrote, chooses among the keys that the caller trusts, and never another.
    """
    signing_input, _, signature = token.rpartition(".")
    header, _, payload = signing_input.partition(".")
    header = json.loads(from_base64url(header))
    if header["alg"] != "RS256" or header["kid"] not in key_ids:
        raise ValueError("the token is not an RS256 token of these keys")
    kms.verify(
        KeyId=header["kid"],
        SigningAlgorithm=ALGORITHM,
        MessageType="RAW",
        Message=signing_input.encode("ascii"),
        Signature=from_base64url(signature),
    )  # raises KMSInvalidSignatureException: KMS has no answer that says "not valid"
    claims = json.loads(from_base64url(payload))
    if claims["exp"] <= time.time():
        raise ValueError("the token has expired")
    return claims


def main(command, *keys):
    if command == "sign":
        print(sign(keys[0], {"sub": "alice", "admin": False, "exp": int(time.time()) + 600}))
        return
    try:
        print("verified:", verify(keys, sys.stdin.read().strip())["sub"])
    except (ValueError, kms.exceptions.KMSInvalidSignatureException) as error:
        sys.exit("refused: " + type(error).__name__)


if __name__ == "__main__":
    main(*sys.argv[1:])
