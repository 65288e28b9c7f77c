import type { Finding } from './finding.ts';

const marks = { ok: 'ok  ', warn: 'WARN', fail: 'FAIL', skip: '-   ' } as const;

/** Findings as a person reads them: a line each, and under what is wrong the fix. */
export function findingsText(where: string, findings: readonly Finding[]): string {
  const width = Math.max(...findings.map(({ subject }) => subject.length));
  const lines = findings.flatMap(({ subject, result, found, fix }) => [
    `${marks[result]}  ${subject.padEnd(width)}  ${found}`,
    ...(fix === undefined ? [] : [`${' '.repeat(6 + width)}  → ${fix}`]),
  ]);
  const count = (wanted: Finding['result']): number =>
    findings.filter(({ result }) => result === wanted).length;
  const [failed, warned] = [count('fail'), count('warn')];
  const verdict =
    failed > 0
      ? `${failed} failed, ${warned} to look at.`
      : warned > 0
        ? `Nothing failed; ${warned} to look at.`
        : 'Everything that could be looked at is in order.';
  return [`Looked at ${where}.`, '', ...lines, '', verdict].join('\n');
}
