import { signal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { errorText, isAway, isUnknownCaller, signedOut } from '../api.ts';

/** Whether what is shown follows what happens. */
export const connection = signal<'idle' | 'waiting' | 'live'>('idle');

const firstPauseMs = 300;
const longestPauseMs = 5_000;

/**
 * Follows a stream for as long as a view is shown, through restarts of the service. A stream that ends by itself is over.
 * @param open begins the stream; called again after a pause when it broke
 */
export function useStream<Message>(
  key: string,
  open: (signal: AbortSignal) => AsyncIterable<Message>,
  onMessage: (message: Message) => void,
  onError?: (text: string) => void,
): void {
  useEffect(() => {
    const abort = new AbortController();
    void follow(open, onMessage, onError, abort.signal);
    return () => {
      abort.abort();
      connection.value = 'idle';
    };
    // The key stands for what the functions close over.
  }, [key]);
}

async function follow<Message>(
  open: (signal: AbortSignal) => AsyncIterable<Message>,
  onMessage: (message: Message) => void,
  onError: ((text: string) => void) | undefined,
  signal: AbortSignal,
): Promise<void> {
  let pauseMs = firstPauseMs;
  while (!signal.aborted) {
    connection.value = 'waiting';
    try {
      for await (const message of open(signal)) {
        pauseMs = firstPauseMs;
        connection.value = 'live';
        onMessage(message);
      }
      if (!signal.aborted) connection.value = 'idle';
      return;
    } catch (thrown) {
      if (signal.aborted) return;
      connection.value = 'waiting';
      if (!isAway(thrown)) {
        if (isUnknownCaller(thrown)) signedOut.value = true;
        else onError?.(errorText(thrown));
        connection.value = 'idle';
        return;
      }
    }
    await pause(pauseMs, signal);
    pauseMs = Math.min(pauseMs * 2, longestPauseMs);
  }
}

/** Resolves after a time, or at once when the signal aborts. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done, { once: true });
    function done(): void {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    }
  });
}
