import { Client, credentials as grpcCredentials, Metadata } from '@grpc/grpc-js';
import { service as definition } from 'grpc-health-check';
import { PlumbError } from '../errors/plumb-error.ts';
import type { ClientCredentials } from '../access/client-credentials.ts';
import { fromWireError } from './wire.ts';

/**
 * What a server says of its health (grpc.health.v1): SERVING, NOT_SERVING, SERVICE_UNKNOWN.
 *
 * @param service empty for the process as a whole
 * @throws PlumbError UNAVAILABLE when nothing answers within `deadlineMs`
 */
export async function healthOf(
  address: string,
  service: string,
  options: { readonly credentials?: ClientCredentials | undefined; readonly deadlineMs?: number } = {},
): Promise<string> {
  const check = definition['Check'];
  if (check === undefined) throw new TypeError('the health service has no method Check');
  const client = new Client(address, options.credentials?.channel ?? grpcCredentials.createInsecure());
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const metadata = new Metadata();
  const token = options.credentials?.token();
  if (token !== undefined) metadata.set('authorization', `Bearer ${token}`);
  client.makeUnaryRequest(
    check.path,
    (request: object) => check.requestSerialize(request),
    (bytes: Buffer) => check.responseDeserialize(bytes) as unknown,
    { service },
    metadata,
    { deadline: Date.now() + (options.deadlineMs ?? 5000) },
    (error, value) => {
      if (error === null) resolve(value);
      else reject(fromWireError(error));
    },
  );
  try {
    const answer = await promise;
    if (typeof answer === 'object' && answer !== null && 'status' in answer) return String(answer.status);
    throw new PlumbError({
      code: 'INTERNAL',
      reason: 'REMOTE_ERROR',
      message: 'the health check has no status',
    });
  } finally {
    client.close();
  }
}
