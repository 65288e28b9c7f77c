import { PlumbError } from '@plumb/kit/errors';

/** What a check of a deployment came to. */
export interface Finding {
  /** What was looked at, for example `nats` or `reward: clip_score`. */
  readonly subject: string;
  /** `fail`: something does not work. `warn`: it works, and somebody should look. `skip`: it could not be asked from here. */
  readonly result: 'ok' | 'warn' | 'fail' | 'skip';
  /** What was found, in one line. */
  readonly found: string;
  /** What to do about it; present for `warn` and `fail`. */
  readonly fix?: string;
}

/** Looks at one part; whatever goes wrong is a finding of its own. */
export async function look(
  subject: string,
  fix: string,
  check: () => Promise<Finding | readonly Finding[]>,
): Promise<readonly Finding[]> {
  try {
    const found = await check();
    return Array.isArray(found) ? (found as readonly Finding[]) : [found as Finding];
  } catch (thrown) {
    return [{ subject, result: 'fail', found: PlumbError.from(thrown).message, fix }];
  }
}
