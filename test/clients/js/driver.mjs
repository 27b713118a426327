// Drives the AWS SDK for JavaScript for the tests; commands and answers are those of driver.py.
import { createInterface } from "node:readline";
import * as kms from "@aws-sdk/client-kms";

const binary = new Set(["CiphertextBlob", "EncryptedKeyMaterial", "ImportToken", "Mac", "Message", "Plaintext", "PublicKey", "Signature"]);
const operations = Object.keys(kms).map((name) => /^([A-Z]\w*)Command$/.exec(name)?.[1]).filter(Boolean);
const clients = new Map();

function clientFor(target) {
  const key = JSON.stringify(target);
  if (!clients.has(key)) {
    const { endpoint, region, accessKey, secret } = target;
    const credentials = { accessKeyId: accessKey, secretAccessKey: secret };
    clients.set(key, new kms.KMSClient({ endpoint, region, credentials }));
  }
  return clients.get(key);
}

function withBytes(input) {
  const entries = Object.entries(input);
  return Object.fromEntries(entries.map(([k, v]) => [k, binary.has(k) ? Buffer.from(v, "base64") : v]));
}

async function run(client, operation, input) {
  if ("Limit" in input) {
    const { Limit: pageSize, ...others } = input;
    const whole = {};
    for await (const page of kms[`paginate${operation}`]({ client, pageSize }, others)) {
      const [name] = Object.keys(page).filter((member) => Array.isArray(page[member]));
      whole[name] = [...(whole[name] ?? []), ...page[name]];
    }
    return whole;
  }
  const { $metadata, ...output } = await client.send(new kms[`${operation}Command`](withBytes(input)));
  return output;
}

function refusal(error) {
  if (!(error instanceof kms.KMSServiceException)) throw error;
  const own = kms[error.name];
  return {
    class: own && error instanceof own ? error.name : "KMSServiceException",
    code: error.name,
    message: error.message,
    status: error.$metadata.httpStatusCode,
  };
}

async function answer({ target, operation, input }) {
  if (!operation) return { output: { Operations: operations } };
  if (!operations.includes(operation)) return { unknown: true };
  try {
    return { output: await run(clientFor(target), operation, input) };
  } catch (error) {
    return { refusal: refusal(error) };
  }
}

const plain = (_, value) => (value instanceof Uint8Array ? Buffer.from(value).toString("base64") : value);

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await answer(JSON.parse(line)), plain));
}
for (const client of clients.values()) client.destroy();
