/** Exits with 0 when an address answers well: what a container engine asks. `node healthcheck.ts <url>` */

const url = process.argv[2] ?? '';
try {
  const answer = await fetch(url, { signal: AbortSignal.timeout(4000) });
  if (!answer.ok) throw new Error(`it answers ${answer.status}`);
} catch (error) {
  process.stderr.write(`${url}: ${String(error)}\n`);
  process.exitCode = 1;
}
