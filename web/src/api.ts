import { Code, ConnectError, createClient } from '@connectrpc/connect';
import type { Interceptor } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-web';
import { LabelService } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import { LoopService } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { StudyService } from '@plumb/proto/plumb/loop/v1/study_pb.js';
import { signal } from '@preact/signals';
import { storedToken } from './token.ts';

/** True once the service has said that it does not know who calls. */
export const signedOut = signal(false);

const authorise: Interceptor = (next) => async (request) => {
  const token = storedToken();
  if (token !== undefined) request.header.set('authorization', `Bearer ${token}`);
  try {
    return await next(request);
  } catch (thrown) {
    if (isUnknownCaller(thrown)) signedOut.value = true;
    throw thrown;
  }
};

const transport = createConnectTransport({
  baseUrl: `${location.origin}/api`,
  useBinaryFormat: true,
  interceptors: [authorise],
});

export const loop = createClient(LoopService, transport);
export const labels = createClient(LabelService, transport);
export const studies = createClient(StudyService, transport);

/** What went wrong, for people. */
export function errorText(thrown: unknown): string {
  return ConnectError.from(thrown).rawMessage;
}

/** True when the service does not know who calls. */
export function isUnknownCaller(thrown: unknown): boolean {
  return ConnectError.from(thrown).code === Code.Unauthenticated;
}

/** True when the same call may succeed later: the service or the connection is away. */
export function isAway(thrown: unknown): boolean {
  if (thrown instanceof TypeError) return true;
  const { code } = ConnectError.from(thrown);
  return (
    code === Code.Unavailable ||
    code === Code.Unknown ||
    code === Code.DeadlineExceeded ||
    code === Code.Aborted ||
    code === Code.ResourceExhausted ||
    code === Code.Internal
  );
}
