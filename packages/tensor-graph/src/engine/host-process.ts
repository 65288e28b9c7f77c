import type { HostReply, HostRequest } from './host.ts';
import { hostEngine } from './host.ts';
import type { SessionOptions } from './session.ts';

// Entry of the process form: an engine behind the channel to the parent process. The options come as JSON in argv.

const send = (reply: HostReply): void => {
  // Without a parent there is nobody to tell.
  if (process.connected) process.send?.(reply);
};
const handle = hostEngine(JSON.parse(process.argv[2] ?? '{}') as SessionOptions, send);
let closing = false;
process.on('message', (request: HostRequest) => {
  closing ||= request.kind === 'close';
  void handle(request).finally(() => {
    if (request.kind === 'close') process.disconnect();
  });
});
// The parent decides when to end: a Ctrl+C in its terminal reaches the whole group and must not cut off its shutdown.
process.on('SIGINT', () => undefined);
// A parent that is gone leaves no orphan behind. An ordinary exit would wait for native work, or abort in the middle of it.
process.on('disconnect', () => {
  if (!closing) process.kill(process.pid, 'SIGKILL');
});
send({ kind: 'ready' });
