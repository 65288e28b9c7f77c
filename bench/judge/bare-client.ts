/**
 * The least that asking takes: one question put again and again by the `openai` package alone, without limits, store,
 * spans or accounts. A process of its own, like the judge; what it is compared with.
 */
import { createInterface } from 'node:readline';
import OpenAI from 'openai';
import type { ChatCompletionCreateParamsNonStreaming } from 'openai/resources/chat/completions';

/** What to do; a line of JSON on standard input. */
export interface BareClientJob {
  readonly baseUrl: string;
  readonly calls: number;
  /** Calls at a time. */
  readonly concurrency: number;
  readonly request: ChatCompletionCreateParamsNonStreaming;
}

/** What was measured; a line of JSON on standard output. */
export interface BareClientFigures {
  readonly callsPerSecond: number;
  /** User and system time of the process. */
  readonly cpuMsPerCall: number;
}

async function work({ baseUrl, calls, concurrency, request }: BareClientJob): Promise<BareClientFigures> {
  const client = new OpenAI({ baseURL: baseUrl, apiKey: 'none', maxRetries: 0, logLevel: 'off' });
  const put = async (count: number): Promise<void> => {
    let left = count;
    await Promise.all(
      Array.from({ length: concurrency }, async () => {
        while (left-- > 0) {
          const { choices } = await client.chat.completions.create(request);
          JSON.parse(choices[0]?.message.content ?? '');
        }
      }),
    );
  };
  // Code is compiled and connections are opened, as with the judge.
  await put(3 * concurrency);
  const [cpu, began] = [process.cpuUsage(), performance.now()];
  await put(calls);
  const seconds = (performance.now() - began) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  return { callsPerSecond: calls / seconds, cpuMsPerCall: (user + system) / 1000 / calls };
}

if (import.meta.main) {
  const say = (line: unknown): boolean => process.stdout.write(`${JSON.stringify(line)}\n`);
  say({ ready: true });
  for await (const line of createInterface({ input: process.stdin })) {
    say(await work(JSON.parse(line) as BareClientJob));
  }
}
