import type { SpanRecord } from '@plumb/kit/telemetry';

/** Where time goes, in the order in which a sample, and then an iteration, passes through. */
export const stages = [
  'plan',
  'queue',
  'publish',
  'generate',
  'engine',
  'store',
  'score',
  'judge',
  'vlm',
  'ledger',
  'sql',
  'freeze',
  'train',
  'evaluate',
  'gate',
  'promote',
  'samples',
  'rpc',
  'other',
  'untraced',
] as const;
export type Stage = (typeof stages)[number];

const byName: Readonly<Record<string, Stage>> = {
  sample: 'plan',
  iteration: 'plan',
  plan: 'plan',
  'wait for batch': 'queue',
  'wait for plan': 'queue',
  'load model': 'generate',
  'sample batch': 'generate',
  'sample clip': 'generate',
  'ledger batch': 'ledger',
  store: 'store',
  generate: 'generate',
  'generate clip': 'generate',
  score: 'score',
  verdict: 'judge',
  ledger: 'ledger',
  freeze: 'freeze',
  train: 'train',
  'train in a pod': 'train',
  'score batch': 'score',
  register: 'train',
  evaluate: 'evaluate',
  gate: 'gate',
  promote: 'promote',
  refuse: 'promote',
};

/** The stage that a span's own time belongs to. */
export function stageOf(span: SpanRecord): Stage {
  const known = byName[span.name];
  if (known !== undefined) return known;
  const { attributes } = span;
  if (attributes['gen_ai.operation.name'] !== undefined) return 'vlm';
  if (span.service === 'plumb-referee') return 'vlm';
  if (attributes['db.system.name'] !== undefined) return 'sql';
  if (span.name.startsWith('engine ')) return 'engine';
  if (span.name.startsWith('score ')) return 'score';
  const operation = attributes['messaging.operation.type'];
  if (operation === 'receive') return 'queue';
  if (operation === 'send') return 'publish';
  if (operation === 'process') return stageOfService(span.service);
  if (span.name.startsWith('plumb.judge.')) return 'judge';
  return attributes['rpc.system.name'] === undefined ? 'other' : 'rpc';
}

function stageOfService(service: string): Stage {
  switch (service) {
    case 'plumb-generator':
      return 'generate';
    case 'plumb-reward':
      return 'score';
    case 'plumb-loop':
      return 'ledger';
    default:
      return 'other';
  }
}
