import { createHash } from 'node:crypto';
import { dataLoss, invalidArgument, PlumbError, resourceExhausted } from '@plumb/kit/errors';

/** What is known of stored bytes: enough to fetch and to check them. */
export type StoredArtifact = {
  /** `artifact:sha256/<hash>`: says what, not where, so that a store can move. */
  readonly uri: string;
  /** Lower-case hexadecimal SHA-256 of the bytes. */
  readonly sha256: string;
  /** Bytes. */
  readonly size: number;
  readonly mediaType: string;
};

/** Bytes written once, addressed by their hash, checked on every read. */
export type ArtifactStore = {
  /** Stores bytes and reads them back. Storing the same bytes again is harmless and costs one read. */
  put(bytes: Uint8Array, options: { readonly mediaType: string }): Promise<StoredArtifact>;
  /** The bytes of a URI, verified against their hash. */
  get(uri: string, sha256: string): Promise<Uint8Array>;
  /** Whether bytes of this hash are stored; does not check them. */
  has(sha256: string): Promise<boolean>;
  /**
   * Removes bytes for good; does nothing if they are not there. Equal bytes are stored once, so only the owner of a kind of
   * artifact that nobody else names may remove one: the trainer does, with states to resume from that are superseded.
   */
  remove(uri: string): Promise<void>;
};

/** Largest artifact that a store writes or reads unless told otherwise, in bytes. */
export const largestArtifact: number = 4 * 2 ** 30;

const uriPattern = /^artifact:sha256\/([0-9a-f]{64})$/;
const hashPattern = /^[0-9a-f]{64}$/;
/** type/subtype of RFC 6838, without parameters. */
const mediaTypePattern = /^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}\/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$/i;

/** SHA-256 in lower-case hexadecimal digits. */
export const hashOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** The artifact URI of a hash. */
export function artifactUri(sha256: string): string {
  return `artifact:sha256/${checkedHash('sha256', sha256)}`;
}

/** @throws PlumbError INVALID_ARGUMENT */
export function checkedHash(field: string, sha256: string): string {
  if (!hashPattern.test(sha256)) {
    const shown = JSON.stringify(sha256.slice(0, 80));
    throw invalidArgument(field, `is ${shown}; give 64 lower-case hexadecimal digits`);
  }
  return sha256;
}

/** The hash in a URI of our scheme. Nothing else of a URI is ever used, so that no path can be smuggled in. */
export function hashIn(uri: string): string {
  const hash = uriPattern.exec(uri)?.[1];
  if (hash === undefined) {
    const shown = JSON.stringify(uri.slice(0, 80));
    throw invalidArgument('uri', `is ${shown}; only artifact:sha256/<64 hexadecimal digits> is read`);
  }
  return hash;
}

/** The hash that a URI and a hash beside it agree on. */
export function hashOfReference(uri: string, sha256: string): string {
  const hash = hashIn(uri);
  if (checkedHash('sha256', sha256) !== hash) {
    throw invalidArgument('sha256', `is ${sha256}, but the uri says ${hash}; they must be the same`);
  }
  return hash;
}

/** What these bytes will be known by. @throws PlumbError for a media type that is none, and for too many bytes */
export function describeArtifact(bytes: Uint8Array, mediaType: string, maxBytes: number): StoredArtifact {
  if (!mediaTypePattern.test(mediaType)) {
    throw invalidArgument('mediaType', `is ${JSON.stringify(mediaType.slice(0, 80))}; give type/subtype`);
  }
  checkSize(bytes.length, maxBytes);
  const sha256 = hashOf(bytes);
  return { uri: artifactUri(sha256), sha256, size: bytes.length, mediaType };
}

/** @throws PlumbError RESOURCE_EXHAUSTED */
export function checkSize(size: number, maxBytes: number): void {
  if (size <= maxBytes) return;
  throw resourceExhausted(
    `an artifact of ${size} bytes is over the store's limit of ${maxBytes}; raise the limit or split it`,
  );
}

/** The bytes, if they have this hash. @throws PlumbError DATA_LOSS, reason ARTIFACT_CORRUPT */
export function verified(bytes: Uint8Array, hash: string): Uint8Array {
  const found = hashOf(bytes);
  if (found !== hash) {
    throw dataLoss(
      `artifact:sha256/${hash} is damaged: its ${bytes.length} bytes have the hash ${found}; delete it and make it again`,
      { metadata: { sha256: hash, found } },
    );
  }
  return bytes;
}

/** The error for bytes that a store does not have. */
export function notStored(sha256: string, fix: string, cause: unknown): PlumbError {
  return new PlumbError({
    code: 'NOT_FOUND',
    reason: 'ARTIFACT_NOT_FOUND',
    message: `artifact:sha256/${sha256} is not in the store; ${fix}`,
    metadata: { sha256 },
    cause,
  });
}
