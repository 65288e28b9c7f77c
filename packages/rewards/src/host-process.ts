// Entry of the process form: a reward behind the channel to the parent process. The options come as JSON in argv.

import type { HostOptions, HostReply, HostRequest } from './host.ts';
import { hostReward } from './host.ts';

const send = (reply: HostReply): void => {
  // Without a parent there is nobody to tell.
  if (process.connected) process.send?.(reply);
};
const handler = hostReward(JSON.parse(process.argv[2] ?? '{}') as HostOptions, send);
let closing = false;
process.on('message', (request: HostRequest) => {
  closing ||= request.kind === 'close';
  void handler
    .then((handle) => handle(request))
    .finally(() => {
      if (request.kind === 'close') process.disconnect();
    });
});
// The parent decides when to end: a Ctrl+C in its terminal reaches the whole group.
process.on('SIGINT', () => undefined);
// A parent that is gone leaves no orphan behind. An ordinary exit would wait for native work.
process.on('disconnect', () => {
  if (!closing) process.kill(process.pid, 'SIGKILL');
});
