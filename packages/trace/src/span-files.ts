import { createReadStream } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { SpanRecord } from '@plumb/kit/telemetry';

/**
 * Reads the spans of a folder of span files whose line holds one of the texts (all without any). A line that is being
 * written, or was cut off by a kill, is passed over.
 */
export async function* readSpans(
  folder: string,
  texts?: ReadonlySet<string>,
): AsyncGenerator<SpanRecord, void, void> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  for (const name of names.filter((file) => file.endsWith('.jsonl')).toSorted()) {
    // The service deletes its oldest file while we read: what is gone is gone.
    const input = createReadStream(join(folder, name), 'utf8').on('error', () => undefined);
    for await (const line of createInterface({ input, crlfDelay: Infinity })) {
      if (texts !== undefined && !holdsOne(line, texts)) continue;
      const span = parse(line);
      if (span !== undefined) yield span;
    }
  }
}

/** All spans of some traces. */
export async function spansOfTraces(folder: string, traceIds: ReadonlySet<string>): Promise<SpanRecord[]> {
  const found: SpanRecord[] = [];
  if (traceIds.size === 0) return found;
  // Hundreds of ids are looked up in the parsed line, a few in its text, which is quicker.
  const texts = traceIds.size <= 4 ? traceIds : undefined;
  for await (const span of readSpans(folder, texts)) if (traceIds.has(span.traceId)) found.push(span);
  return found;
}

function holdsOne(line: string, texts: ReadonlySet<string>): boolean {
  for (const text of texts) if (line.includes(text)) return true;
  return false;
}

function parse(line: string): SpanRecord | undefined {
  if (!line.endsWith('}')) return undefined;
  try {
    return JSON.parse(line) as SpanRecord;
  } catch {
    // Two processes never share a file, so only the last line of one that was killed can be broken.
    return undefined;
  }
}
