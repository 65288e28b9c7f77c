import { createHash } from 'node:crypto';
import type { CompareResponse, Verdict } from '@plumb/proto/plumb/judge/v1/judge_pb.js';

/** A verdict for a terminal. */
export function verdictText(verdict: Verdict): string {
  const { answer, usage, cost } = verdict;
  const decision =
    answer.case === 'grade' ? `grade ${answer.value} of 5` : answer.value === true ? 'accepted' : 'rejected';
  const seconds = Number(verdict.endpointTime?.seconds ?? 0n) + (verdict.endpointTime?.nanos ?? 0) / 1e9;
  const lines: [string, string][] = [
    ['judge', `${verdict.judge} ${verdict.judgeVersion}`],
    ['verdict', decision],
    ['P(accept)', verdict.probability === undefined ? 'not told' : verdict.probability.toFixed(3)],
    ['failure', verdict.failureMode],
    ['reason', verdict.reason],
    ...Object.entries(verdict.checks).map(([name, passed]): [string, string] => [
      name,
      passed ? 'passed' : 'failed',
    ]),
    ['model', verdict.model],
    ['votes, calls', `${verdict.votes}, ${verdict.calls}${verdict.cached ? ' (kept from before)' : ''}`],
    ['tokens', `${usage?.inputTokens ?? 0n} in, ${usage?.outputTokens ?? 0n} out`],
    ['price', `${(cost?.amount ?? 0).toFixed(6)} ${cost?.currency ?? ''}`],
    ['endpoint time', `${seconds.toFixed(2)} s`],
    ['rubric', verdict.rubricHash],
    ['judge hash', verdict.judgeHash],
  ];
  if (verdict.calibrationHash !== '') lines.push(['calibration', verdict.calibrationHash]);
  return [columns(lines), ...verdict.members.map((member) => `\n${verdictText(member)}`)].join('\n');
}

/** A preference for a terminal. */
export function preferenceText(judge: string, response: CompareResponse): string {
  const { firstPreferred, usage, cost } = response;
  return columns([
    ['judge', `${judge} ${response.judgeVersion}`],
    ['better', firstPreferred === 0.5 ? 'neither' : firstPreferred > 0.5 ? 'the first' : 'the second'],
    ['P(first)', firstPreferred.toFixed(3)],
    ['reason', response.reason],
    ['model', response.model],
    ['calls', `${response.calls}${response.cached ? ' (kept from before)' : ''}`],
    ['tokens', `${usage?.inputTokens ?? 0n} in, ${usage?.outputTokens ?? 0n} out`],
    ['price', `${(cost?.amount ?? 0).toFixed(6)} ${cost?.currency ?? ''}`],
    ['rubric', response.rubricHash],
    ['judge hash', response.judgeHash],
  ]);
}

function columns(lines: readonly (readonly [string, string])[]): string {
  return lines
    .filter(([, value]) => value !== '')
    .map(([name, value]) => `${name.padEnd(14)} ${value}`)
    .join('\n');
}

/** The body of a call for people: indented, with every picture replaced by its size and hash. */
export function bodyText(body: string): string {
  const shown: unknown = JSON.parse(body, (_, value: unknown) => {
    if (typeof value !== 'string') return value;
    const [, type, base64] = /^data:([a-z/]+);base64,(.*)$/.exec(value) ?? [];
    if (base64 === undefined) return value;
    const bytes = Buffer.from(base64, 'base64');
    const hash = createHash('sha256').update(bytes).digest('hex').slice(0, 16);
    return `data:${type};base64,<${bytes.length} bytes, SHA-256 ${hash}...>`;
  });
  return JSON.stringify(shown, undefined, 2);
}
