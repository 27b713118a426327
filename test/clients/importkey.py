"""Key material imported by boto3 and cryptography, in each envelope as the documentation of AWS describes it, and the errors of AWS.

The endpoint is in ENDPOINT. Prints what was found as one JSON object.
"""
import hashlib
import hmac
import json
import os

import boto3
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding

kms = boto3.client("kms", endpoint_url=os.environ["ENDPOINT"])
HASHES = {"1": hashes.SHA1, "256": hashes.SHA256}


def create():
    return kms.create_key(Origin="EXTERNAL", KeySpec="HMAC_512", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]["KeyId"]


def wrap(key, algorithm, material):
    """What import_key_material takes, for a key."""
    p = kms.get_parameters_for_import(KeyId=key, WrappingAlgorithm=algorithm, WrappingKeySpec="RSA_2048")
    public = serialization.load_der_public_key(p["PublicKey"])
    h = HASHES[algorithm.rsplit("_", 1)[1]]
    oaep = padding.OAEP(mgf=padding.MGF1(algorithm=h()), algorithm=h(), label=None)
    if "AES_KEY_WRAP" in algorithm:
        aes = os.urandom(32)
        blob = public.encrypt(aes, oaep) + keywrap.aes_key_wrap_with_padding(aes, material)
    else:
        blob = public.encrypt(material, oaep)
    return {"KeyId": key, "ImportToken": p["ImportToken"], "EncryptedKeyMaterial": blob, "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}


def error(call, **members):
    try:
        call(**members)
    except kms.exceptions.ClientError as e:
        return [type(e).__name__, e.response["Error"]["Code"]]
    return "none"


found = {"right": 0, "refused": []}
for algorithm in ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256"]:
    for length in [64, 77, 128]:
        key, material = create(), os.urandom(length)
        kms.import_key_material(**wrap(key, algorithm, material))
        mac = kms.generate_mac(KeyId=key, MacAlgorithm="HMAC_SHA_512", Message=b"m")["Mac"]
        found["right"] += mac == hmac.new(material, b"m", hashlib.sha512).digest()

key, material = create(), os.urandom(64)
asked = wrap(key, "RSAES_OAEP_SHA_256", material)
blob = asked["EncryptedKeyMaterial"]
found["refused"] = [
    error(kms.import_key_material, **{**asked, "EncryptedKeyMaterial": blob[:-1] + bytes([blob[-1] ^ 1])}),
    error(kms.import_key_material, **{**asked, "ImportToken": asked["ImportToken"][:-1]}),
    error(kms.import_key_material, **{**asked, "KeyId": create()}),
    error(kms.import_key_material, **{**asked, "EncryptedKeyMaterial": wrap(key, "RSAES_OAEP_SHA_256", bytes(20))["EncryptedKeyMaterial"]}),
    error(kms.generate_mac, KeyId=key, MacAlgorithm="HMAC_SHA_512", Message=b"m"),
]
kms.import_key_material(**asked)
found["refused"].append(error(kms.import_key_material, **wrap(key, "RSAES_OAEP_SHA_256", os.urandom(64))))
kms.delete_imported_key_material(KeyId=key)
found["state"] = kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"]
print(json.dumps(found))
