/**
 * An endpoint that always answers the same, after its latency, a process of its own: what is left of a verdict's time is
 * the asker's doing. `GET /last` gives the body of the last question, `GET /latency` how long questions were really held.
 */
import { once } from 'node:events';
import { createServer } from 'node:http';

/** Mean latency of the endpoint. */
export const latencyMs = 500;

/** Its multiples fill an interval evenly. */
const goldenRatio = (Math.sqrt(5) - 1) / 2;

if (import.meta.main) {
  const content = JSON.stringify({
    reason: 'It falls and comes to rest.',
    checks: { motion: true, picture: true },
    failure_mode: 'none',
    accept: true,
  });
  const answer = JSON.stringify({
    id: 'x',
    model: 'toybox-referee',
    choices: [{ index: 0, finish_reason: 'stop', message: { role: 'assistant', content } }],
    usage: { prompt_tokens: 900, completion_tokens: 40, total_tokens: 940 },
  });
  let answers = 0;
  let heldMs = 0;
  let last: readonly Buffer[] = [];
  const server = createServer((request, response) => {
    response.setHeader('content-type', 'application/json');
    if (request.method === 'GET') {
      if (request.url === '/last') response.end(Buffer.concat(last));
      else response.end(JSON.stringify({ meanMs: heldMs / answers }));
      return;
    }
    const body: Buffer[] = [];
    request
      .on('data', (chunk: Buffer) => body.push(chunk))
      .once('end', () => {
        const arrived = performance.now();
        answers += 1;
        last = body;
        // From 0.9 to 1.1 of the mean, evenly: answers of one latency would keep all callers in one crowd for ever, each
        // waiting for the 63 others.
        const spread = 0.9 + 0.2 * ((answers * goldenRatio) % 1);
        setTimeout(() => {
          response.end(answer);
          heldMs += performance.now() - arrived;
        }, latencyMs * spread);
      });
  });
  // A client's pause between two calls must not cost a connection.
  server.keepAliveTimeout = 60_000;
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new TypeError('not listening on a port');
  process.stdout.write(`${JSON.stringify({ address: `127.0.0.1:${address.port}` })}\n`);
}
