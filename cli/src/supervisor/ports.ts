import { createServer } from 'node:net';
import getPort from 'get-port';
import { PlumbError } from '@plumb/kit/errors';

/** Address that the embedded system listens on: this machine only. */
export const loopback = '127.0.0.1';

/**
 * A port for each name: the one asked for, which must be free, or any free one.
 * @throws PlumbError PORT_IN_USE naming the port, the component and the fix.
 */
export async function choosePorts<Name extends string>(
  names: readonly Name[],
  wanted: Readonly<Partial<Record<Name, number>>>,
): Promise<Record<Name, number>> {
  const ports = new Map<Name, number>();
  for (const name of names) {
    const port = wanted[name];
    if (port === undefined) continue;
    await requireFree(name, port);
    ports.set(name, port);
  }
  for (const name of names) {
    if (!ports.has(name)) ports.set(name, await getPort({ host: loopback, exclude: [...ports.values()] }));
  }
  return Object.fromEntries(ports) as Record<Name, number>;
}

function requireFree(name: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', (error: NodeJS.ErrnoException) => {
      const why = error.code === 'EADDRINUSE' ? 'is busy' : `cannot be used (${error.code ?? error.message})`;
      reject(
        new PlumbError({
          code: 'FAILED_PRECONDITION',
          reason: error.code === 'EADDRINUSE' ? 'PORT_IN_USE' : 'ADDRESS_NOT_AVAILABLE',
          message: `port ${port} for ${name} ${why}; give another with --port ${name}=<port>, or leave it out for a free one`,
          cause: error,
        }),
      );
    });
    server.listen(port, loopback, () => {
      server.close(() => {
        resolve();
      });
    });
  });
}
