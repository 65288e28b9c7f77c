/** Where verdicts are kept. */

import type { StoredVerdict } from './verdict.ts';

/** Verdicts by key. Losing one costs a call and nothing else. */
export interface VerdictStore {
  get(key: string): Promise<StoredVerdict | undefined>;
  put(key: string, verdict: StoredVerdict): Promise<void>;
}
