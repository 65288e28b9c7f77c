import { PlumbError } from './plumb-error.ts';

/**
 * What went wrong when a server could not take its address, with host, port and the setting that changes it. This is an
 * error of the start of a process: it is shown to the operator and never sent to a caller.
 */
export function listenError(cause: unknown, host: string, port: number, variable: string): PlumbError {
  const text = cause instanceof Error ? `${'code' in cause ? String(cause.code) : ''} ${cause.message}` : '';
  if (text.includes('EADDRINUSE')) {
    return new PlumbError({
      code: 'FAILED_PRECONDITION',
      reason: 'PORT_IN_USE',
      message: `port ${port} on ${host} is in use; stop the other process or set ${variable} to another address (port 0 takes a free one)`,
      metadata: { host, port: String(port) },
      cause,
    });
  }
  if (text.includes('EACCES')) {
    return new PlumbError({
      code: 'PERMISSION_DENIED',
      reason: 'ADDRESS_NOT_AVAILABLE',
      message: `port ${port} on ${host} needs privileges; set ${variable} to a port above 1023`,
      cause,
    });
  }
  return new PlumbError({
    code: 'FAILED_PRECONDITION',
    reason: 'ADDRESS_NOT_AVAILABLE',
    message: `cannot listen on ${host}:${port}; set ${variable} to an address of this machine`,
    cause,
  });
}
