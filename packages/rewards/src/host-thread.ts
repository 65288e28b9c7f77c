// Entry of the worker form: a reward behind the worker's port.

import { parentPort, workerData } from 'node:worker_threads';
import type { HostOptions, HostRequest } from './host.ts';
import { hostReward } from './host.ts';

const port = parentPort;
if (port !== null) {
  const handler = hostReward(workerData as HostOptions, (reply) => {
    port.postMessage(reply);
  });
  port.on('message', (request: HostRequest) => {
    void handler
      .then((handle) => handle(request))
      .finally(() => {
        if (request.kind === 'close') port.close();
      });
  });
}
