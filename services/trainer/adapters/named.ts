import { PlumbError } from '@plumb/kit/errors';

/** Says in a storage error what was being read. */
export async function named<T>(what: string, reading: Promise<T>): Promise<T> {
  try {
    return await reading;
  } catch (thrown) {
    const error = PlumbError.from(thrown);
    const { code, reason, message, metadata, retryAfterMs } = error;
    throw new PlumbError({
      code,
      reason,
      message: `${what}: ${message}`,
      metadata,
      retryAfterMs,
      cause: thrown,
    });
  }
}
