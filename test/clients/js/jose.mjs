// Drives jose for the tests: a JSON command on each line of standard input, a JSON answer on each line of output.
//
// {"make": {alg, kid, claims}} makes a key pair and a token with it: {"token", "keySet"}; with a secret (base64url) in the
// command the token has a MAC, and there is no key set.
// {"verify": {alg, token, keySet or secret}} answers {"claims"} or {"refused": why}.
import { createInterface } from "node:readline";
import * as jose from "jose";

async function make({ alg, kid, claims, secret }) {
  const jwt = new jose.SignJWT(claims).setProtectedHeader({ alg, kid, typ: "JWT" });
  if (secret) return { token: await jwt.sign(jose.base64url.decode(secret)) };
  const { publicKey, privateKey } = await jose.generateKeyPair(alg, { extractable: true });
  const jwk = { ...(await jose.exportJWK(publicKey)), kid, alg, use: "sig" };
  return { token: await jwt.sign(privateKey), keySet: { keys: [jwk] } };
}

async function verify({ alg, token, keySet, secret }) {
  const key = secret ? jose.base64url.decode(secret) : jose.createLocalJWKSet(keySet);
  try {
    const { payload } = await jose.jwtVerify(token, key, { algorithms: [alg] });
    return { claims: payload };
  } catch (error) {
    if (!(error instanceof jose.errors.JOSEError)) throw error;
    return { refused: error.code };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  console.log(JSON.stringify(await (command.make ? make(command.make) : verify(command.verify))));
}
