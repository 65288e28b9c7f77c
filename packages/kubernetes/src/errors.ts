import { ApiException } from '@kubernetes/client-node';
import type { ErrorCode, ErrorReason } from '@plumb/kit/errors';
import { PlumbError } from '@plumb/kit/errors';

type Row = readonly [code: ErrorCode, reason: ErrorReason];

/** What the API server's HTTP status means. Source: k8s.io/apimachinery/pkg/apis/meta/v1, StatusReason. */
const statuses: Readonly<Record<number, Row>> = {
  400: ['INVALID_ARGUMENT', 'INVALID_FIELD'],
  401: ['UNAUTHENTICATED', 'CREDENTIALS_INVALID'],
  403: ['PERMISSION_DENIED', 'ACCESS_DENIED'],
  404: ['NOT_FOUND', 'RESOURCE_NOT_FOUND'],
  405: ['UNIMPLEMENTED', 'METHOD_UNIMPLEMENTED'],
  409: ['ABORTED', 'REVISION_CONFLICT'],
  410: ['OUT_OF_RANGE', 'REVISION_CONFLICT'],
  413: ['INVALID_ARGUMENT', 'MESSAGE_TOO_LARGE'],
  422: ['INVALID_ARGUMENT', 'INVALID_FIELD'],
  429: ['RESOURCE_EXHAUSTED', 'OVERLOADED'],
};

/** Anything that a call of the API server threw. The message is what the server said, which names the object and why. */
export function fromKubernetes(thrown: unknown, doing: string): PlumbError {
  if (thrown instanceof PlumbError) return thrown;
  const status = statusOf(thrown);
  if (status === undefined) {
    const error = PlumbError.from(thrown);
    // Whatever broke before an answer came may be well again later.
    const known = error.reason !== 'UNEXPECTED';
    return new PlumbError({
      code: known ? error.code : 'UNAVAILABLE',
      reason: known ? error.reason : 'CONNECTION_FAILED',
      message: `${doing}: the Kubernetes API server cannot be reached: ${known ? error.message : 'the connection failed'}`,
      cause: thrown,
    });
  }
  const { http, message, exists } = status;
  const [code, reason]: Row = exists
    ? ['ALREADY_EXISTS', 'RESOURCE_EXISTS']
    : (statuses[http] ?? (http >= 500 ? ['UNAVAILABLE', 'CONNECTION_FAILED'] : ['UNKNOWN', 'REMOTE_ERROR']));
  const hint = http === 403 ? '; give the service account that right (docs/kubernetes-training.md)' : '';
  return new PlumbError({
    code,
    reason,
    message: `${doing}: Kubernetes answers ${http}: ${message}${hint}`,
    cause: thrown,
  });
}

interface AnswerStatus {
  readonly http: number;
  readonly message: string;
  /** A create met an object of that name. */
  readonly exists: boolean;
}

function statusOf(thrown: unknown): AnswerStatus | undefined {
  if (thrown instanceof ApiException) {
    const body = parsed(thrown.body);
    const said = typeof body?.['message'] === 'string' ? body['message'] : 'no reason given';
    return { http: thrown.code, message: said.slice(0, 1000), exists: body?.['reason'] === 'AlreadyExists' };
  }
  // What a watch that was refused throws.
  if (thrown instanceof Error && 'statusCode' in thrown && typeof thrown.statusCode === 'number') {
    return { http: thrown.statusCode, message: thrown.message, exists: false };
  }
  return undefined;
}

function parsed(body: unknown): Readonly<Record<string, unknown>> | undefined {
  if (typeof body === 'object' && body !== null) return body as Record<string, unknown>;
  if (typeof body !== 'string') return undefined;
  try {
    const value: unknown = JSON.parse(body);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    // A proxy's page of HTML: the status says enough.
    return undefined;
  }
}

/** True when there is no such object, or no such kind. */
export function isNotFound(thrown: unknown): boolean {
  return fromKubernetes(thrown, '').code === 'NOT_FOUND';
}

/** True when the object has changed since it was read, or another one bears its name. */
export function isConflict(thrown: unknown): boolean {
  const { code } = fromKubernetes(thrown, '');
  return code === 'ABORTED' || code === 'ALREADY_EXISTS';
}

/** True when the server no longer knows the revision that a watch wanted to begin at. */
export function isGone(thrown: unknown): boolean {
  return fromKubernetes(thrown, '').code === 'OUT_OF_RANGE';
}
