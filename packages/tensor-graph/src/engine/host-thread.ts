import { parentPort, workerData } from 'node:worker_threads';
import type { HostRequest } from './host.ts';
import { hostEngine } from './host.ts';
import type { SessionOptions } from './session.ts';

// Entry of the worker form: an engine behind the worker's port.

const port = parentPort;
if (port !== null) {
  const handle = hostEngine(workerData as SessionOptions, (reply, transfer) => {
    port.postMessage(reply, [...transfer]);
  });
  port.on('message', (request: HostRequest) => {
    void handle(request).finally(() => {
      if (request.kind === 'close') port.close();
    });
  });
  port.postMessage({ kind: 'ready' });
}
