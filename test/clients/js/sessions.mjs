// Makes a MAC with whatever credentials the AWS SDK for JavaScript finds by itself, as a program that knows nothing of this service would.
import { GenerateMacCommand, KMSClient } from "@aws-sdk/client-kms";

const client = new KMSClient({});
const { Mac, KeyId } = await client.send(
  new GenerateMacCommand({ KeyId: process.argv[2], Message: Buffer.from("message"), MacAlgorithm: "HMAC_SHA_256" }),
);
console.log(JSON.stringify({ mac: Mac.length, keyId: KeyId }));
