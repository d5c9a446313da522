// AWS's SDK for JavaScript: objects, ranges, pages of a listing, presigned URLs. What a driver is, reading.py says.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const load = createRequire(`${process.env.FOREBAY_CLIENT_MODULES}/`);
const { S3Client, GetObjectCommand, paginateListObjectsV2 } = load("@aws-sdk/client-s3");
const { getSignedUrl } = load("@aws-sdk/s3-request-presigner");

const manifest = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { endpoint, bucket, region, access, objects } = manifest;
const say = (line) => console.log(JSON.stringify(line));

const client = new S3Client({
  endpoint,
  region,
  forcePathStyle: true,
  ...(access
    ? { credentials: { accessKeyId: access.id, secretAccessKey: access.secret } }
    : { credentials: { accessKeyId: "", secretAccessKey: "" }, signer: { sign: async (request) => request } }),
});

async function read(way, key, pieces) {
  const digest = createHash("sha256");
  let size = 0;
  for await (const piece of pieces) {
    digest.update(piece);
    size += piece.length;
  }
  say({ way, key, size, sha256: digest.digest("hex") });
}

const get = async (Key, Range) => (await client.send(new GetObjectCommand({ Bucket: bucket, Key, Range }))).Body;

say({ version: load("@aws-sdk/client-s3/package.json").version });
for (const { key, size } of objects) {
  await read("GetObjectCommand", key, await get(key));
  if (access) {
    const address = await getSignedUrl(client, new GetObjectCommand({ Bucket: bucket, Key: key }), { expiresIn: 600 });
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(`${answer.status} for ${key}, presigned`);
    await read("presigned", key, [new Uint8Array(await answer.arrayBuffer())]);
  }
  if (size > 8 << 20) {
    const half = Math.floor(size / 2);
    const parts = await Promise.all([get(key, `bytes=0-${half - 1}`), get(key, `bytes=${half}-`)].map(async (body) => (await body).transformToByteArray()));
    await read("ranges", key, parts);
  }
}
const keys = [];
for await (const page of paginateListObjectsV2({ client, pageSize: 4 }, { Bucket: bucket })) {
  keys.push(...(page.Contents ?? []).map((entry) => entry.Key));
}
say({ way: "paginateListObjectsV2", keys });
