import { createHash } from 'node:crypto';
import type { Readable } from 'node:stream';
import {
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  PutObjectCommand,
  S3Client,
  S3ServiceException,
} from '@aws-sdk/client-s3';
import type { HeadObjectCommandOutput } from '@aws-sdk/client-s3';
import { dataLoss, describeError, invalidArgument, PlumbError, unavailable } from '@plumb/kit/errors';
import {
  checkedHash,
  checkSize,
  describeArtifact,
  hashIn,
  hashOfReference,
  largestArtifact,
  notStored,
  verified,
} from './artifact.ts';
import type { ArtifactStore } from './artifact.ts';

export type S3StoreOptions = {
  /** Largest artifact that is written or read, in bytes; default 4 GiB. One request of S3 takes 5 GiB at most. */
  readonly maxBytes?: number;
  /** Where the endpoint and the region are looked up; the process's own environment by default. */
  readonly env?: Readonly<Record<string, string | undefined>>;
};

/** Every request is sent this often, with pauses that grow, before the error is the caller's. */
const attempts = 5;
const connectTimeoutMs = 5000;
/** Silence after which a request is given up. */
const silenceMs = 60_000;
/** Requests of a process at a time; more wait. */
const connections = 64;

const locationPattern = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:\/([\w!.*'()/-]*))?$/;

/** What the operator has to change before a request can succeed; everything else may pass. */
const refusals: Readonly<Record<string, string>> = {
  NoSuchBucket: 'make the bucket, or name another in PLUMB_ARTIFACTS',
  AccessDenied: 'allow s3:GetObject, s3:PutObject and s3:DeleteObject on the prefix',
  InvalidAccessKeyId: 'check AWS_ACCESS_KEY_ID',
  SignatureDoesNotMatch: 'check AWS_SECRET_ACCESS_KEY and AWS_REGION',
  CredentialsProviderError: 'set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod a role',
  PermanentRedirect: 'set AWS_REGION to the region of the bucket',
  AuthorizationHeaderMalformed: 'set AWS_REGION to the region of the bucket',
};

const nameOf = (error: unknown): string => (error instanceof Error ? error.name : '');
const statusOf = (error: unknown): number | undefined =>
  error instanceof S3ServiceException ? error.$metadata.httpStatusCode : undefined;
const isMissing = (error: unknown): boolean => statusOf(error) === 404 && nameOf(error) !== 'NoSuchBucket';
const base64Of = (hash: string): string => Buffer.from(hash, 'hex').toString('base64');

/** An error of S3 as ours. The service's own words are in the cause only: they may hold names of buckets and accounts. */
function toPlumbError(error: unknown, location: string): PlumbError {
  const name = nameOf(error);
  const fix = refusals[name] ?? (statusOf(error) === 403 ? refusals['AccessDenied'] : undefined);
  if (fix !== undefined) {
    return new PlumbError({
      code: 'FAILED_PRECONDITION',
      reason: 'CONFIGURATION_INVALID',
      message: `the artifact store ${location} refuses (${name}); ${fix}`,
      cause: error,
    });
  }
  const known = PlumbError.from(error);
  if (known.code !== 'INTERNAL') return known;
  return unavailable(
    `the artifact store ${location} cannot do this at the moment (${describeError(error)})`,
    {
      reason: 'CONNECTION_FAILED',
      cause: error,
    },
  );
}

/**
 * Opens an artifact store in a bucket of S3 or of anything that speaks its protocol. An object is written once, under its
 * hash, with the hash for the server to check; what the server does not confirm by a SHA-256 of its own is read back.
 *
 * Endpoint, region and credentials are those of every AWS program: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, AWS_REGION,
 * AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, a profile, or the role of the pod or the machine. With an endpoint of your
 * own the bucket stands in the path and not in the host name.
 *
 * @param location `s3://bucket` or `s3://bucket/prefix`
 * @throws PlumbError naming the location and the fix, when it cannot be written
 */
export async function openS3Store(location: string, options: S3StoreOptions = {}): Promise<ArtifactStore> {
  const [, bucket, given = ''] = locationPattern.exec(location) ?? [];
  if (bucket === undefined) {
    throw invalidArgument('artifact store', `is ${JSON.stringify(location)}; give s3://bucket/prefix`, {
      reason: 'CONFIGURATION_INVALID',
    });
  }
  const prefix = given === '' ? '' : `${given.replace(/\/+$/, '')}/`;
  const maxBytes = options.maxBytes ?? largestArtifact;
  const env = options.env ?? process.env;
  const endpoint = env['AWS_ENDPOINT_URL_S3'] ?? env['AWS_ENDPOINT_URL'];
  const client = new S3Client({
    ...(endpoint === undefined ? {} : { endpoint, forcePathStyle: true }),
    region: env['AWS_REGION'] ?? env['AWS_DEFAULT_REGION'] ?? 'us-east-1',
    maxAttempts: attempts,
    // Ours is checked from end to end; others break with servers that do not know them.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: {
      connectionTimeout: connectTimeoutMs,
      socketTimeout: silenceMs,
      httpAgent: { maxSockets: connections },
      httpsAgent: { maxSockets: connections },
    },
  });
  const keyOf = (hash: string): string => `${prefix}sha256/${hash.slice(0, 2)}/${hash}`;
  const at = (hash: string): { Bucket: string; Key: string } => ({ Bucket: bucket, Key: keyOf(hash) });

  try {
    // Only writing tells whether it can be written. The same object every time: nothing is left to be swept up.
    await client.send(new PutObjectCommand({ Bucket: bucket, Key: `${prefix}write-test`, Body: 'plumb' }));
  } catch (error) {
    client.destroy();
    throw toPlumbError(error, location);
  }

  const read = async (hash: string): Promise<Uint8Array> => {
    try {
      const { Body, ContentLength } = await client.send(new GetObjectCommand(at(hash)));
      // In Node the body is a stream of Node's.
      return await collect(Body as Readable, ContentLength, hash, maxBytes);
    } catch (error) {
      if (isMissing(error)) throw notStored(hash, 'check that all services share one artifact store', error);
      throw toPlumbError(error, location);
    }
  };
  const head = async (hash: string): Promise<HeadObjectCommandOutput | undefined> => {
    try {
      return await client.send(new HeadObjectCommand({ ...at(hash), ChecksumMode: 'ENABLED' }));
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw toPlumbError(error, location);
    }
  };
  /** Whether the object is there and intact, by the server's own checksum or by reading it. */
  const isIntact = async (hash: string, size: number): Promise<boolean> => {
    const found = await head(hash);
    if (found?.ContentLength !== size) return false;
    if (found.ChecksumSHA256 !== undefined) return found.ChecksumSHA256 === base64Of(hash);
    try {
      await read(hash);
      return true;
    } catch (error) {
      if (PlumbError.from(error).code === 'DATA_LOSS') return false;
      throw error;
    }
  };

  /** Writes, unless something is there or somebody is writing it just now. */
  const create = async (bytes: Uint8Array, hash: string, mediaType: string): Promise<void> => {
    const object = { ...at(hash), Body: bytes, ContentType: mediaType, ChecksumSHA256: base64Of(hash) };
    try {
      await client.send(new PutObjectCommand({ ...object, IfNoneMatch: '*' }));
      return;
    } catch (error) {
      const status = statusOf(error);
      if (status === 412 || status === 409) return;
      // A server that does not know the condition: equal bytes over equal bytes harm nobody.
      if (status !== 501) throw toPlumbError(error, location);
    }
    await overwrite(object);
  };
  const overwrite = async (object: ConstructorParameters<typeof PutObjectCommand>[0]): Promise<void> => {
    try {
      await client.send(new PutObjectCommand(object));
    } catch (error) {
      throw toPlumbError(error, location);
    }
  };

  return {
    async put(bytes, { mediaType }) {
      const artifact = describeArtifact(bytes, mediaType, maxBytes);
      const { sha256: hash, size } = artifact;
      if (await isIntact(hash, size)) return artifact;
      await create(bytes, hash, mediaType);
      if (await isIntact(hash, size)) return artifact;
      // What was there is damaged.
      await overwrite({ ...at(hash), Body: bytes, ContentType: mediaType, ChecksumSHA256: base64Of(hash) });
      if (!(await isIntact(hash, size))) {
        throw dataLoss(`artifact:sha256/${hash} is not what was written; check the store ${location}`, {
          metadata: { sha256: hash },
        });
      }
      return artifact;
    },
    async get(uri, sha256) {
      return await read(hashOfReference(uri, sha256));
    },
    async has(sha256) {
      return (await head(checkedHash('sha256', sha256))) !== undefined;
    },
    async remove(uri) {
      try {
        await client.send(new DeleteObjectCommand(at(hashIn(uri))));
      } catch (error) {
        throw toPlumbError(error, location);
      }
    },
  };
}

/** Reads a body into memory of its size and checks the hash on the way: no second pass, and no second copy. */
async function collect(
  body: Readable,
  length: number | undefined,
  hash: string,
  maxBytes: number,
): Promise<Uint8Array> {
  try {
    checkSize(length ?? 0, maxBytes);
  } catch (error) {
    body.destroy();
    throw error;
  }
  if (length === undefined) {
    const parts: Uint8Array[] = [];
    let size = 0;
    for await (const part of body as AsyncIterable<Uint8Array>) {
      checkSize((size += part.length), maxBytes);
      parts.push(part);
    }
    return verified(Buffer.concat(parts), hash);
  }
  const bytes = new Uint8Array(length);
  const digest = createHash('sha256');
  let filled = 0;
  for await (const part of body as AsyncIterable<Uint8Array>) {
    if (filled + part.length > length) break;
    bytes.set(part, filled);
    digest.update(part);
    filled += part.length;
  }
  if (filled < length) {
    throw unavailable(`artifact:sha256/${hash} ended after ${filled} of ${length} bytes; try again`, {
      reason: 'CONNECTION_FAILED',
    });
  }
  // The digest tells without another pass; `verified` words the error where it differs.
  return digest.digest('hex') === hash ? bytes : verified(bytes, hash);
}
