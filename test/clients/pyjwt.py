"""Drives PyJWT for the tests; commands and answers are those of js/jose.mjs."""
import json
import sys

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import algorithms

CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


def new_pair(alg):
    """Returns a private key and its public JWK."""
    if alg in CURVES:
        private = ec.generate_private_key(CURVES[alg]())
        return private, ec_jwk(private.public_key())
    if alg == "EdDSA":
        private = ed25519.Ed25519PrivateKey.generate()
        x = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return private, {"kty": "OKP", "crv": "Ed25519", "x": jwt.utils.base64url_encode(x).decode()}
    private = rsa.generate_private_key(65537, 2048)
    return private, json.loads(algorithms.RSAAlgorithm.to_jwk(private.public_key()))


def ec_jwk(public):
    """PyJWT before 2.7 writes no JWK of an elliptic curve."""
    width = (public.curve.key_size + 7) // 8
    numbers = public.public_numbers()
    x, y = (jwt.utils.base64url_encode(n.to_bytes(width, "big")).decode() for n in (numbers.x, numbers.y))
    name = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}[public.curve.name]
    return {"kty": "EC", "crv": name, "x": x, "y": y}


def make(alg, kid, claims, secret=None):
    if secret:
        return {"token": jwt.encode(claims, jwt.utils.base64url_decode(secret), alg, headers={"kid": kid})}
    private, jwk = new_pair(alg)
    token = jwt.encode(claims, private, alg, headers={"kid": kid})
    return {"token": token, "keySet": {"keys": [{**jwk, "kid": kid, "alg": alg, "use": "sig"}]}}


def key_of(token, alg, key_set):
    kid = jwt.get_unverified_header(token).get("kid")
    for jwk in key_set["keys"]:
        if jwk["kid"] == kid:
            return jwt.PyJWK({"alg": alg, **jwk}).key
    raise jwt.InvalidTokenError("no such key")


def verify(alg, token, keySet=None, secret=None):
    try:
        key = jwt.utils.base64url_decode(secret) if secret else key_of(token, alg, keySet)
        return {"claims": jwt.decode(token, key, algorithms=[alg])}
    except jwt.InvalidTokenError as error:
        return {"refused": type(error).__name__}


for line in sys.stdin:
    command = json.loads(line)
    answer = make(**command["make"]) if "make" in command else verify(**command["verify"])
    print(json.dumps(answer), flush=True)
