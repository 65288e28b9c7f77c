import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import type { DescMessage, DescMethod, MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import { Metadata } from '@grpc/grpc-js';
import { errorCodes } from '../errors/codes.ts';
import { PlumbError } from '../errors/plumb-error.ts';
import { fromStatus, statusFromBytes, statusToBytes, toStatus } from '../errors/status.ts';

/** Metadata key of the serialised google.rpc.Status. Source: grpc.io, "Richer error model". */
const detailsKey = 'grpc-status-details-bin';

/** `/plumb.reward.v1.RewardService/Score` */
export function pathOf(method: DescMethod): string {
  return `/${method.parent.typeName}/${method.name}`;
}

/** Bytes pass through grpc-js as they are, so that a message that does not decode is ours to answer. */
export function sameBytes(bytes: Buffer): Buffer {
  return bytes;
}

/** An init object as bytes. */
export function encode<M extends DescMessage>(schema: M, init: MessageInitShape<M>): Buffer {
  const bytes = toBinary(schema, create(schema, init));
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** @throws PlumbError INVALID_ARGUMENT, reason MESSAGE_UNDECODABLE */
export function decode<M extends DescMessage>(schema: M, bytes: Uint8Array): MessageShape<M> {
  try {
    return fromBinary(schema, bytes);
  } catch (cause) {
    throw new PlumbError({
      code: 'INVALID_ARGUMENT',
      reason: 'MESSAGE_UNDECODABLE',
      message: `the bytes are not a ${schema.typeName}; both sides must use the same proto version`,
      cause,
    });
  }
}

/** grpc-js's StatusObject, with the code as the plain number that it is on the wire. */
interface WireError {
  readonly code: number;
  readonly details: string;
  readonly metadata: Metadata;
}

/** Any thrown thing as what grpc-js sends: numeric code, public message, details. */
export function toWireError(thrown: unknown): WireError {
  const status = toStatus(thrown);
  const metadata = new Metadata();
  metadata.set(detailsKey, Buffer.from(statusToBytes(status)));
  const code: number = status.code;
  return { code, details: status.message, metadata };
}

/** What grpc-js threw as a PlumbError, with its details when the other side sent some. */
export function fromWireError(thrown: unknown): PlumbError {
  if (thrown instanceof Error && 'metadata' in thrown && thrown.metadata instanceof Metadata) {
    const bytes = thrown.metadata.get(detailsKey)[0];
    if (bytes instanceof Buffer) {
      try {
        return fromStatus(statusFromBytes(bytes), thrown);
      } catch {
        // Not a google.rpc.Status: code and text of the trailers still tell what happened.
        return PlumbError.from(thrown);
      }
    }
    // A message over the limit is grpc-js's own error and has no details of ours.
    if (
      'code' in thrown &&
      thrown.code === errorCodes.RESOURCE_EXHAUSTED &&
      /larger than max/i.test(thrown.message)
    ) {
      return new PlumbError({
        code: 'OUT_OF_RANGE',
        reason: 'MESSAGE_TOO_LARGE',
        message: `${'details' in thrown ? String(thrown.details) : thrown.message}; send less at once or by URI`,
        cause: thrown,
      });
    }
  }
  return PlumbError.from(thrown);
}
