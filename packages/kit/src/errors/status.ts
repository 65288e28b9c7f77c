import { create, createRegistry, fromBinary, toBinary } from '@bufbuild/protobuf';
import { anyPack, anyUnpack, durationFromMs, durationMs } from '@bufbuild/protobuf/wkt';
import type { Any } from '@bufbuild/protobuf/wkt';
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
} from '@plumb/proto/google/rpc/error_details_pb.js';
import { StatusSchema } from '@plumb/proto/google/rpc/status_pb.js';
import type { Status } from '@plumb/proto/google/rpc/status_pb.js';
import { errorCodeOf, errorCodes } from './codes.ts';
import { reasonOfCode } from './infrastructure.ts';
import { PlumbError } from './plumb-error.ts';
import { isErrorReason } from './reasons.ts';

/** ErrorInfo.domain of every error of the platform. */
export const errorDomain = 'plumb';

/** The types of a status's details: JSON of a message that holds a status needs them. */
export const errorDetails = createRegistry(ErrorInfoSchema, BadRequestSchema, RetryInfoSchema);

/**
 * The public form of an error: code, message, ErrorInfo, and BadRequest and RetryInfo where they apply. The cause stays
 * behind. Source: google/rpc/status.proto and error_details.proto, https://google.aip.dev/193.
 */
export function toStatus(thrown: unknown): Status {
  const error = PlumbError.from(thrown);
  const details: Any[] = [
    anyPack(
      ErrorInfoSchema,
      create(ErrorInfoSchema, { reason: error.reason, domain: errorDomain, metadata: { ...error.metadata } }),
    ),
  ];
  if (error.fieldViolations !== undefined && error.fieldViolations.length > 0) {
    const fieldViolations = error.fieldViolations.map(({ field, description }) => ({ field, description }));
    details.push(anyPack(BadRequestSchema, create(BadRequestSchema, { fieldViolations })));
  }
  if (error.retryAfterMs !== undefined) {
    const retryDelay = durationFromMs(error.retryAfterMs);
    details.push(anyPack(RetryInfoSchema, create(RetryInfoSchema, { retryDelay })));
  }
  return create(StatusSchema, { code: errorCodes[error.code], message: error.message, details });
}

/** The error that a status tells of. Details of other domains keep their metadata and lose their reason. */
export function fromStatus(status: Status, cause?: unknown): PlumbError {
  const code = errorCodeOf(status.code);
  const info = find(status, ErrorInfoSchema);
  const badRequest = find(status, BadRequestSchema);
  const retryDelay = find(status, RetryInfoSchema)?.retryDelay;
  const ours = info?.domain === errorDomain && isErrorReason(info.reason) ? info.reason : undefined;
  return new PlumbError({
    code,
    reason: ours ?? reasonOfCode(code),
    message: status.message,
    fieldViolations: badRequest?.fieldViolations.map(({ field, description }) => ({ field, description })),
    retryAfterMs: retryDelay === undefined ? undefined : durationMs(retryDelay),
    metadata: info?.metadata,
    cause,
  });
}

/** Bytes of `grpc-status-details-bin`. */
export function statusToBytes(status: Status): Uint8Array {
  return toBinary(StatusSchema, status);
}

/** @throws Error when the bytes are no google.rpc.Status */
export function statusFromBytes(bytes: Uint8Array): Status {
  return fromBinary(StatusSchema, bytes);
}

type DetailSchema = typeof ErrorInfoSchema | typeof BadRequestSchema | typeof RetryInfoSchema;

function find<Schema extends DetailSchema>(status: Status, schema: Schema) {
  for (const detail of status.details) {
    const message = anyUnpack(detail, schema);
    if (message !== undefined) return message;
  }
  return undefined;
}
