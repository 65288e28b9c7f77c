export { checkedRunSpec, isRegisteredVersion, registeredVersion, runSpecSchema } from './run-spec.ts';
export type { CheckedRunSpec, RunSpecInit } from './run-spec.ts';
export { message } from './section-message.ts';
